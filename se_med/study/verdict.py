"""The verdict on each arm, by one fixed rule.

1. Fewer than four run pairs, or no interval: *inconclusive*.
2. The two one-sided tests say that the difference lies within the margin: *equivalent*, even where it is surely not zero, because
   a difference that small was declared beforehand not to matter. The sentence says which side it is on.
3. The difference is not zero: *better* or *worse*.
4. Else *inconclusive*, with the number of runs that would decide.

All p values are corrected over the arms by Holm's method (1979), so that at most 5 % of studies give any false verdict. Of an
arm's two hypotheses, no difference and one as large as the margin, at most one is true (Shaffer 1986 uses such relations). So
each is corrected in the company of one hypothesis of every other arm, the one with the larger p: with ten arms by ten at most,
not by twenty. The intervals are those of single comparisons.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

import numpy as np

from se_med.study.endpoints import Metric
from se_med.study.power import LEAST_RUN_PAIRS, needed_runs, smallest_detectable
from se_med.study.run_model import RunModel

LEVEL = 0.05

Word = Literal["better", "worse", "equivalent", "inconclusive"]


@dataclass(frozen=True)
class Verdict:
    """What a study says of one arm. Differences are arm minus reference, in the endpoint's unit.

    Attributes:
        arm: name of the arm.
        reference: name of the reference.
        word: the verdict.
        estimate: the mean difference.
        low: lower end of its 95 % interval; None where there is none.
        high: upper end.
        p_different: p value of no difference, Holm-corrected over the arms; None where there is none.
        p_equivalent: p value of a difference as large as the margin, likewise.
        freedom: degrees of freedom of the interval.
        run_pairs: run pairs.
        cases: cases.
        run_sd: standard deviation between run pairs of their mean difference.
        case_sd: standard deviation between cases of the difference.
        folds_disagree: the interval rests on the folds alone, since they differ by more than runs and cases explain.
        smallest_detectable: the true difference that this study finds with 80 % power, uncorrected.
        more_run_pairs: further run pairs that would decide with 80 % power, were the true difference the one measured; None where
            there is a verdict, or where more runs on these folds would not decide.
        sentence: the verdict in plain words.
    """

    arm: str
    reference: str
    word: Word
    estimate: float
    low: float | None
    high: float | None
    p_different: float | None
    p_equivalent: float | None
    freedom: float | None
    run_pairs: int
    cases: int
    run_sd: float | None
    case_sd: float | None
    folds_disagree: bool
    smallest_detectable: float | None
    more_run_pairs: int | None
    sentence: str

    def to_dict(self) -> dict[str, Any]:
        """Return everything as JSON-able data."""
        return asdict(self)


def holm(p_values: Sequence[float]) -> list[float]:
    """Return p values corrected by Holm's step-down method, in the order given; a NaN stays and is not counted."""
    known = sorted((p, position) for position, p in enumerate(p_values) if not np.isnan(p))
    corrected = [float("nan")] * len(p_values)
    highest = 0.0
    for rank, (p, position) in enumerate(known):
        highest = max(highest, min(1.0, p * (len(known) - rank)))
        corrected[position] = highest
    return corrected


def correct(different: Sequence[float], equivalent: Sequence[float]) -> tuple[list[float], list[float]]:
    """Correct the p values of both hypotheses of every arm, of which at most one per arm is true.

    It is the closed test over all sets of hypotheses that can be true together, each tested by Bonferroni's method.

    Args:
        different: p values of no difference, one per arm; NaN where there is none.
        equivalent: p values of a difference as large as the margin.
    """
    larger = [max(pair) for pair in zip(different, equivalent, strict=True)]

    def corrected(p: float, arm: int) -> float:
        return holm([p, *larger[:arm], *larger[arm + 1 :]])[0]

    return (
        [corrected(p, arm) for arm, p in enumerate(different)],
        [corrected(p, arm) for arm, p in enumerate(equivalent)],
    )


def decide_word(estimate: float, run_pairs: int, p_different: float, p_equivalent: float, sign: int) -> Word:
    """Return the verdict by the rule of this module.

    Args:
        estimate: the mean difference.
        run_pairs: number of run pairs.
        p_different: corrected p value of no difference; NaN where there is none.
        p_equivalent: corrected p value of a difference as large as the margin.
        sign: 1 where more of the endpoint is better, -1 where less is.
    """
    if run_pairs < LEAST_RUN_PAIRS or np.isnan(p_different):
        return "inconclusive"
    if p_equivalent < LEVEL:
        return "equivalent"
    if p_different < LEVEL:
        return "better" if estimate * sign > 0 else "worse"
    return "inconclusive"


