"""A/A: the reference against itself. What seeds alone do stands above every claim."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from scipy import stats

from se_med.study.endpoints import Metric, paired_seeds, run_means
from se_med.study.run_model import fit_run_model
from se_med.study.tables import CaseRow
from se_med.study.verdict import Verdict, decide, p_text

FEW = 4
"""Degrees of freedom below which the t quantile makes the floor many times the differences that were seen."""


@dataclass(frozen=True)
class Noise:
    """What the seed alone changes in the reference.

    Attributes:
        seed_sd: standard deviation of a run's mean endpoint between seeds, within folds; None with one seed per fold.
        freedom: degrees of freedom of `seed_sd`.
        floor: difference between two arms of this many runs that seeds alone exceed in 5 % of studies whose runs are not matched;
            None with one seed per fold.
        largest: largest difference between two runs of a fold that differ in nothing but the seed.
        split: the verdict on the first half of the seeds against as many others; None where there are no two seeds.
        sentence: all that in plain words.
    """

    seed_sd: float | None
    freedom: int
    floor: float | None
    largest: float | None
    split: Verdict | None
    sentence: str

    def to_dict(self) -> dict[str, Any]:
        """Return everything as JSON-able data."""
        return asdict(self)


def measure_noise(cases: Iterable[CaseRow], reference: str, metric: Metric, margin: float) -> Noise:
    """Measure how much the runs of the reference differ by their seeds.

    Args:
        cases: rows of a study.
        reference: name of the reference.
        metric: the endpoint.
        margin: the difference that would matter.
    """
    rows = list(cases)
    means = [list(seeds.values()) for seeds in run_means(rows, reference, metric).values()]
    freedom = sum(len(values) - 1 for values in means)
    if freedom == 0:
        return Noise(None, 0, None, None, None, "A/A: the reference has one seed per fold, so its noise floor is not known.")
    squares = sum(float(np.var(values)) * len(values) for values in means)
    seed_sd = (squares / freedom) ** 0.5
    largest = max(max(values) - min(values) for values in means)
    floor = float(stats.t.ppf(0.975, freedom)) * seed_sd * (2 * sum((_share(means, values)) for values in means)) ** 0.5
    paired = paired_seeds(rows, reference, metric)
    split = None
    if paired is not None:
        name = f"{reference} (first seeds)"
        split = decide({name: fit_run_model(paired.differences)}, f"{reference} (other seeds)", metric, margin)[0]
    text = (
        f"A/A: two runs of {reference} that differ only in their seed differed by up to {metric.text(largest)} "
        f"(standard deviation of a run {metric.text(seed_sd)}). {_floor_text(floor, freedom, metric)}"
    )
    return Noise(seed_sd, freedom, floor, largest, split, text + _split_text(split, metric))


def _share(means: Sequence[Sequence[float]], values: Sequence[float]) -> float:
    """Share of a fold in the variance of the mean over folds: equal folds, its seeds averaged."""
    return 1 / (len(means) ** 2 * len(values))


def _floor_text(floor: float, freedom: int, metric: Metric) -> str:
    """Say what the floor means: a bound, which is wide where few pairs of seeds are all that is known."""
    if freedom < FEW:
        return (
            f"How much more seeds alone can do is hardly known from so few runs: only a difference above {metric.text(floor)} "
            "could not be their work, and more seeds would bring that bound down. Matched runs are judged by their interval."
        )
    return (
        f"Between two arms of this study whose runs are not matched, seeds alone exceed a difference of {metric.text(floor)} in "
        "one study of twenty: what is smaller is no finding, unless the runs are matched and the interval says so."
    )


def _split_text(split: Verdict | None, metric: Metric) -> str:
    if split is None or split.low is None or split.high is None:
        return ""
    interval = f"{metric.text(split.low, signed=True)} to {metric.text(split.high, signed=True)}"
    text = f" One half of its seeds against the other: {metric.text(split.estimate, signed=True)}, 95 % interval {interval}"
    if split.word in ("better", "worse") and split.p_different is not None:
        return f"{text}. The reference seems {split.word} than itself ({p_text(split.p_different)}): trust no claim below."
    if split.low > 0 or split.high < 0:
        return f"{text}. That leaves out 0 though nothing differs, as one such interval in twenty does: read claims with care."
    return f"{text}; {split.word}, as it must be."
