"""Simulated studies: does the 95 % interval hold the truth, how often is a verdict false, and what is found.

    python -m benchmarks verdicts [--studies 10000] [--seed 0] [--methods]

Prints the tables of docs/statistics.md; with --methods the one of other ways to an interval alone. Differences follow the model
of `se_med.study.run_model`, with cases that are normal or with heavy tails and skew; three arms share one reference, so that
their differences are correlated.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import product

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from se_med.study.run_model import RunModel, fit_run_model
from se_med.study.verdict import correct, decide_word

Array = NDArray[np.float64]

DESIGNS = ((2, 2), (3, 3), (5, 3), (5, 1))
RUN_SDS = (0.001, 0.002, 0.004)
CASE_SDS = (0.005, 0.01, 0.02)
CASES = (12, 52)
MARGIN = 0.005
ARMS = 3


@dataclass(frozen=True)
class World:
    """What differences are made of; standard deviations of a difference between two arms.

    Attributes:
        run: of a run pair.
        case: of a case, two thirds of its variance the same with every seed.
        cases: cases of each fold.
        fold: of a fold, beyond runs and cases; 0 in the model.
        heavy: cases have heavy tails (t with 4 degrees of freedom) and skew.
    """

    run: float
    case: float
    cases: int
    fold: float = 0.0
    heavy: bool = False


def worlds(*, fold: float = 0.0, heavy: bool = False) -> list[World]:
    """Return the grid of worlds: run SD 0.001 to 0.004, case SD 0.005 to 0.02, 12 or 52 cases per fold."""
    return [World(run, case, cases, fold, heavy) for run, case, cases in product(RUN_SDS, CASE_SDS, CASES)]


def draw(generator: np.random.Generator, world: World, folds: int, seeds: int, studies: int) -> list[Array]:
    """Draw the deviations from the mean of the differences of each fold, (studies, seeds, cases)."""
    shared, rest = world.case * (2 / 3) ** 0.5, world.case * (1 / 3) ** 0.5
    drawn = []
    for _ in range(folds):
        size = (studies, 1, world.cases)
        cases = generator.standard_t(4, size) / 2**0.5 + generator.exponential(0.5, size) - 0.5 if world.heavy else None
        cases = generator.normal(size=size) if cases is None else cases / 1.25**0.5
        drawn.append(
            generator.normal(0, world.fold, (studies, 1, 1))
            + generator.normal(0, world.run, (studies, seeds, 1))
            + shared * cases
            + generator.normal(0, rest, (studies, seeds, world.cases))
        )
    return drawn


def coverage(generator: np.random.Generator, world: World, folds: int, seeds: int, studies: int) -> float:
    """Return the share of studies whose 95 % interval holds the truth."""
    model = fit_run_model(draw(generator, world, folds, seeds, studies))
    return float(np.mean(np.abs(model.estimate) <= model.half_width()))


def coverage_of_methods(generator: np.random.Generator, world: World, folds: int, seeds: int, studies: int) -> dict[str, float]:
    """Return the share of studies whose 95 % interval holds the truth, by this model and by others on the same studies.

    The others are t over the folds' means; t over all run pairs as if they were independent; the variance of runs from within
    folds alone, with Satterthwaite's degrees of freedom of its mean squares (none with one seed per fold: not a number); and this
    model's variance with run pairs - 1 degrees of freedom.
    """
    data = draw(generator, world, folds, seeds, studies)
    model = fit_run_model(data)
    pairs = np.concatenate([fold.mean(-1) for fold in data], -1)
    means = np.stack([fold.mean((-2, -1)) for fold in data], -1)
    within, freedom = _variance_within_folds(np.stack(data, 1))
    intervals = {
        "this model": (model.variance, model.freedom),
        "folds alone": (means.var(-1, ddof=1) / folds, folds - 1),
        "run pairs as if independent": (pairs.var(-1, ddof=1) / pairs.shape[-1], pairs.shape[-1] - 1),
        "run variance within folds": (within, freedom),
        "run pairs - 1 degrees of freedom": (model.variance, pairs.shape[-1] - 1),
    }
    return {name: _coverage(model.estimate, *interval) for name, interval in intervals.items()}


def _variance_within_folds(data: Array) -> tuple[Array, Array]:
    """Return the variance of the mean of (studies, folds, seeds, cases), runs judged within folds, and its degrees of freedom."""
    _, folds, seeds, cases = data.shape
    if seeds == 1:
        return np.full(len(data), np.nan), np.full(len(data), np.nan)
    runs, across, mean = data.mean(-1), data.mean(-2), data.mean((-2, -1))
    rest = ((data - runs[..., None] - across[..., None, :] + mean[..., None, None]) ** 2).sum((1, 2, 3))
    shares = (
        (runs.var(-1, ddof=1).mean(-1) / (folds * seeds), folds * (seeds - 1)),
        (across.var(-1, ddof=1).mean(-1) / (folds * cases), folds * (cases - 1)),
        (-rest / (folds * (seeds - 1) * (cases - 1)) / (folds * seeds * cases), folds * (seeds - 1) * (cases - 1)),
    )
    variance = np.maximum(sum(share for share, _ in shares), 0.0)
    return variance, variance**2 / sum(share**2 / freedom for share, freedom in shares)


def _coverage(estimate: Array, variance: Array, freedom: Array | int) -> float:
    if np.isnan(variance).all():
        return float("nan")
    return float(np.mean(np.abs(estimate) <= stats.t.ppf(0.975, freedom) * np.sqrt(variance)))


def false_by_cases(generator: np.random.Generator, world: World, folds: int, seeds: int, studies: int) -> dict[str, float]:
    """Return the share of null studies that tests over cases, seeds averaged, call significant at 5 %."""
    data = draw(generator, world, folds, seeds, studies)
    cases = np.concatenate([fold.mean(-2) for fold in data], -1)
    resampled = generator.integers(cases.shape[1], size=(999, cases.shape[1]))
    low_high = [np.quantile(one[resampled].mean(1), (0.025, 0.975)) for one in cases[:300]]
    return {
        "t test": float(np.mean(stats.ttest_1samp(cases, 0, axis=1).pvalue < 0.05)),
        "Wilcoxon": float(np.mean(stats.wilcoxon(cases, axis=1, method="approx").pvalue < 0.05)),
        "bootstrap": float(np.mean([low > 0 or high < 0 for low, high in low_high])),
        "this model": float(np.mean(fit_run_model(data).p_different() < 0.05)),
    }


def study_words(
    generator: np.random.Generator, world: World, folds: int, seeds: int, studies: int, truths: Sequence[float]
) -> Iterator[tuple[str, ...]]:
    """Yield the verdicts of each study on arms with these true differences from one shared reference."""
    half = World(world.run / 2**0.5, world.case / 2**0.5, world.cases, world.fold / 2**0.5, world.heavy)
    reference = draw(generator, half, folds, seeds, studies)
    models: list[RunModel] = []
    for truth in truths:
        own = draw(generator, half, folds, seeds, studies)
        models.append(fit_run_model([truth + mine - other for mine, other in zip(own, reference, strict=True)]))
    different = np.stack([model.p_different() for model in models], -1)
    equivalent = np.stack([model.p_equivalent(MARGIN) for model in models], -1)
    for number in range(studies):
        corrected = correct(different[number].tolist(), equivalent[number].tolist())
        yield tuple(
            decide_word(float(model.estimate[number]), model.run_pairs, p, within, 1)
            for model, p, within in zip(models, *corrected, strict=True)
        )


def is_false(word: str, truth: float) -> bool:
    """Whether a verdict is wrong about a true difference."""
    if word == "equivalent":
        return abs(truth) >= MARGIN
    return word != "inconclusive" and not (truth > 0 if word == "better" else truth < 0)


def false_verdicts(
    generator: np.random.Generator, world: World, folds: int, seeds: int, studies: int, truths: Sequence[float]
) -> float:
    """Return the share of studies with at least one false verdict."""
    words = study_words(generator, world, folds, seeds, studies, truths)
    return sum(any(map(is_false, found, truths)) for found in words) / studies


def main(arguments: Sequence[str]) -> int:
    """Print the tables."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks verdicts", description=__doc__)
    parser.add_argument("--studies", type=int, default=10_000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--methods", action="store_true", help="compare ways to an interval, and nothing else")
    options = parser.parse_args(arguments)
    generator = np.random.default_rng(options.seed)
    print(f"{options.studies} studies per cell, seed {options.seed}; least, mean and greatest over the worlds, in percent\n")
    if options.methods:
        _print_methods(generator, options.studies)
        return 0
    _print_coverage(generator, options.studies)
    _print_false(generator, options.studies)
    _print_by_cases(generator, options.studies)
    _print_power(generator, options.studies)
    return 0


def _range(values: Sequence[float]) -> str:
    return f"{100 * min(values):.1f} / {100 * float(np.mean(values)):.1f} / {100 * max(values):.1f}"


def _print_coverage(generator: np.random.Generator, studies: int) -> None:
    print("| folds x seeds | model holds | heavy tails, skew | folds differ by SD 0.0015 | by SD 0.003 |\n|---|---|---|---|---|")
    for folds, seeds in DESIGNS:
        cells = [
            _range([coverage(generator, world, folds, seeds, studies) for world in grid])
            for grid in (worlds(), worlds(heavy=True), worlds(fold=0.0015), worlds(fold=0.003))
        ]
        print(f"| {folds} x {seeds} | {' | '.join(cells)} |", flush=True)


def _print_methods(generator: np.random.Generator, studies: int) -> None:
    columns = " | ".join(f"{folds} x {seeds}" for folds, seeds in DESIGNS)
    print(f"| interval | {columns} |\n|---|---|---|---|---|")
    found = [[coverage_of_methods(generator, world, *design, studies) for world in worlds()] for design in DESIGNS]
    for name in found[0][0]:
        cells = ["-" if np.isnan(one[0][name]) else _range([world[name] for world in one]) for one in found]
        print(f"| {name} | {' | '.join(cells)} |")


def _print_false(generator: np.random.Generator, studies: int) -> None:
    truths = {"three nulls": (0.0,) * ARMS, "three at the margin": (MARGIN,) * ARMS, "null, margin, null": (0.0, MARGIN, 0.0)}
    print(f"\n| folds x seeds | {' | '.join(truths)} |\n|---|---|---|---|")
    for folds, seeds in DESIGNS:
        cells = [
            _range([false_verdicts(generator, world, folds, seeds, max(1, studies // 4), truth) for world in worlds()])
            for truth in truths.values()
        ]
        print(f"| {folds} x {seeds} | {' | '.join(cells)} |", flush=True)


def _print_by_cases(generator: np.random.Generator, studies: int) -> None:
    print("\n| folds x seeds | t over cases | Wilcoxon over cases | bootstrap over cases | this model |\n|---|---|---|---|---|")
    for folds, seeds in DESIGNS:
        found = [false_by_cases(generator, world, folds, seeds, max(1, studies // 10)) for world in worlds()]
        print(f"| {folds} x {seeds} | {' | '.join(_range([one[name] for one in found]) for name in found[0])} |", flush=True)


def _print_power(generator: np.random.Generator, studies: int) -> None:
    print("\nOne arm, 52 cases per fold, case SD 0.01, margin 0.005: share of verdicts in percent")
    print(
        "| folds x seeds | run SD | true difference | better | equivalent | worse | inconclusive |\n|---|---|---|---|---|---|---|"
    )
    for (folds, seeds), run, truth in product(DESIGNS, RUN_SDS, (0.0, MARGIN, 2 * MARGIN)):
        found = [word for (word,) in study_words(generator, World(run, 0.01, 52), folds, seeds, max(1, studies // 4), (truth,))]
        shares = [f"{100 * found.count(word) / len(found):.0f}" for word in ("better", "equivalent", "worse", "inconclusive")]
        print(f"| {folds} x {seeds} | {run} | {truth} | {' | '.join(shares)} |", flush=True)
