"""Scores of an arm and of the reference side by side: what is compared, paired by fold, seed and case.

Policy of absent structures. A structure that a reference segmentation lacks has no scores where the prediction lacks it too
(`se_med.evaluation.metrics`), and Dice 0 where the prediction has it. In a comparison, a case's structure is left out where no
run of either arm has scores; where one has, those that rightly found nothing count as perfect: Dice and NSD 1, HD95 and volume
error 0. So a false alarm counts against the arm that gives it, and is not left out together with its partner.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from statistics import fmean

import numpy as np
from numpy.typing import NDArray

from se_med.study.tables import CaseRow, Pair, pair_cases

Array = NDArray[np.float64]


@dataclass(frozen=True)
class Metric:
    """One score of a structure.

    Attributes:
        name: as tables name it.
        title: as readers know it.
        unit: its unit; empty where it has none.
        sign: 1 where more is better, -1 where less is.
        perfect: its value where a structure is rightly not found.
        digits: decimals that mean something.
    """

    name: str
    title: str
    unit: str
    sign: int
    perfect: float
    digits: int

    def value(self, row: CaseRow) -> float | None:
        """Return the score of a row; None where surfaces were not scored. An absent structure is perfect."""
        if row.absent:
            return self.perfect
        if self.name == "volume_error_ml":
            return abs(row.volume_error_ml)
        score: float | None = getattr(row, self.name)
        return score

    def text(self, value: float, *, signed: bool = False) -> str:
        """Return a value with its unit."""
        number = f"{value:{'+' if signed else ''}.{self.digits}f}".replace("-", "\N{MINUS SIGN}")
        return f"{number} {self.unit}".strip()


METRICS = {
    metric.name: metric
    for metric in (
        Metric("dice", "Dice", "", 1, 1.0, 4),
        Metric("hd95", "HD95", "mm", -1, 0.0, 3),
        Metric("nsd", "NSD", "", 1, 1.0, 4),
        Metric("volume_error_ml", "volume error", "ml", -1, 0.0, 4),
    )
}

ENDPOINTS = {"mean_dice": METRICS["dice"], "mean_nsd": METRICS["nsd"], "mean_hd95": METRICS["hd95"]}
"""The scores that may decide a study: the mean over the structures of a case."""


@dataclass(frozen=True, eq=False)
class FoldPairs:
    """Scores of the held-out cases of one fold.

    Attributes:
        fold: number of the fold.
        seeds: seeds that both arms have.
        cases: names of the cases.
        arm: scores of the arm, (seeds, cases).
        reference: scores of the reference, likewise.
    """

    fold: int
    seeds: tuple[int, ...]
    cases: tuple[str, ...]
    arm: Array
    reference: Array

    @property
    def difference(self) -> Array:
        """Arm minus reference, (seeds, cases)."""
        return self.arm - self.reference


@dataclass(frozen=True, eq=False)
class PairedScores:
    """One score of an arm and of the reference.

    Attributes:
        metric: the score.
        folds: one entry per fold that both have.
        unpaired: number of rows without a partner: other runs failed, or the reference segmentation changed.
    """

    metric: Metric
    folds: tuple[FoldPairs, ...]
    unpaired: int = 0

    @property
    def differences(self) -> list[Array]:
        """Differences of each fold, as the model takes them."""
        return [fold.difference for fold in self.folds]

    @property
    def run_pairs(self) -> int:
        """Number of run pairs."""
        return sum(len(fold.seeds) for fold in self.folds)

    @property
    def cases(self) -> tuple[str, ...]:
        """Names of all cases, fold by fold."""
        return tuple(case for fold in self.folds for case in fold.cases)

    def over_seeds(self) -> tuple[Array, Array]:
        """Return the scores of arm and reference of each case, seeds averaged, in the order of `cases`."""
        return (
            np.concatenate([fold.arm.mean(0) for fold in self.folds]),
            np.concatenate([fold.reference.mean(0) for fold in self.folds]),
        )


def paired_scores(cases: Iterable[CaseRow], arm: str, reference: str, metric: Metric, structure: str | None) -> PairedScores:
    """Pair one score of an arm with the reference's.

    Args:
        cases: rows of a study.
        arm: name of the arm.
        reference: name of the reference.
        metric: the score.
        structure: name of a structure, or None for the mean over the structures of each case.

    Returns:
        The pairs. There is no fold where nothing pairs, or where the score was not computed.
    """
    pairs, unpaired = pair_cases(cases, arm, reference)
    chosen = [pair for pair in pairs if structure is None or pair.arm.structure == structure]
    return PairedScores(metric, _by_fold(chosen, metric), len(unpaired))


def paired_seeds(cases: Iterable[CaseRow], arm: str, metric: Metric) -> PairedScores | None:
    """Pair an arm with itself: the first half of its seeds on each fold with as many others (A/A).

    Returns:
        The pairs, of which the first half of the seeds stands as the arm; None where no fold has two seeds.
    """
    rows = [row for row in cases if row.arm == arm]
    known = sorted({row.seed for row in rows})
    half = len(known) // 2
    partner = dict(zip(known[half : 2 * half], known[:half], strict=True))
    found = {(row.fold, row.seed, row.case, row.structure, row.reference_digest): row for row in rows}
    pairs = []
    for row in rows:
        other = found.get((row.fold, partner.get(row.seed, -1), row.case, row.structure, row.reference_digest))
        if other is not None:
            pairs.append(Pair(other, row))
    folds = _by_fold(pairs, metric)
    return PairedScores(metric, folds) if folds else None


def run_means(cases: Iterable[CaseRow], arm: str, metric: Metric) -> dict[int, dict[int, float]]:
    """Return the mean score of each run of an arm, by fold and seed: the mean over cases of the mean over structures."""
    paired = _by_fold([Pair(row, row) for row in cases if row.arm == arm], metric)
    return {fold.fold: dict(zip(fold.seeds, (float(value) for value in fold.arm.mean(1)), strict=True)) for fold in paired}


def _by_fold(pairs: Sequence[Pair], metric: Metric) -> tuple[FoldPairs, ...]:
    """Lay pairs out as arrays. A case that a seed of its fold lacks is left out."""
    counted = {_structure(pair) for pair in pairs if not (pair.arm.absent and pair.reference.absent)}
    cells: dict[int, dict[str, dict[int, tuple[list[float], list[float]]]]] = {}
    for pair in pairs:
        values = metric.value(pair.arm), metric.value(pair.reference)
        if _structure(pair) not in counted or values[0] is None or values[1] is None:
            continue
        entry = cells.setdefault(pair.reference.fold, {}).setdefault(pair.reference.case, {})
        mine, others = entry.setdefault(pair.reference.seed, ([], []))
        mine.append(values[0])
        others.append(values[1])
    folds = []
    for number, found in sorted(cells.items()):
        seeds = tuple(sorted({seed for entry in found.values() for seed in entry}))
        names = tuple(sorted(case for case, entry in found.items() if len(entry) == len(seeds)))
        if names:
            both = np.array([[[fmean(side) for side in found[case][seed]] for case in names] for seed in seeds])
            folds.append(FoldPairs(number, seeds, names, both[..., 0], both[..., 1]))
    return tuple(folds)


def _structure(pair: Pair) -> tuple[int, str, str]:
    return pair.reference.fold, pair.reference.case, pair.reference.structure
