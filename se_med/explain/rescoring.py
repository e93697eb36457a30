"""Dice of labelled cases with the network as it is and with variants of it: each case read once, all variants paired by case."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from se_med.data.case import Case
from se_med.data.preparation import Prepared
from se_med.errors import UsageError
from se_med.evaluation.metrics import StructureScore, score_case
from se_med.explain.variants import Variant, predict_variants, single_pass
from se_med.inference.predictor import Predictor
from se_med.io.images import read_image, read_images, read_label
from se_med.progress import Progress, silent

OVER_STRUCTURES = "mean"
"""What the mean over the structures of a case is called where structures are named."""

Changes = Mapping[str, Mapping[str, float]]
"""By case and structure (`mean` among them), Dice or a change of it."""


@dataclass(frozen=True, eq=False)
class Measured:
    """Dice of every case, and what variants change in it.

    Attributes:
        baseline: by case and structure, Dice of the network as it is; the mean over structures under `mean`.
        changes: the same of each variant, minus the baseline.
    """

    baseline: Changes
    changes: tuple[Changes, ...]


def measure_changes(
    predictor: Predictor,
    cases: Sequence[Case],
    variants: Sequence[Variant],
    *,
    seed: int = 0,
    progress: Progress = silent,
) -> Measured:
    """Score every case with the network as it is and with each variant.

    A structure that is absent from reference and prediction counts as perfect where it is there in one of the two predictions, so
    that a false alarm is a loss; one that neither has nor should have enters nothing.

    Args:
        predictor: of one network.
        cases: labelled cases.
        variants: see `Variant`.
        seed: of the order of the ring along which shuffled gates are passed on.
        progress: told of the cases.

    Raises:
        UsageError: a case without a label, or no case.
    """
    if not cases:
        raise UsageError("no labelled case: knocking gates out needs references to score against; give --labels")
    single = single_pass(predictor)
    order = np.random.default_rng(seed).permutation(len(cases))
    shuffled = any(variant.shuffled for variant in variants)
    baseline: dict[str, dict[str, float]] = {}
    changes: list[dict[str, dict[str, float]]] = [{} for _ in variants]
    donor = _prepared(single, cases[order[-1]]) if shuffled else None
    with progress("knocking out gates", len(cases)) as advance:
        for position, index in enumerate(order):
            case = cases[index]
            prepared = _prepared(single, case)
            labels = predict_variants(single, prepared, [Variant(), *variants], None if donor is None else donor.array)
            scores = [_score(predictor, case, prediction) for prediction in labels]
            baseline[case.name] = _with_mean(_dice(scores[0], scores))
            for own, score in zip(changes, scores[1:], strict=True):
                before, after = _dice(scores[0], [score]), _dice(score, [scores[0]])
                own[case.name] = _with_mean({name: after[name] - before[name] for name in before})
            donor = prepared if shuffled else None
            advance(position + 1, case.name)
    return Measured(baseline, tuple(changes))


def draw_cases(cases: Sequence[Case], limit: int | None, seed: int) -> list[Case]:
    """Return at most `limit` of the cases, drawn at random, in their own order."""
    if limit is None or limit >= len(cases):
        return list(cases)
    drawn = np.random.default_rng(seed).choice(len(cases), limit, replace=False)
    return [cases[index] for index in sorted(drawn)]


def _prepared(predictor: Predictor, case: Case) -> Prepared:
    files = case.images
    return predictor.preparation.forward(read_image(files[0]) if len(files) == 1 else read_images(files))


def _score(predictor: Predictor, case: Case, prediction: NDArray[np.integer[Any]]) -> dict[str, StructureScore]:
    if case.label is None:
        raise UsageError(f"{case.name}: has no label; knocking gates out needs references to score against")
    reference, plan = read_label(case.label), predictor.plan
    scores = score_case(
        case.name,
        prediction,
        reference.array,
        reference.spacing,
        plan.structures.values,
        predictor.config.evaluation.tolerance,
        surfaces=False,
        ignore_label=plan.ignore_label,
        background_values=plan.background_values,
    )
    return {score.structure: score for score in scores}


def _dice(scores: Mapping[str, StructureScore], others: Sequence[Mapping[str, StructureScore]]) -> dict[str, float]:
    """Return Dice by structure; 1 where a structure is rightly left out that one of the others has found."""
    found: dict[str, float] = {}
    for name, score in scores.items():
        if score.dice is not None:
            found[name] = score.dice
        elif any(other[name].dice is not None for other in others):
            found[name] = 1.0
    return found


def _with_mean(values: Mapping[str, float]) -> dict[str, float]:
    return {OVER_STRUCTURES: float(np.mean(list(values.values()))), **values} if values else {}
