"""The mean difference of two arms and its interval, from a model with the luck of runs and of cases.

A study gives one difference (arm minus reference) per fold, seed and held-out case. The model of a difference is

    d = mean + run(fold, seed) + case(fold, case) + rest(fold, seed, case),

each part random with its own variance. All cases of a run share that run's luck, and all seeds of a fold share that fold's cases.
So neither the cases nor the runs are independent, and a test over cases alone takes one run's luck for many confirmations.

With R run pairs, `w` the share of a fold's cases among all cases, S seeds and n cases per fold, the variance of the mean is

    V = sum over folds of w^2 * (run / S + case / n + rest / (S n)).

Its parts come from an analysis of variance: `rest` from the interaction of seeds and cases within folds, `case` from the spread
of the cases' means, and `run` from the spread of all R run-pair means about their mean, less what cases and rest add to that. For
equal folds this is the variance of R independent run pairs plus F (S - 1) / (R - 1) of the cases' share: what the seeds repeat.
With one seed it is the ordinary t interval over folds. Degrees of freedom are Satterthwaite's (1946), with the variance of the
quadratic form that the model gives. Readers and cases are combined in the same way in studies of diagnostic imaging (Obuchowski
and Rockette 1995; Hillis 2007).

Where the folds disagree by more than runs and cases explain (F test at 10 %), as when a training set favours one arm, the
interval rests on the folds alone: t with folds - 1 degrees of freedom. `docs/statistics.md` has what was measured.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import stats

Array = NDArray[np.float64]

FOLDS_DISAGREE = 0.10
"""Level of the test that turns to the folds alone. Not 5 %: it guards a claim, so it should not miss much."""


@dataclass(frozen=True, eq=False)
class RunModel:
    """A mean difference and how well it is known. Arrays where many studies were computed at once (simulations), else scalars.

    Attributes:
        estimate: mean over cases of the difference, seeds averaged.
        variance: its variance; NaN with fewer than two run pairs, or fewer than two cases in each fold.
        freedom: its degrees of freedom.
        run_variance: variance between runs of the difference of a run pair, 0 or more.
        case_variance: variance between cases.
        rest_variance: variance of what is neither; 0 with one seed per fold, where it is part of `case_variance`.
        folds_disagree: the interval rests on the folds alone.
        seeds: run pairs of each fold.
        cases: cases of each fold.
    """

    estimate: Any
    variance: Any
    freedom: Any
    run_variance: Any
    case_variance: Any
    rest_variance: Any
    folds_disagree: Any
    seeds: tuple[int, ...]
    cases: tuple[int, ...]

    @property
    def run_pairs(self) -> int:
        """Number of run pairs."""
        return sum(self.seeds)

    @property
    def error(self) -> Any:
        """Standard error of the estimate."""
        return np.sqrt(self.variance)

    def half_width(self, level: float = 0.95) -> Any:
        """Return half the width of the two-sided interval at `level`."""
        return stats.t.ppf(0.5 + level / 2, self.freedom) * self.error

    def p_different(self) -> Any:
        """Return the two-sided p value of no difference."""
        return self._p(np.abs(self.estimate)) * 2

    def p_equivalent(self, margin: float) -> Any:
        """Return the p value of a difference of `margin` or more, either way: the larger of two one-sided tests.

        Two one-sided tests (Schuirmann 1987): a small value says that the difference lies within the margin.
        """
        return self._p(margin - np.abs(self.estimate))

    def _p(self, distance: Any) -> Any:
        """Return how likely a t variable is to exceed `distance` in standard errors; NaN where the variance is not known."""
        with np.errstate(divide="ignore", invalid="ignore"):
            # No spread at all: a distance of any size is certain, and none is no evidence.
            ratio = np.where(self.variance == 0, np.where(distance == 0, 0.0, np.sign(distance) * np.inf), distance / self.error)
        return stats.t.sf(ratio, self.freedom)[()]


def fit_run_model(folds: Sequence[Array]) -> RunModel:
    """Fit the model to the differences of one comparison, or of many of the same shape.

    Args:
        folds: differences of each fold, (..., seeds, cases); no NaN. Leading axes are studies of their own.

    Raises:
        ValueError: there is no fold, or one without a seed or a case.
    """
    if not folds or any(0 in fold.shape[-2:] for fold in folds):
        raise ValueError("each fold needs at least one seed and one case")
    seeds = tuple(fold.shape[-2] for fold in folds)
    cases = tuple(fold.shape[-1] for fold in folds)
    parts = _parts(folds, np.array(seeds, float), np.array(cases, float))
    variance, freedom, disagree = _variance(parts)
    return RunModel(
        estimate=parts.estimate[()],
        variance=variance[()],
        freedom=freedom[()],
        run_variance=np.maximum(parts.run, 0.0)[()],
        case_variance=parts.case[()],
        rest_variance=parts.rest[()],
        folds_disagree=disagree[()],
        seeds=seeds,
        cases=cases,
    )


def planned_variance(
    model: RunModel, seeds: Sequence[int], cases: Sequence[int], run_variance: float | None = None
) -> tuple[float, float]:
    """Return the variance of the mean, and its degrees of freedom, that a study of another size would have.

    Args:
        model: has the variances of runs and cases.
        seeds: run pairs of each fold.
        cases: cases of each fold.
        run_variance: to be used instead of the model's.
    """
    run = np.asarray(model.run_variance if run_variance is None else run_variance, float)
    case, rest = np.asarray(model.case_variance, float), np.asarray(model.rest_variance, float)
    sizes = _Sizes.of(np.array(seeds, float), np.array(cases, float))
    variance = _variance_of_mean(sizes, run, case, rest)
    return float(variance), float(_freedom(sizes, run, case, rest, case + sizes.rest_in_case * rest))


@dataclass(frozen=True, eq=False)
class _Sizes:
    """What follows from the numbers of seeds and cases alone."""

    seeds: Array
    cases: Array
    weights: Array
    pairs: float
    rest_in_case: float  # how much of `rest` is in the spread of the cases' means
    from_spread: float  # weight of the squared spread of run-pair means in the variance
    case_in_spread: float
    rest_in_spread: float

    @classmethod
    def of(cls, seeds: Array, cases: Array) -> _Sizes:
        pairs = float(seeds.sum())
        weights = cases / cases.sum()
        spare = cases - 1
        return cls(
            seeds=seeds,
            cases=cases,
            weights=weights,
            pairs=pairs,
            rest_in_case=float((spare / seeds).sum() / spare.sum()) if spare.sum() else 0.0,
            from_spread=float((weights**2 / seeds).sum() / (pairs - 1)) if pairs > 1 else np.nan,
            case_in_spread=float((seeds / cases * (1 - seeds / pairs)).sum()),
            rest_in_spread=float((seeds / cases).sum() * (1 - 1 / pairs)),
        )

    @property
    def case_share(self) -> float:
        """Weight of the variance of cases besides what of it is in the spread; below 0 only where folds differ in size."""
        return max(0.0, float((self.weights**2 / self.cases).sum() - self.case_in_spread * self.from_spread))

    @property
    def rest_share(self) -> float:
        """Likewise, of the rest; 0 for equal folds."""
        shares = self.weights**2 / (self.seeds * self.cases)
        return max(0.0, float(shares.sum() - self.rest_in_spread * self.from_spread))

    @property
    def spare_cases(self) -> float:
        """Degrees of freedom of the cases' means within folds."""
        return float((self.cases - 1).sum())


