"""The run folder: what is stored where, who owns it, and whether it may be written."""

from __future__ import annotations

import fcntl
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from se_med.errors import UsageError
from se_med.io.atomic import sweep_temporaries


@dataclass(frozen=True)
class RunFolder:
    """Paths inside ``runs/<name>/``."""

    path: Path

    @property
    def config(self) -> Path:
        """The effective, complete configuration."""
        return self.path / "config.yaml"

    @property
    def plan(self) -> Path:
        """The plan made from the data."""
        return self.path / "plan.json"

    @property
    def split(self) -> Path:
        """The folds, as used."""
        return self.path / "split.json"

    @property
    def weights(self) -> Path:
        """Weights for inference; the last file of a finished run."""
        return self.path / "model.safetensors"

    @property
    def checkpoint(self) -> Path:
        """The checkpoint to resume from."""
        return self.path / "checkpoints" / "last.ckpt"

    @property
    def metrics(self) -> Path:
        """One row per epoch."""
        return self.path / "metrics.csv"

    @property
    def curves(self) -> Path:
        """Loss and validation Dice as a picture."""
        return self.path / "curves.png"

    @property
    def cases(self) -> Path:
        """Scores of the validation cases after the last step."""
        return self.path / "validation" / "cases.csv"

    @property
    def summary(self) -> Path:
        """Means over the validation cases after the last step."""
        return self.path / "validation" / "summary.json"

    @property
    def provenance(self) -> Path:
        """Versions, digests, seed, threads, times."""
        return self.path / "provenance.json"

    @property
    def tracking(self) -> Path:
        """What the logs of the trackers are called; only where there are trackers."""
        return self.path / "tracking.json"

    @property
    def log(self) -> Path:
        """What was said while the run went on."""
        return self.path / "log.txt"

    @property
    def finished(self) -> bool:
        """Whether the run has come to its end."""
        return self.provenance.exists()

    @contextmanager
    def claim(self, *, resume: bool) -> Iterator[None]:
        """Make the folder ready for training and own it until the block ends.

        The lock is the kernel's, so it never outlives its owner. A folder that was left before its first checkpoint holds
        nothing worth keeping and is started again.

        Raises:
            UsageError: the run is finished, belongs to a running process, cannot be written, or was interrupted and ``resume``
                is not set.
        """
        self.refuse(resume=resume)
        existed = self.path.exists()
        try:
            self.checkpoint.parent.mkdir(parents=True, exist_ok=True)
            self.cases.parent.mkdir(exist_ok=True)
            lock = (self.path / ".lock").open("a+", encoding="utf-8")
        except OSError as error:
            raise UsageError(f"{self.path}: cannot be written ({error.strerror}); choose another folder with --runs") from None
        with lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError:
                lock.seek(0)
                owner = lock.read().strip() or "unknown"
                raise UsageError(f"{self.path}: process {owner} is writing this run; wait for it or stop it") from None
            self.refuse(resume=resume)
            with suppress(OSError):  # a full disk; the number is only told to others, the lock is held without
                os.ftruncate(lock.fileno(), 0)
                os.write(lock.fileno(), str(os.getpid()).encode())
            for folder in (self.path, self.checkpoint.parent, self.cases.parent):
                sweep_temporaries(folder)
            try:
                yield
            finally:
                if not existed and not self.config.exists():
                    # The run never began, so it leaves nothing behind.
                    shutil.rmtree(self.path, ignore_errors=True)

    def refuse(self, *, resume: bool) -> None:
        """Tell whether the folder can be trained in, as `claim` does first; nothing is written and nothing heavy imported.

        Raises:
            UsageError: it is a file, the run is finished, or it was interrupted and ``resume`` is not set.
        """
        if self.path.exists() and not self.path.is_dir():
            raise UsageError(f"{self.path}: is a file, a run folder cannot be made there; give another name (name=...)")
        if self.finished:
            raise UsageError(f"{self.path}: this run is finished; give another name (name=...) or remove the folder")
        if self.checkpoint.exists() and not resume:
            raise UsageError(f"{self.path}: this run was interrupted; add --resume to go on, or give another name (name=...)")
