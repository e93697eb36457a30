"""Learning curves of a study: what the runs' ``metrics.csv`` say, averaged over folds, with the spread of the seeds."""

from __future__ import annotations

import csv
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np

from se_med.study.tables import RunRow
from se_med.training.early_stopping import SELECTION
from se_med.training.run_folder import RunFolder

Quantity = Literal["loss", "dice"]
Points = dict[int, float]


@dataclass(frozen=True)
class Curve:
    """One quantity of one arm against steps.

    Attributes:
        quantity: "loss" of training, or mean "dice" of the held-out cases.
        steps: optimiser steps.
        mean: mean over folds and seeds.
        low: least mean over folds of a seed.
        high: greatest.
    """

    quantity: Quantity
    steps: tuple[int, ...]
    mean: tuple[float, ...]
    low: tuple[float, ...]
    high: tuple[float, ...]


def read_curves(
    folder: Path, runs: Iterable[RunRow], last: Mapping[str, Mapping[int, Mapping[int, float]]]
) -> dict[str, list[Curve]]:
    """Read the curves of all arms.

    Args:
        folder: the study folder.
        runs: its runs.
        last: mean Dice after the last step by arm, fold and seed, which ``metrics.csv`` does not have.

    Returns:
        The curves of each arm that has any.
    """
    found: dict[str, dict[Quantity, list[tuple[int, Points]]]] = {}
    for run in runs:
        path = RunFolder(folder / run.folder).metrics
        if run.status != "finished" or not path.exists():
            continue
        with path.open(newline="", encoding="utf-8") as file:
            rows = list(csv.DictReader(file))
        loss, dice = _points(rows, "loss"), _points(rows, "mean_dice")
        end = last.get(run.arm, {}).get(run.fold, {}).get(run.seed)
        if end is not None and run.steps and not _points(rows, f"{SELECTION}mean_dice"):
            dice[run.steps] = end
        quantities = found.setdefault(run.arm, {"loss": [], "dice": []})
        quantities["loss"].append((run.seed, loss))
        quantities["dice"].append((run.seed, dice))
    curves: dict[str, list[Curve]] = {}
    for arm, quantities in found.items():
        drawn = [_curve(quantity, lines) for quantity, lines in quantities.items()]
        curves[arm] = [curve for curve in drawn if curve is not None]
    return curves


def _points(rows: Sequence[Mapping[str, str]], column: str) -> Points:
    return {int(row["step"]): float(row[column]) for row in rows if row.get(column)}


def _curve(quantity: Quantity, lines: Sequence[tuple[int, Points]]) -> Curve | None:
    """Average the lines of the runs at the steps that all of them have."""
    steps = sorted(set.intersection(*(set(points) for _, points in lines)))
    if not steps:
        return None
    seeds = sorted({seed for seed, _ in lines})
    by_seed = np.array(
        [np.mean([[points[step] for step in steps] for own, points in lines if own == seed], axis=0) for seed in seeds]
    )
    mean = np.mean([[points[step] for step in steps] for _, points in lines], axis=0)
    low, high = by_seed.min(0), by_seed.max(0)
    return Curve(quantity, tuple(steps), *(tuple(map(float, values)) for values in (mean, low, high)))
