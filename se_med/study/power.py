"""How likely a study is to find what is there, and how many runs would be enough."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import optimize, special, stats

from se_med.study.run_model import RunModel, planned_variance

POWER = 0.8
LEAST_RUN_PAIRS = 4
"""With fewer run pairs the luck of runs is not known well enough for any verdict."""
MOST_SEEDS = 200
_POINTS = 1000


def power_different(difference: float, error: float, freedom: float, level: float = 0.05) -> float:
    """Return the probability that a two-sided t test at `level` finds a true difference."""
    if error == 0:
        return float(difference != 0)
    limit = stats.t.ppf(1 - level / 2, freedom) * _estimated_errors(freedom)
    shift = abs(difference) / error
    return float((special.ndtr(shift - limit) + special.ndtr(-shift - limit)).mean())


def power_equivalent(difference: float, margin: float, error: float, freedom: float, level: float = 0.05) -> float:
    """Return the probability that two one-sided t tests at `level` find a true difference to lie within the margin."""
    if error == 0:
        return float(abs(difference) < margin)
    limit = stats.t.ppf(1 - level, freedom) * _estimated_errors(freedom)
    within = special.ndtr((margin - difference) / error - limit) - special.ndtr(limit - (margin + difference) / error)
    return float(np.maximum(0.0, within).mean())


def _estimated_errors(freedom: float) -> NDArray[np.float64]:
    """Return equally likely values of the estimated standard error, as a multiple of the true one.

    A mean over them is the noncentral t distribution, of which scipy's own is NaN far from its centre.
    """
    middles = (np.arange(_POINTS) + 0.5) / _POINTS
    return np.asarray(np.sqrt(special.gammaincinv(freedom / 2, middles) * 2 / freedom))


def smallest_detectable(error: float, freedom: float, level: float = 0.05) -> float | None:
    """Return the true difference that a test at `level` finds with 80 % power; None where the error is not known."""
    if not np.isfinite(error) or not np.isfinite(freedom):
        return None
    if error == 0:
        return 0.0
    limit = stats.t.ppf(1 - level / 2, freedom) * _estimated_errors(freedom)
    highest = 1.0
    while special.ndtr(highest - limit).mean() < POWER:
        highest *= 2
    found = optimize.brentq(lambda ratio: (special.ndtr(ratio - limit) + special.ndtr(-ratio - limit)).mean() - POWER, 0, highest)
    return float(found) * error


@dataclass(frozen=True)
class Needed:
    """What would decide.

    Attributes:
        seeds: further seeds on each fold; None where seeds alone would not decide.
        run_pairs: further run pairs that they are.
    """

    seeds: int | None
    run_pairs: int | None


def needed_runs(model: RunModel, margin: float, level: float) -> Needed:
    """Return how many more runs would give a verdict with 80 % power, were the true difference the one measured.

    Args:
        model: the fitted model of the comparison.
        margin: the margin of equivalence.
        level: the level of each test, corrected for the number of arms.
    """
    folds = len(model.seeds)
    present = max(model.seeds)
    run = float(model.run_variance)
    if not np.isfinite(model.variance):
        least = -(-LEAST_RUN_PAIRS // folds)
        return Needed(max(1, least - present), max(folds, least * folds - model.run_pairs))
    difference = float(model.estimate)
    least = max(present + 1, -(-LEAST_RUN_PAIRS // folds))

    def enough(seeds: int) -> bool:
        return decides(model, difference, margin, [seeds] * folds, level, run) >= POWER

    if not enough(MOST_SEEDS):
        return Needed(None, None)
    # Power rises with the number of seeds.
    seeds = bisect_left(range(MOST_SEEDS + 1), True, lo=least, key=enough)
    return Needed(seeds - present, seeds * folds - model.run_pairs)


def decides(
    model: RunModel, difference: float, margin: float, seeds: Sequence[int], level: float, run_variance: float | None = None
) -> float:
    """Return the probability that a study with these seeds on each fold gives a verdict (the likelier of both kinds)."""
    variance, freedom = planned_variance(model, seeds, model.cases, run_variance)
    error = variance**0.5
    return max(power_different(difference, error, freedom, level), power_equivalent(difference, margin, error, freedom, level))
