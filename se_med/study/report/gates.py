"""What the gates of each arm do, on a few cases that its first run held out: whether they depend on the input at all."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from se_med.data.folds import read_split
from se_med.data.layouts import find_dataset
from se_med.errors import SeMedError
from se_med.explain.collect import collect_case, find_watched
from se_med.explain.report.write import statistics_row
from se_med.explain.statistics import gate_statistics, with_parts
from se_med.inference.predictor import Predictor
from se_med.progress import Progress, silent
from se_med.study.tables import RunRow, Tables
from se_med.training.run_folder import RunFolder

log = logging.getLogger(__name__)

MOST_CASES = 5
"""Cases that are watched: enough to see whether gates depend on the input, few enough not to matter in a study."""


@dataclass(frozen=True)
class ArmGates:
    """The gates of one arm.

    Attributes:
        arm: its name.
        fold: fold of the run that was watched.
        seed: its seed.
        cases: number of cases.
        rows: one per gate and part of a gate, as `statistics_row` gives them.
    """

    arm: str
    fold: int
    seed: int
    cases: int
    rows: tuple[dict[str, Any], ...]


def watch_arms(folder: Path, tables: Tables, progress: Progress = silent) -> tuple[list[ArmGates], str]:
    """Watch the gates of the first finished run of each arm.

    Args:
        folder: the study folder.
        tables: its tables.
        progress: told of the arms.

    Returns:
        The arms with gates, and why some are missing: one line, empty where none is.
    """
    runs: dict[str, RunRow] = {}
    for run in sorted(tables.runs, key=lambda run: (run.fold, run.seed)):
        if run.status == "finished":
            runs.setdefault(run.arm, run)
    found: list[ArmGates] = []
    with progress("gates", len(runs)) as advance:
        for number, (arm, run) in enumerate(runs.items(), 1):
            try:
                watched = _watch(RunFolder(folder / run.folder), run)
            except (SeMedError, OSError) as error:
                log.warning("warning: the gates of %s could not be watched: %s", arm, error)
                return found, f"Gates were not watched from {arm} on: {error}"
            if watched is not None:
                found.append(watched)
            advance(number, arm)
    return found, ""


def _watch(run_folder: RunFolder, run: RunRow) -> ArmGates | None:
    predictor = Predictor.load(run_folder.path, device="cpu")
    gates = find_watched(predictor)
    if not gates:
        return None
    names = [name for fold in read_split(run_folder.path / "split.json") for name in fold.validation][:MOST_CASES]
    dataset = find_dataset(predictor.config.data)
    cases = [dataset.case(name) for name in names]
    records = [collect_case(predictor, case.name, case.images, case.label) for case in cases]
    statistics = [gate_statistics(gate, records) for gate in gates]
    rows = tuple(statistics_row(with_parts(one, statistics)) for one in statistics)
    return ArmGates(run.arm, run.fold, run.seed, len(records), rows)
