"""The cases that a report shows: which, segmented by every arm, as pictures and as volumes for the viewer."""

from __future__ import annotations

import base64
import gzip
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
from numpy.typing import NDArray

from se_med.config.load import load_config
from se_med.data.case import Case
from se_med.data.layouts import find_dataset
from se_med.errors import SeMedError, UsageError
from se_med.evaluation.picture import draw_panels
from se_med.inference.predictor import Predictor
from se_med.io.images import read_image, read_images, read_label
from se_med.io.volume import Volume
from se_med.page import figure_uri
from se_med.progress import Progress, silent
from se_med.study.statistics import StudyStatistics
from se_med.study.tables import RunRow, Tables
from se_med.training.run_folder import RunFolder

log = logging.getLogger(__name__)

MARGIN_MM = 15.0
"""Surroundings of the structures that the viewer shows."""
LARGEST = 1_500_000
"""Voxels of a volume in the viewer; larger ones are thinned out."""

Labels = NDArray[np.integer[Any]]


@dataclass(frozen=True)
class ChosenCase:
    """A case to show, and the runs that held it out.

    Attributes:
        name: the case.
        reason: why it is shown.
        fold: the fold that holds it out.
        seed: the seed of the runs that are shown.
        scores: endpoint of the case by arm, all seeds averaged.
    """

    name: str
    reason: str
    fold: int
    seed: int
    scores: dict[str, float]


@dataclass(frozen=True)
class ShownCase:
    """A case as the page shows it.

    Attributes:
        chosen: which and why.
        picture: figure of all arms, a data URI.
        volumes: gzipped NIfTI volumes in base64 by name, the image first: 8-bit image, then reference and arms as label maps with
            structures numbered from 1.
    """

    chosen: ChosenCase
    picture: str
    volumes: dict[str, str]


