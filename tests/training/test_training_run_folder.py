"""Who may write a run folder, and when."""

import subprocess
import sys

import pytest

from se_med.errors import UsageError
from se_med.training.run_folder import RunFolder


def test_finished_run_is_never_overwritten(tmp_path):
    run = RunFolder(tmp_path / "run")
    with run.claim(resume=False):
        run.config.write_text("name: run\n")
        run.provenance.write_text("{}")
    for resume in (False, True):
        with pytest.raises(UsageError, match="finished"), run.claim(resume=resume):
            pass


def test_interrupted_run_asks_for_resume(tmp_path):
    run = RunFolder(tmp_path / "run")
    with run.claim(resume=False):
        run.config.write_text("name: run\n")
        run.checkpoint.write_bytes(b"x")
    with pytest.raises(UsageError, match="--resume"), run.claim(resume=False):
        pass
    with run.claim(resume=True):
        pass


def test_run_left_before_its_first_checkpoint_starts_again(tmp_path):
    run = RunFolder(tmp_path / "run")
    with run.claim(resume=False):
        run.config.write_text("name: run\n")
    with run.claim(resume=False):
        pass


def test_second_owner_is_refused_while_the_first_lives(tmp_path):
    script = (
        "import sys, pathlib; from se_med.training.run_folder import RunFolder\n"
        "with RunFolder(pathlib.Path(sys.argv[1])).claim(resume=False):\n"
        "    print('claimed', flush=True); sys.stdin.read()\n"
    )
    path = tmp_path / "run"
    owner = subprocess.Popen([sys.executable, "-c", script, str(path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    try:
        assert owner.stdout.readline() == "claimed\n"
        with pytest.raises(UsageError, match=f"process {owner.pid} is writing"), RunFolder(path).claim(resume=False):
            pass
    finally:
        owner.kill()
        owner.wait()
        owner.stdin.close()
        owner.stdout.close()
    with RunFolder(path).claim(resume=False):
        pass


def test_temporaries_of_a_killed_run_are_swept(tmp_path):
    run = RunFolder(tmp_path / "run")
    with run.claim(resume=False):
        run.config.write_text("name: run\n")
    script = (
        "import sys, os, signal, pathlib; from se_med.io.atomic import replacing\n"
        "with replacing(pathlib.Path(sys.argv[1])) as temporary:\n"
        "    temporary.write_bytes(b'half'); os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    subprocess.run([sys.executable, "-c", script, str(run.checkpoint)], check=False)
    assert len(list(run.checkpoint.parent.iterdir())) == 1
    with run.claim(resume=False):
        assert not list(run.checkpoint.parent.iterdir())


def test_file_in_the_place_of_the_folder(tmp_path):
    (tmp_path / "run").write_text("x")
    with pytest.raises(UsageError, match="is a file"), RunFolder(tmp_path / "run").claim(resume=False):
        pass


def test_run_that_never_began_leaves_nothing(tmp_path):
    run = RunFolder(tmp_path / "run")
    with pytest.raises(ValueError, match="bad data"), run.claim(resume=False):
        raise ValueError("bad data")
    assert not run.path.exists()
