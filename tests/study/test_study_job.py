"""Jobs in processes of their own: answers, stopping with a checkpoint, and what is said of one that dies."""

import errno
import os
import signal
import subprocess
import threading
import time
from dataclasses import replace
from pathlib import Path

import pytest

from se_med.study.arms import load_study
from se_med.study.child import do
from se_med.study.job import End, work_apart
from se_med.study.planning import plan_study
from se_med.study.runs import make_runs
from se_med.study.steps import make_job


@pytest.fixture
def make(write_study, tmp_path):
    """``make("training.steps=4")`` returns the job of the first run."""

    def job(*overrides, kind="train"):
        study = load_study(write_study(), overrides)
        run = make_runs(plan_study(study).arms, [0], 1)[0]
        return make_job(kind, run, tmp_path / "runs" / run.key, tmp_path / ".stop")

    return job


def wait_for(path: Path, seconds: float = 120) -> None:
    deadline = time.monotonic() + seconds
    while not path.exists():
        assert time.monotonic() < deadline, f"{path} did not appear"
        time.sleep(0.1)


def weights(job) -> bytes:
    return (Path(job.folder) / "model.safetensors").read_bytes()


def test_job_that_is_asked_to_stop_leaves_a_checkpoint_and_goes_on(make, tmp_path):
    job = make("training.steps=3000", "training.validations=1")
    ends = []
    thread = threading.Thread(target=lambda: ends.append(work_apart(job)))
    thread.start()
    wait_for(Path(job.folder) / "metrics.csv")
    (tmp_path / ".stop").touch()
    thread.join()
    assert ends[0].status == "stopped", ends[0].error
    assert "interrupted after step" in ends[0].error
    assert (Path(job.folder) / "checkpoints" / "last.ckpt").exists()
    assert not (Path(job.folder) / "provenance.json").exists()
    assert work_apart(job) == End("stopped")  # at once: nothing is started while the file is there


@pytest.mark.slow
def test_job_ends_as_in_this_process_and_survives_kills(make, tmp_path):
    job = make("training.steps=60", "training.checkpoint_minutes=0.001")
    alone = replace(job, folder=str(tmp_path / "runs" / "alone"))
    assert do(alone).status == "finished"
    ends = []
    thread = threading.Thread(target=lambda: ends.append(work_apart(job)))
    thread.start()
    wait_for(Path(job.folder) / "checkpoints" / "last.ckpt")
    child = int((Path(job.folder) / ".lock").read_text())
    os.kill(child, signal.SIGKILL)
    thread.join()
    assert ends[0].status == "failed"
    assert "SIGKILL" in ends[0].error
    assert work_apart(job).status == "finished"
    assert weights(job) == weights(alone)


@pytest.mark.slow
def test_job_leaves_when_its_worker_dies(make, tmp_path):
    job = make("training.steps=3000", "training.validations=1")
    script = (
        f"import pickle; from se_med.study.job import work_apart; work_apart(pickle.load(open({str(tmp_path / 'job')!r}, 'rb')))"
    )
    import pickle
    import sys

    (tmp_path / "job").write_bytes(pickle.dumps(job))
    worker = subprocess.Popen([sys.executable, "-c", script])
    wait_for(Path(job.folder) / "metrics.csv")
    child = int((Path(job.folder) / ".lock").read_text())
    worker.kill()
    worker.wait()
    deadline = time.monotonic() + 60
    while Path(f"/proc/{child}").exists() and time.monotonic() < deadline:
        time.sleep(0.1)
    assert not Path(f"/proc/{child}").exists()
    assert (Path(job.folder) / "checkpoints" / "last.ckpt").exists()


def test_errors_are_one_line(make):
    job = make("training.steps=8", "training.learning_rate=1e30", "training.gradient_clip=null", "training.schedule=constant")
    end = do(job)
    assert end.status == "failed"
    assert "loss is" in end.error
    assert "\n" not in end.error


def test_a_trial_leaves_nothing_and_says_when_the_disk_is_full(make, tmp_path, monkeypatch):
    def full(config, run, **details):
        (run.path / "plan.json").touch()
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("se_med.study.work.gather", full)
    job = make(kind="trial")
    end = do(job)
    assert end.status == "failed"
    assert end.error.endswith("cannot be written: No space left on device; check the folder and its free space")
    assert not list(Path(job.folder).iterdir())
