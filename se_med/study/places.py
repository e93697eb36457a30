"""Where a study is, who owns it, how it is asked to stop, and readable names for its runs."""

from __future__ import annotations

import fcntl
import logging
import os
import signal
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Any

from se_med.errors import UsageError
from se_med.io.atomic import sweep_temporaries
from se_med.study.arms import Study
from se_med.study.runs import Run
from se_med.training.interruption import InterruptedRunError

log = logging.getLogger(__name__)

RUNS = "runs"
"""Folder of the runs, beside the folders of the studies."""


@dataclass(frozen=True)
class Places:
    """Where a study is.

    Attributes:
        folder: the study folder.
        runs: folder of all runs.
    """

    folder: Path
    runs: Path

    @classmethod
    def of(cls, study: Study, studies: Path | None) -> Places:
        """Return the places of a study in the folder given, in that of its file, or in ``studies`` of the current folder."""
        root = studies or study.config.output or Path("studies")
        if study.config.name == RUNS:
            raise UsageError(f"name: a study cannot be called {RUNS!r}, which is the folder of all runs; give it another name")
        return cls(root / (study.config.name or "study"), root / RUNS)

    @property
    def stop(self) -> Path:
        """A file whose existence asks all jobs of the study to stop."""
        return self.folder / ".stop"


@contextmanager
def claim(places: Places) -> Iterator[None]:
    """Make the folders and own the study until the block ends.

    Raises:
        UsageError: another process works on the study, or its folder cannot be written.
    """
    try:
        places.folder.mkdir(parents=True, exist_ok=True)
        places.runs.mkdir(exist_ok=True)
        lock = (places.folder / ".lock").open("a+", encoding="utf-8")
    except OSError as error:
        raise UsageError(f"{places.folder}: cannot be written ({error.strerror}); choose another with --studies") from None
    with lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise UsageError(f"{places.folder}: another process works on this study; wait for it or stop it") from None
        sweep_temporaries(places.folder)
        sweep_temporaries(places.runs)
        yield


class Stop:
    """Turns the first SIGINT or SIGTERM into a file that asks all jobs to stop; a second one acts at once."""

    def __init__(self, places: Places) -> None:
        self.places = places
        self.file = places.stop
        self.signum = 0
        self._before: dict[int, Any] = {}

    def __enter__(self) -> Stop:
        self.file.unlink(missing_ok=True)
        for number in (signal.SIGINT, signal.SIGTERM):
            self._before[number] = signal.signal(number, self._handle)
        return self

    def __exit__(self, *details: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)
        self.file.unlink(missing_ok=True)

    def _handle(self, signum: int, frame: FrameType | None) -> None:
        if self.signum:
            raise InterruptedRunError("interrupted twice: left without waiting for checkpoints", signum)
        self.signum = signum
        with suppress(OSError):  # a full disk; signals reach the processes of the runs all the same when this one leaves
            self.file.touch()
        log.info("stopping: every run writes a checkpoint first")

    def refuse(self) -> None:
        """Leave when a signal has asked to.

        Raises:
            InterruptedRunError: one has.
        """
        if self.signum:
            raise InterruptedRunError(f"{self.places.folder}: interrupted; the same command goes on from there", self.signum)


def link_runs(runs: Sequence[Run], places: Places) -> None:
    """Give each run a readable name in the study folder: a relative link ``runs/ARM/fold-0_seed-1``."""
    for run in runs:
        link = places.folder / "runs" / run.arm / f"fold-{run.fold}_seed-{run.seed}"
        link.parent.mkdir(parents=True, exist_ok=True)
        target = Path(os.path.relpath(places.runs / run.key, link.parent))
        if link.is_symlink() and link.readlink() == target:
            continue
        link.unlink(missing_ok=True)
        if (places.runs / run.key).exists():
            link.symlink_to(target)
