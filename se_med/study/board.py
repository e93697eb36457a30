"""What a study is doing right now: read from the run folders, so that it is the same wherever the runs are made."""

from __future__ import annotations

import csv
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from se_med.study.runs import Run

State = Literal["waiting", "running", "finished", "failed", "stopped"]


@dataclass
class Entry:
    """One run on the board.

    Attributes:
        run: the run.
        state: what is known of it.
        step: optimiser steps made, as far as its table says.
        dice: last validation Dice; None before the first.
        note: why it failed.
    """

    run: Run
    state: State = "waiting"
    step: int = 0
    dice: float | None = None
    note: str = ""


@dataclass
class Board:
    """All runs of a study with their states.

    Attributes:
        runs_folder: where the run folders are.
        entries: a row for each run.
        begin: when the study was started or went on, in seconds since 1970.
    """

    runs_folder: Path
    entries: list[Entry]
    begin: float = field(default_factory=time.time)

    @classmethod
    def of(cls, runs: Sequence[Run], runs_folder: Path) -> Board:
        """Return the board of runs that nothing is known of yet."""
        return cls(runs_folder, [Entry(run) for run in runs])

    def tell(self, key: str, state: State, note: str = "") -> None:
        """Take note of what became of a run."""
        for entry in self.entries:
            if entry.run.key == key:
                entry.state, entry.note = state, note
                if state == "finished":
                    self._read(entry)

    def refresh(self) -> None:
        """Look at the folders of the runs that may be going on."""
        for entry in self.entries:
            if entry.state not in ("waiting", "running"):
                continue
            with suppress(OSError):
                if (self.runs_folder / entry.run.key / "log.txt").stat().st_mtime > self.begin:
                    entry.state = "running"
                    self._read(entry)

    def count(self, state: State) -> int:
        """Return how many runs are in a state."""
        return sum(entry.state == state for entry in self.entries)

    def _read(self, entry: Entry) -> None:
        folder = self.runs_folder / entry.run.key
        with suppress(OSError, ValueError, KeyError):
            with (folder / "metrics.csv").open(encoding="utf-8", newline="") as file:
                rows = list(csv.DictReader(file))
            if rows:
                entry.step = int(rows[-1]["step"])
            scores = [row["mean_dice"] for row in rows if row.get("mean_dice")]
            entry.dice = float(scores[-1]) if scores else entry.dice
        with suppress(OSError, ValueError, KeyError, TypeError):
            import json

            if entry.state == "finished":
                entry.dice = float(json.loads((folder / "validation" / "summary.json").read_text())["mean_dice"])
