"""Matched batches, repeatable weights, and resuming as if nothing had happened."""

import logging
import os
import signal
import subprocess
import sys
from contextlib import contextmanager

import pytest
import torch

from se_med.errors import UsageError
from se_med.training.checkpoint import load_checkpoint
from se_med.training.interruption import InterruptedRunError


def signal_at(step: int, signum: int):
    """A progress display that sends this process a signal when a step is done."""

    @contextmanager
    def progress(description, total):
        def advance(done, note):
            if description == "training" and done == step:
                os.kill(os.getpid(), signum)

        yield advance

    return progress


def test_equal_configurations_give_equal_weights(train):
    first, second = train("first"), train("second")
    assert first.weights == second.weights
    assert first.rows == second.rows


def test_attention_does_not_change_the_batches(train):
    digests = {train(f"with-{name}", f"attention={name}").digest for name in ("null", "cse", "scse")}
    assert len(digests) == 1
    assert train("residual", "network.unit=residual", "network.features=[6,12]").digest in digests


@pytest.mark.parametrize(
    "change",
    ["seed=1", "training.patch=[16,16,20]", "augmentation.noise.probability=0.9", "training.foreground=0.1", "data.fold=1"],
)
def test_whatever_changes_the_batches_changes_the_digest(train, change):
    assert train("changed", change).digest != train("small").digest


@pytest.mark.parametrize("workers", [1, 3])
def test_workers_change_nothing(train, workers):
    alone, helped = train("alone"), train("helped", f"training.workers={workers}")
    assert helped.digest == alone.digest
    assert helped.weights == alone.weights


@pytest.mark.parametrize(("signum", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
@pytest.mark.parametrize("step", [1, 3, 4, 7, 8], ids=lambda step: f"step{step}")
def test_interrupted_run_resumes_to_the_same_end(train, step, signum, code):
    options = ["network.dropout=0.2", "training.ema=0.9", f"training.optimizer={'muon' if step == 3 else 'adamw'}"]
    whole = train("whole", *options)
    before = signal.getsignal(signum)
    with pytest.raises(InterruptedRunError, match=f"after step {step} of 8; --resume") as caught:
        train("parted", *options, progress=signal_at(step, signum))
    assert caught.value.exit_code == code
    assert signal.getsignal(signum) is before
    parted = train("parted", *options, resume=True)
    assert parted.weights == whole.weights
    assert parted.rows == whole.rows
    assert parted.cases == whole.cases
    assert parted.digest == whole.digest


def test_run_interrupted_twice_resumes_to_the_same_end(train):
    whole = train("whole", "training.accumulate=2")
    for step in (2, 5):
        with pytest.raises(InterruptedRunError):
            train("parted", "training.accumulate=2", resume=True, progress=signal_at(step, signal.SIGTERM))
    assert train("parted", "training.accumulate=2", resume=True).weights == whole.weights


def test_resuming_with_another_configuration_is_refused(train):
    with pytest.raises(InterruptedRunError):
        train("run", progress=signal_at(3, signal.SIGTERM))
    with pytest.raises(UsageError, match=r"training\.learning_rate.*differ"):
        train("run", "training.learning_rate=0.5", resume=True)


def test_resuming_with_other_threads_warns_and_goes_on(train, caplog):
    with pytest.raises(InterruptedRunError):
        train("run", progress=signal_at(3, signal.SIGTERM))
    logging.getLogger("se_med").propagate = True
    with caplog.at_level(logging.WARNING, logger="se_med"):
        train("run", "training.threads=2", resume=True)
    assert any("threads is 2, but the run was started with 1" in record.message for record in caplog.records)


def test_process_is_left_as_it_was(train):
    """Threads, and arithmetic: with denormals flushed, SciPy's k-d trees recurse without end."""
    torch.set_num_threads(2)
    train("run")
    assert torch.get_num_threads() == 2
    torch.set_num_threads(1)
    assert float(torch.tensor(1e-40) * 0.5) > 0


def test_checkpoint_holds_what_the_numbers_depend_on(train, tmp_path):
    with pytest.raises(InterruptedRunError):
        train("run", progress=signal_at(5, signal.SIGTERM))
    state = load_checkpoint(tmp_path / "runs" / "run" / "checkpoints" / "last.ckpt")
    assert state.step == 5
    assert {"threads", "precision", "deterministic", "torch"} <= state.environment.keys()


@pytest.mark.slow
def test_two_processes_train_on_the_stream_of_one(small_config, tmp_path, train):
    alone = train("alone", "training.validations=2")
    command = [sys.executable, "-m", "se_med", "train", str(small_config), "name=pair", "training.processes=2"]
    subprocess.run([*command, "--runs", str(tmp_path / "runs")], check=True, capture_output=True, timeout=300)
    pair = type(alone)(tmp_path / "runs" / "pair")
    assert [row["stream_digest"] for row in pair.rows] == [row["stream_digest"] for row in alone.rows]
    cases = [line.split(",")[:2] for line in pair.cases.splitlines()]
    assert cases == [line.split(",")[:2] for line in alone.cases.splitlines()]
    assert pair.rows[0]["mean_dice"] != ""


@pytest.mark.slow
def test_terminated_process_exits_with_143_and_leaves_no_worker(small_config, tmp_path):
    command = [sys.executable, "-m", "se_med", "train", str(small_config), "training.steps=4000", "training.workers=2"]
    process = subprocess.Popen([*command, "--runs", str(tmp_path)], stderr=subprocess.PIPE, text=True, start_new_session=True)
    for line in process.stderr:
        if line.startswith("step"):
            break
    process.send_signal(signal.SIGTERM)
    rest = process.stderr.read()
    assert process.wait(timeout=60) == 143
    assert "--resume goes on from there" in rest
    with pytest.raises(ProcessLookupError):
        os.killpg(process.pid, 0)