def choose_cases(tables: Tables, statistics: StudyStatistics) -> list[ChosenCase]:
    """Choose the best, the median and the worst case of all arms together, and where each arm gains and loses most."""
    sign = statistics.metric.sign
    scores: dict[str, dict[str, float]] = {}
    folds: dict[str, int] = {}
    for arm, paired in statistics.paired.items():
        mine, others = paired.over_seeds()
        for case, value, other in zip(paired.cases, mine, others, strict=True):
            scores.setdefault(case, {statistics.reference: float(other)})[arm] = float(value)
        folds |= {case: fold.fold for fold in paired.folds for case in fold.cases}
    ranked = sorted(scores, key=lambda case: (sign * float(np.mean(list(scores[case].values()))), case))
    reasons: dict[str, list[str]] = {}
    for reason, case in (("best", ranked[-1]), ("median", ranked[len(ranked) // 2]), ("worst", ranked[0])):
        reasons.setdefault(case, []).append(reason)
    for case, arm in _most_different(scores, statistics):
        gain = (scores[case][arm] - scores[case][statistics.reference]) * sign
        word = "gains" if gain > 0 else "loses"
        reasons.setdefault(case, []).append(f"most different: {arm} {word} {statistics.metric.text(abs(gain))}")
    chosen = []
    for case, found in reasons.items():
        seed = _common_seed(tables.runs, folds[case], list(scores[case]))
        if seed is not None:
            chosen.append(ChosenCase(case, "; ".join(found), folds[case], seed, scores[case]))
    return chosen


def _most_different(scores: Mapping[str, Mapping[str, float]], statistics: StudyStatistics) -> list[tuple[str, str]]:
    """Return case and arm of the largest gain and of the largest loss."""
    changes = [
        ((values[arm] - values[statistics.reference]) * statistics.metric.sign, case, arm)
        for case, values in scores.items()
        for arm in values
        if arm != statistics.reference
    ]
    ends = [max(changes), min(changes)]
    return [(case, arm) for change, case, arm in ends if change != 0]


def _common_seed(runs: Sequence[RunRow], fold: int, arms: Sequence[str]) -> int | None:
    """Return the first seed with which all arms have a finished run on a fold."""
    finished = {(run.arm, run.seed) for run in runs if run.fold == fold and run.status == "finished"}
    seeds = sorted({seed for _, seed in finished})
    return next((seed for seed in seeds if all((arm, seed) in finished for arm in arms)), None)


def show_cases(
    folder: Path, tables: Tables, chosen: Sequence[ChosenCase], progress: Progress = silent
) -> tuple[list[ShownCase], str]:
    """Segment the chosen cases with the runs that held them out, and draw them.

    Args:
        folder: the study folder.
        tables: its tables.
        chosen: the cases.
        progress: shows how far it is.

    Returns:
        The cases, and why some are missing: one line, empty where none is. A study whose data or weights were moved away still
        has its report.
    """
    shown: list[ShownCase] = []
    with progress("pictures", len(chosen)) as advance:
        for number, case in enumerate(chosen):
            try:
                shown.append(_show(folder, tables, case))
            except (SeMedError, OSError) as error:
                log.warning("warning: no pictures of the remaining cases: %s", error)
                return shown, f"Cases without pictures, from {case.name} on: {error}"
            advance(number + 1, case.name)
    return shown, ""


def _show(folder: Path, tables: Tables, chosen: ChosenCase) -> ShownCase:
    runs = {
        run.arm: RunFolder(folder / run.folder)
        for run in tables.runs
        if (run.fold, run.seed, run.status) == (chosen.fold, chosen.seed, "finished") and run.arm in chosen.scores
    }
    case = find_dataset(load_config(next(iter(runs.values())).config).data).case(chosen.name)
    if case.label is None:
        raise UsageError(f"{chosen.name}: has no reference segmentation any more")
    image = _image(case)
    predictors = {arm: Predictor.load(run.path, device="cpu") for arm, run in runs.items()}
    predictions = {arm: predictor.predict(image).labels for arm, predictor in predictors.items()}
    plan = next(iter(predictors.values())).plan
    reference = read_label(case.label).array
    if plan.ignore_label is not None:
        unknown = reference == plan.ignore_label
        predictions = {arm: np.where(unknown, 0, labels) for arm, labels in predictions.items()}
        reference = np.where(unknown, 0, reference)
    titles = {f"{arm}   {chosen.scores[arm]:.3f}": labels for arm, labels in predictions.items()}
    figure = draw_panels(image, titles, reference, plan.structures.values)
    return ShownCase(
        chosen, figure_uri(figure, "png"), _volumes(image, {"reference": reference, **predictions}, plan.structures.values)
    )


def _image(case: Case) -> Volume:
    return read_image(case.images[0]) if len(case.images) == 1 else read_images(case.images)


def _volumes(image: Volume, maps: Mapping[str, Labels], structures: Mapping[str, Sequence[int]]) -> dict[str, str]:
    """Cut image and label maps to the structures and their surroundings, and pack them."""
    cut, affine = _cut(image, list(maps.values()))
    voxels = image.array[0][cut]
    low, high = np.percentile(voxels, (0.5, 99.5))
    grey = np.clip((voxels - low) / max(float(high - low), 1e-6) * 255, 0, 255).astype(np.uint8)
    packed = {"image": _packed(grey, affine)}
    for name, labels in maps.items():
        numbered = np.zeros(grey.shape, np.uint8)
        for number, values in enumerate(structures.values(), start=1):
            numbered[np.isin(labels[cut], values)] = number
        packed[name] = _packed(numbered, affine, "label")
    return packed


def _cut(image: Volume, maps: Sequence[Labels]) -> tuple[tuple[slice, ...], NDArray[np.float64]]:
    """Return the box to show, with a step where it would be too large, and its affine."""
    foreground = np.logical_or.reduce([labels > 0 for labels in maps])
    box = []
    for axis, length in enumerate(foreground.shape):
        occupied = np.flatnonzero(foreground.any(axis=tuple(other for other in range(3) if other != axis)))
        margin = int(np.ceil(MARGIN_MM / image.spacing[axis]))
        first, last = (int(occupied[0]), int(occupied[-1])) if occupied.size else (0, length - 1)
        box.append((max(0, first - margin), min(length, last + margin + 1)))
    size = float(np.prod([stop - start for start, stop in box]))
    step = max(1, int(np.ceil((size / LARGEST) ** (1 / 3))))
    affine = image.affine.copy()
    affine[:3, 3] += affine[:3, :3] @ np.array([start for start, _ in box])
    affine[:3, :3] *= step
    return tuple(slice(start, stop, step) for start, stop in box), affine


def _packed(array: NDArray[np.uint8], affine: NDArray[np.float64], intent: str = "none") -> str:
    """Return a volume as gzipped NIfTI in base64; equal volumes give equal text."""
    volume = nib.Nifti1Image(array, affine)
    volume.set_sform(affine, 1)
    volume.set_qform(affine, 1)
    volume.header.set_intent(intent)  # the viewer outlines what says that it is a label map
    return base64.b64encode(gzip.compress(volume.to_bytes(), compresslevel=9, mtime=0)).decode("ascii")