def decide(models: Mapping[str, RunModel], reference: str, metric: Metric, margin: float) -> list[Verdict]:
    """Give the verdict on each arm.

    Args:
        models: the fitted model of each arm's differences from the reference, by arm.
        reference: name of the reference.
        metric: the endpoint.
        margin: the difference that would matter.
    """
    different, equivalent = correct(
        [float(model.p_different()) for model in models.values()],
        [float(model.p_equivalent(margin)) for model in models.values()],
    )
    level = LEVEL / max(1, len(models))  # what Holm's method asks of the arm that is tested first
    verdicts = []
    for (arm, model), p, p_within in zip(models.items(), different, equivalent, strict=True):
        word = decide_word(float(model.estimate), model.run_pairs, p, p_within, metric.sign)
        verdicts.append(_verdict(arm, reference, model, word, p, p_within, metric, margin, level, len(models)))
    return verdicts


def _verdict(
    arm: str,
    reference: str,
    model: RunModel,
    word: Word,
    p_different: float,
    p_equivalent: float,
    metric: Metric,
    margin: float,
    level: float,
    arms: int,
) -> Verdict:
    known = bool(np.isfinite(model.variance))
    half = float(model.half_width()) if known else None
    estimate = float(model.estimate)
    more = needed_runs(model, margin, level).run_pairs if word == "inconclusive" else None
    verdict = Verdict(
        arm=arm,
        reference=reference,
        word=word,
        estimate=estimate,
        low=None if half is None else estimate - half,
        high=None if half is None else estimate + half,
        p_different=p_different if known else None,
        p_equivalent=p_equivalent if known else None,
        freedom=float(model.freedom) if known else None,
        run_pairs=model.run_pairs,
        cases=sum(model.cases),
        run_sd=float(model.run_variance) ** 0.5 if known else None,
        case_sd=float(model.case_variance) ** 0.5 if known else None,
        folds_disagree=bool(model.folds_disagree),
        smallest_detectable=smallest_detectable(float(model.error), float(model.freedom)) if known else None,
        more_run_pairs=more,
        sentence="",
    )
    return Verdict(**(asdict(verdict) | {"sentence": sentence(verdict, metric, margin, arms)}))


def sentence(verdict: Verdict, metric: Metric, margin: float, arms: int) -> str:
    """Return the verdict in plain words.

    Args:
        verdict: all but the sentence.
        metric: the endpoint.
        margin: the difference that would matter.
        arms: number of arms that the p values are corrected for.
    """
    arm, reference = verdict.arm, verdict.reference
    size = metric.text(abs(verdict.estimate))
    interval = ""
    if verdict.low is not None and verdict.high is not None:
        interval = f"95 % interval {metric.text(verdict.low, signed=True)} to {metric.text(verdict.high, signed=True)}"
    numbers = f"{metric.text(verdict.estimate, signed=True)}{', ' * bool(interval)}{interval}"
    p = "" if verdict.p_different is None else f", {p_text(verdict.p_different)}" + (" after Holm's correction" * (arms > 1))
    title = f"mean {metric.title}"
    if verdict.word == "equivalent":
        surely = ""
        if verdict.p_different is not None and verdict.p_different < LEVEL:
            side = "better" if verdict.estimate * metric.sign > 0 else "worse"
            surely = f" It is surely {side}, but by less than what would matter."
        return (
            f"{arm} and {reference} are equivalent within the margin of {metric.text(margin)}: "
            f"the {title} differs by {numbers}.{surely}"
        )
    if verdict.word in ("better", "worse"):
        return f"{arm} is {verdict.word} than {reference} by {size} {title} ({interval}{p})."
    return f"Inconclusive: the {title} of {arm} differs from {reference}'s by {numbers}{p}. {_remedy(verdict)}"


def _remedy(verdict: Verdict) -> str:
    """Say what would decide."""
    if verdict.run_pairs < LEAST_RUN_PAIRS:
        have = f"{verdict.run_pairs} run pair{'s' * (verdict.run_pairs != 1)}"
        return f"With {have} the luck of single runs is not known; {LEAST_RUN_PAIRS} are the least for any verdict."
    if verdict.more_run_pairs is None:
        return "More seeds on these folds would hardly decide; more folds, and so more cases, would."
    runs = 2 * verdict.more_run_pairs
    return f"About {runs} more runs ({verdict.more_run_pairs} of each arm) would decide."


def p_text(p: float) -> str:
    """Return a p value as papers write it, not to be broken at the end of a line."""
    number = p_number(p)
    return ("p " if number.startswith("<") else "p = ").replace(" ", "\N{NO-BREAK SPACE}") + number


def p_number(p: float) -> str:
    """Return a p value without its name."""
    return "<\N{NO-BREAK SPACE}0.001" if p < 0.001 else f"{p:.3f}" if p < 0.1 else f"{p:.2f}"
