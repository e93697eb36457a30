"""What describes the arms besides the endpoint: each structure and score, effect sizes, wins and losses, the worst cases.

None of it decides. Intervals are those of the run model, not corrected for their number. Wilcoxon's test takes cases (seeds
averaged) for independent, which ignores that they share the luck of their runs: its p values are too small, and are shown
because papers give them.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from se_med.study.endpoints import METRICS, Metric, PairedScores, paired_scores
from se_med.study.power import smallest_detectable
from se_med.study.run_model import fit_run_model
from se_med.study.tables import CaseRow, pair_cases

WORST = 0.1
TIE = 1e-9
"""Differences of scores up to this are none: rounding."""

Array = NDArray[np.float64]


@dataclass(frozen=True)
class Description:
    """One score of one structure, arm against reference. Differences are arm minus reference.

    Attributes:
        arm: name of the arm.
        structure: name of the structure; "mean" for the mean over the structures of a case.
        metric: name of the score.
        arm_mean: mean over cases, seeds averaged.
        reference_mean: likewise.
        difference: their difference.
        low: lower end of its 95 % interval; None where there is none.
        high: upper end.
        effect_size: mean difference over the standard deviation of the cases' differences (d_z of Cohen); None where it is 0.
        rank_effect: matched-pairs rank-biserial correlation, -1 to 1: share of the rank sum in favour of larger scores of the
            arm less that of smaller ones (Kerby 2014); None where all cases tie.
        wilcoxon_p: signed-rank test over cases; None where all cases tie.
        wins: cases in which the arm is better, seeds averaged.
        ties: cases without a difference.
        losses: cases in which it is worse.
        worst_arm: mean over the arm's own worst tenth of the cases, at least one.
        worst_reference: likewise; each arm's own, since those of one would favour the other by regression to the mean.
        smallest_detectable: true difference that this study finds with 80 % power.
    """

    arm: str
    structure: str
    metric: str
    arm_mean: float
    reference_mean: float
    difference: float
    low: float | None
    high: float | None
    effect_size: float | None
    rank_effect: float | None
    wilcoxon_p: float | None
    wins: int
    ties: int
    losses: int
    worst_arm: float
    worst_reference: float
    smallest_detectable: float | None

    def to_dict(self) -> dict[str, Any]:
        """Return everything as JSON-able data."""
        return asdict(self)


@dataclass(frozen=True)
class Failures:
    """Structures that were missed, or found where there are none, counted over run pairs and cases.

    Attributes:
        arm: name of the arm.
        structure: name of the structure.
        scored: label maps with this structure or a prediction of it, in either arm.
        missed_arm: predictions of the arm that lack it.
        missed_reference: predictions of the reference that lack it.
        spurious_arm: predictions of the arm where there is none.
        spurious_reference: likewise, of the reference.
    """

    arm: str
    structure: str
    scored: int
    missed_arm: int
    missed_reference: int
    spurious_arm: int
    spurious_reference: int


def describe(cases: Sequence[CaseRow], arm: str, reference: str) -> list[Description]:
    """Describe every score of the mean and of each structure; scores that were not computed are left out."""
    structures = list(dict.fromkeys(row.structure for row in cases if row.arm == arm))
    described = []
    for structure in (None, *structures) if len(structures) > 1 else structures:
        for metric in METRICS.values():
            paired = paired_scores(cases, arm, reference, metric, structure)
            if paired.folds:
                described.append(_describe(paired, arm, structure or "mean", metric))
    return described


def count_failures(cases: Iterable[CaseRow], arm: str, reference: str) -> list[Failures]:
    """Count missed and spurious structures of an arm and of the reference in the cases that pair."""
    pairs, _ = pair_cases(cases, arm, reference)
    counted = []
    for structure in dict.fromkeys(pair.arm.structure for pair in pairs):
        chosen = [pair for pair in pairs if pair.arm.structure == structure]
        counted.append(
            Failures(
                arm=arm,
                structure=structure,
                scored=sum(not (pair.arm.absent and pair.reference.absent) for pair in chosen),
                missed_arm=sum(pair.arm.missed for pair in chosen),
                missed_reference=sum(pair.reference.missed for pair in chosen),
                spurious_arm=sum(pair.arm.spurious for pair in chosen),
                spurious_reference=sum(pair.reference.spurious for pair in chosen),
            )
        )
    return counted


def rank_effect(differences: Array) -> float | None:
    """Return the matched-pairs rank-biserial correlation; differences of 0 are left out; None where all are 0."""
    kept = differences[np.abs(differences) > TIE]
    if kept.size == 0:
        return None
    ranks = stats.rankdata(np.abs(kept))
    return float((ranks[kept > 0].sum() - ranks[kept < 0].sum()) / ranks.sum())


def worst_mean(scores: Array, sign: int) -> float:
    """Return the mean of the worst tenth of the scores, at least of one."""
    count = max(1, round(WORST * scores.size))
    return float(np.sort(scores * sign)[:count].mean() * sign)


def _describe(paired: PairedScores, arm: str, structure: str, metric: Metric) -> Description:
    mine, others = paired.over_seeds()
    difference = np.where(np.abs(mine - others) > TIE, mine - others, 0.0)
    model = fit_run_model(paired.differences)
    known = bool(np.isfinite(model.variance))
    half = float(model.half_width()) if known else 0.0
    spread = float(difference.std(ddof=1)) if difference.size > 1 else 0.0
    estimate = float(model.estimate)
    return Description(
        arm=arm,
        structure=structure,
        metric=metric.name,
        arm_mean=float(mine.mean()),
        reference_mean=float(others.mean()),
        difference=estimate,
        low=estimate - half if known else None,
        high=estimate + half if known else None,
        effect_size=float(difference.mean()) / spread if spread else None,
        rank_effect=rank_effect(difference),
        wilcoxon_p=_wilcoxon(difference),
        wins=int((difference * metric.sign > 0).sum()),
        ties=int((difference == 0).sum()),
        losses=int((difference * metric.sign < 0).sum()),
        worst_arm=worst_mean(mine, metric.sign),
        worst_reference=worst_mean(others, metric.sign),
        smallest_detectable=smallest_detectable(float(model.error), float(model.freedom)) if known else None,
    )


def _wilcoxon(differences: Array) -> float | None:
    if not differences.any():
        return None
    with warnings.catch_warnings():
        # With few cases or ties scipy says that its p value is approximate; so does this module.
        warnings.simplefilter("ignore", UserWarning)
        return float(stats.wilcoxon(differences).pvalue)