@dataclass(frozen=True, eq=False)
class _Parts:
    """Sums of squares and variances of a data set."""

    sizes: _Sizes
    means: list[Array]  # (...) mean of each fold
    estimate: Array
    spread: Array  # squared spread of all run-pair means about their mean
    within: Array  # variance of run-pair means within folds; NaN with one seed per fold
    between: Array  # folds' squared spread over (folds - 1), times seeds; NaN with one fold
    case_spread: Array  # variance of the cases' means within folds
    run: Array
    case: Array
    rest: Array


def _parts(folds: Sequence[Array], seeds: Array, cases: Array) -> _Parts:
    sizes = _Sizes.of(seeds, cases)
    run_means = [fold.mean(-1) for fold in folds]
    means = [mean.mean(-1) for mean in run_means]
    estimate = np.asarray(sum(weight * mean for weight, mean in zip(sizes.weights, means, strict=True)))
    centre = np.concatenate(run_means, -1).mean(-1)
    zero = np.zeros_like(estimate)
    spread = zero + sum(((mean - centre[..., None]) ** 2).sum(-1) for mean in run_means)
    within = zero + sum(((run - mean[..., None]) ** 2).sum(-1) for run, mean in zip(run_means, means, strict=True))
    between = zero + sum(count * (mean - centre) ** 2 for count, mean in zip(seeds, means, strict=True))
    case_spread, rest = zero.copy(), zero.copy()
    for fold, run, mean in zip(folds, run_means, means, strict=True):
        across = fold.mean(-2)
        case_spread = case_spread + ((across - mean[..., None]) ** 2).sum(-1)
        left = fold - run[..., None] - across[..., None, :] + mean[..., None, None]
        rest = rest + (left**2).sum((-2, -1))
    case_spread = _over(case_spread, sizes.spare_cases)
    spare_rest = float(((seeds - 1) * (cases - 1)).sum())
    rest = rest / spare_rest if spare_rest else zero
    case = np.maximum(case_spread - sizes.rest_in_case * rest, 0.0)
    run = _over(spread - sizes.rest_in_spread * rest - sizes.case_in_spread * case, sizes.pairs - 1)
    return _Parts(
        sizes=sizes,
        means=means,
        estimate=estimate,
        spread=spread,
        within=_over(within, sizes.pairs - len(folds)),
        between=_over(between, len(folds) - 1),
        case_spread=case_spread,
        run=run,
        case=case,
        rest=rest,
    )


