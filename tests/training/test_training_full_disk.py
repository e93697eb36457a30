"""A disk that is full, or a folder that may only be read, while a run is written."""

import errno
import os
import resource
from pathlib import Path

import pytest
import torch

from se_med.errors import RunError
from se_med.training.checkpoint import TrainingState, load_checkpoint, save_checkpoint
from se_med.training.run_folder import RunFolder

FULL = Path("/dev/full")
needs_full = pytest.mark.skipif(not FULL.exists(), reason="needs /dev/full, a file that is always full")


@pytest.mark.parametrize("limit", [100, 5000, 100_000, 390_000])
def test_a_checkpoint_that_finds_no_room_leaves_the_one_before(tmp_path, limit):
    path = tmp_path / "last.ckpt"
    save_checkpoint(path, TrainingState(step=3, network={"weight": torch.randn(100_000)}))
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, before[1]))  # the system refuses to write on, wherever it is
    try:
        with pytest.raises(RunError, match=r"last\.ckpt: cannot be written: File too large; check the folder, its free space"):
            save_checkpoint(path, TrainingState(step=4, network={"weight": torch.randn(100_000)}))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert load_checkpoint(path).step == 3
    assert list(tmp_path.iterdir()) == [path]


@needs_full
def test_a_log_that_cannot_be_written_stops_nothing(train, tmp_path, capfd):
    run = tmp_path / "runs" / "run"
    run.mkdir(parents=True)
    (run / "log.txt").symlink_to(FULL)
    assert train("run", "training.steps=2").provenance["steps"] == 2
    assert "Logging error" not in capfd.readouterr().err


@needs_full
def test_a_lock_that_cannot_be_written_is_held(tmp_path):
    run = tmp_path / "run"
    run.mkdir()
    (run / ".lock").symlink_to(FULL)
    with RunFolder(run).claim(resume=False):
        assert (run / "checkpoints").is_dir()


def test_a_run_that_never_began_and_cannot_be_removed_says_why_it_failed(tmp_path, monkeypatch):
    def refuse(path, **options):
        raise PermissionError(errno.EACCES, "Permission denied", str(path))

    monkeypatch.setattr(os, "rmdir", refuse)
    with pytest.raises(RunError, match="the reason"), RunFolder(tmp_path / "run").claim(resume=False):
        raise RunError("the reason")
