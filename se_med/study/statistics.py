"""All statistics of a study: the verdicts, the noise floor above them, and what describes the arms."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from se_med.errors import UsageError
from se_med.study.descriptive import Description, Failures, count_failures, describe
from se_med.study.endpoints import ENDPOINTS, Metric, PairedScores, paired_scores
from se_med.study.noise import Noise, measure_noise
from se_med.study.run_model import fit_run_model
from se_med.study.tables import Tables
from se_med.study.verdict import Verdict, decide

SCHEMA_VERSION = 1

CONVENTIONS = {
    "difference": "arm minus reference, paired by fold, seed and case; mean over cases, seeds averaged",
    "interval": "95 %, from a model with the variance of runs (fold x seed), of cases and of the rest; t, Satterthwaite",
    "verdict": "inconclusive below 4 run pairs; equivalent (two one-sided tests), else better or worse; at 5 %, Holm over arms",
    "absent": "a structure absent from reference and prediction counts as perfect where another run of the comparison found it",
    "volume_error_ml": "absolute value of prediction minus reference",
    "worst": "mean of the worst tenth of the cases, each arm's own",
}
"""What the numbers mean; stored with them."""


@dataclass(frozen=True, eq=False)
class StudyStatistics:
    """What follows from the tables of a study.

    Attributes:
        endpoint: name of the endpoint that decides.
        margin: the difference that would matter, in its unit.
        reference: name of the reference.
        verdicts: one per arm that has runs to compare, in the order of the arms.
        noise: the reference against itself.
        descriptions: every score of every structure of every arm.
        failures: missed and spurious structures.
        paired: scores of the endpoint of each arm, side by side with the reference's.
        matched: whether every run pair of an arm is matched; None where that is not known.
        unmatched_reasons: why not, by arm.
        failed: runs that were excluded, as "arm, fold f, seed s: error".
    """

    endpoint: str
    margin: float
    reference: str
    verdicts: tuple[Verdict, ...]
    noise: Noise
    descriptions: tuple[Description, ...]
    failures: tuple[Failures, ...]
    paired: dict[str, PairedScores]
    matched: dict[str, bool | None]
    unmatched_reasons: dict[str, tuple[str, ...]]
    failed: tuple[str, ...]

    @property
    def metric(self) -> Metric:
        """The score that the endpoint is the mean of."""
        return ENDPOINTS[self.endpoint]

    def to_dict(self) -> dict[str, Any]:
        """Return everything as JSON-able data; `version` changes when the meaning of a key does."""
        return {
            "version": SCHEMA_VERSION,
            "endpoint": self.endpoint,
            "margin": self.margin,
            "reference": self.reference,
            "noise": self.noise.to_dict(),
            "verdicts": [
                verdict.to_dict()
                | {"matched": self.matched[verdict.arm], "unmatched_reasons": list(self.unmatched_reasons[verdict.arm])}
                for verdict in self.verdicts
            ],
            "descriptions": [description.to_dict() for description in self.descriptions],
            "failures": [asdict(failure) for failure in self.failures],
            "failed_runs": list(self.failed),
            "conventions": CONVENTIONS,
        }


def compute_statistics(tables: Tables, endpoint: str, margin: float) -> StudyStatistics:
    """Compute everything that a study says.

    Args:
        tables: the tables of the study.
        endpoint: name of the endpoint: `mean_dice`, `mean_nsd` or `mean_hd95`.
        margin: the difference that would matter, in its unit.

    Raises:
        UsageError: no arm has a run that pairs with one of the reference, or the endpoint was not scored.
    """
    metric, reference = ENDPOINTS[endpoint], tables.reference
    others = [arm.name for arm in tables.arms if not arm.reference]
    paired = {arm: paired_scores(tables.cases, arm, reference, metric, None) for arm in others}
    paired = {arm: scores for arm, scores in paired.items() if scores.folds}
    if not paired:
        raise UsageError(
            f"no finished run of an arm pairs with one of {reference!r} by fold, seed and case with {endpoint}; finish the study"
        )
    models = {arm: fit_run_model(scores.differences) for arm, scores in paired.items()}
    return StudyStatistics(
        endpoint=endpoint,
        margin=margin,
        reference=reference,
        verdicts=tuple(decide(models, reference, metric, margin)),
        noise=measure_noise(tables.cases, reference, metric, margin),
        descriptions=tuple(entry for arm in paired for entry in describe(tables.cases, arm, reference)),
        failures=tuple(entry for arm in paired for entry in count_failures(tables.cases, arm, reference)),
        paired=paired,
        matched={arm: _matched(tables, arm) for arm in paired},
        unmatched_reasons={arm: _reasons(tables, arm) for arm in paired},
        failed=tuple(
            f"{run.arm}, fold {run.fold}, seed {run.seed}: {run.error}" for run in tables.runs if run.status == "failed"
        ),
    )


def _matched(tables: Tables, arm: str) -> bool | None:
    known = [run.matched for run in tables.runs if run.arm == arm and run.status == "finished" and run.matched is not None]
    return all(known) if known else None


def _reasons(tables: Tables, arm: str) -> tuple[str, ...]:
    return tuple(dict.fromkeys(run.unmatched_reason for run in tables.runs if run.arm == arm and run.unmatched_reason))