def _over(squares: Array, freedom: float) -> Array:
    """Divide by degrees of freedom; NaN where there are none."""
    return squares / freedom if freedom else np.full_like(squares, np.nan)


def _variance(parts: _Parts) -> tuple[Array, Array, Array]:
    """Return the variance of the estimate, its degrees of freedom, and whether it rests on the folds alone."""
    sizes = parts.sizes
    variance = sizes.from_spread * parts.spread + sizes.case_share * parts.case + sizes.rest_share * parts.rest
    freedom = _freedom(sizes, np.maximum(parts.run, 0.0), parts.case, parts.rest, parts.case_spread)
    folds = len(parts.means)
    if folds < 2 or sizes.pairs == folds:
        return variance, freedom, np.zeros(variance.shape, bool)
    disagree = _folds_disagree(parts)
    alone = sum(weight**2 * (mean - parts.estimate) ** 2 for weight, mean in zip(sizes.weights, parts.means, strict=True))
    alone = np.asarray(alone) * folds / (folds - 1)
    return (
        np.where(disagree, np.maximum(variance, alone), variance),
        np.where(disagree, folds - 1.0, freedom),
        disagree,
    )


def _variance_of_mean(sizes: _Sizes, run: Array, case: Array, rest: Array) -> Array:
    """Return the variance of the mean that follows from the variances of the parts."""
    run, case, rest = (part[..., None] for part in (run, case, rest))
    shares = run / sizes.seeds + case / sizes.cases + rest / (sizes.seeds * sizes.cases)
    return np.asarray((sizes.weights**2 * shares).sum(-1))


def _freedom(sizes: _Sizes, run: Array, case: Array, rest: Array, case_spread: Array) -> Array:
    """Return Satterthwaite's degrees of freedom: twice the squared variance of the mean over the variance of its estimate.

    Both are those of the model with its fitted parts, not the estimate of this study: where the spread of runs happens to be
    small, that is luck and no lack of freedom.
    """
    expand = (..., None)
    one_run = run[expand] + rest[expand] / sizes.cases  # variance of a run pair's mean within its fold
    shared = case[expand] / sizes.cases  # covariance of two run pairs of a fold
    row = one_run + sizes.seeds * shared
    squares = (sizes.seeds * (one_run + shared) ** 2 + sizes.seeds * (sizes.seeds - 1) * shared**2).sum(-1)
    trace = squares - 2 / sizes.pairs * (sizes.seeds * row**2).sum(-1) + ((sizes.seeds * row).sum(-1) / sizes.pairs) ** 2
    noise = 2 * sizes.from_spread**2 * trace
    if sizes.spare_cases:
        noise = noise + 2 * (sizes.case_share * case_spread) ** 2 / sizes.spare_cases
    with np.errstate(divide="ignore", invalid="ignore"):
        freedom = 2 * _variance_of_mean(sizes, run, case, rest) ** 2 / noise
    # Without any spread there is nothing to estimate: as many as there are run pairs to spare.
    return np.asarray(np.where(noise == 0, max(sizes.pairs - 1, 0), freedom))


def _folds_disagree(parts: _Parts) -> Array:
    """Return whether the folds' means differ by more than runs and cases explain."""
    sizes, folds = parts.sizes, len(parts.means)
    share = sizes.case_in_spread / (folds - 1)
    expected = parts.within + share * parts.case
    noise = parts.within**2 / (sizes.pairs - folds)
    if sizes.spare_cases:
        noise = noise + (share * parts.case_spread) ** 2 / sizes.spare_cases
    with np.errstate(divide="ignore", invalid="ignore"):
        p = stats.f.sf(parts.between / expected, folds - 1, expected**2 / noise)
    return np.asarray(p < FOLDS_DISAGREE)
