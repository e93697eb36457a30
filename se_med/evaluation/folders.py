"""Folders of segmentations against folders of references: pairs by name, scores each pair, lists what does not fit."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from se_med.data.layouts.pairing import list_images
from se_med.data.structures import LabelValues, without
from se_med.errors import DataError, ImageError, UsageError
from se_med.evaluation.meaning import find_meaning
from se_med.evaluation.metrics import StructureScore, refuse_undeclared, score_case
from se_med.evaluation.summary import Summary, summarise
from se_med.io.image2d import is_flat
from se_med.io.images import IMAGE_SUFFIXES, image_stem, read_label
from se_med.io.volume import same_geometry
from se_med.progress import Progress, silent

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Failure:
    """A case that could not be scored and enters no mean.

    Attributes:
        case: name of the case.
        message: one line that names the file and what is wrong.
    """

    case: str
    message: str


@dataclass(frozen=True)
class Evaluation:
    """A folder of predictions against a folder of references.

    Attributes:
        summary: scores and their means.
        labels: name and value of each structure, or its values where there are several.
        labels_from: where the labels come from.
        failures: cases that could not be scored; they enter no mean.
        missing: names of the references without a prediction; they count as missed, unless `only_predicted` leaves them out.
        extra: names of the predictions without a reference; they are not scored.
        flat: names of the references that are 2D images: what is in mm elsewhere is in pixels there.
        only_predicted: whether references without a prediction are left out of all scores.
    """

    summary: Summary
    labels: dict[str, int | tuple[int, ...]]
    labels_from: str
    failures: tuple[Failure, ...]
    missing: tuple[str, ...]
    extra: tuple[str, ...]
    flat: tuple[str, ...] = ()
    only_predicted: bool = False

    @property
    def predicted(self) -> Summary:
        """The scores of the references that have a prediction, and their means."""
        present = [score for score in self.summary.scores if not score.prediction_missing]
        return summarise(present, tolerance=self.summary.tolerance)

    @property
    def mean_line(self) -> str:
        """Which cases the means are over, where some references have no prediction; else empty."""
        if not self.missing:
            return ""
        count, predicted = len(self.missing), self.predicted
        over = f"{_dice(predicted.mean_dice)} over the {predicted.cases} cases that were predicted"
        if self.only_predicted:
            return f"mean Dice {over}; {count} references without a prediction are left out"
        return (
            f"mean Dice {_dice(self.summary.mean_dice)} over {self.summary.cases} cases, {count} of them without a prediction "
            f"and counted as missed; {over} (--only-predicted)"
        )

    @property
    def warnings(self) -> tuple[str, ...]:
        """What a reader of the numbers should know, one line each."""
        lines = list(self.summary.warnings)
        if self.missing:
            fate = "are left out" if self.only_predicted else "count as missed"
            lines.append(f"{len(self.missing)} references have no prediction and {fate}: {_listed(self.missing)}")
        if self.extra:
            lines.append(f"{len(self.extra)} predictions have no reference and are not scored: {_listed(self.extra)}")
        if self.flat:
            lines.append(
                f"{len(self.flat)} cases are 2D images, whose pixel size is not known: read pixels for mm, and thousands of "
                f"pixels for ml: {_listed(self.flat)}"
            )
        if self.failures:
            names = [failure.case for failure in self.failures]
            lines.append(f"{len(names)} cases could not be scored and are in no mean: {_listed(names)}")
        return tuple(lines)

    def to_dict(self) -> dict[str, Any]:
        """Return everything as JSON-able data: the summary's keys and those of this class."""
        return {
            **self.summary.to_dict(),
            "labels": self.labels,
            "labels_from": self.labels_from,
            "failures": [{"case": failure.case, "message": failure.message} for failure in self.failures],
            "missing": list(self.missing),
            "only_predicted": self.only_predicted,
            "predicted": {"cases": self.predicted.cases, "mean_dice": self.predicted.mean_dice},
            "extra": list(self.extra),
            "warnings": list(self.warnings),
        }


def evaluate_folder(
    prediction: str | Path,
    reference: str | Path,
    labels: LabelValues | None = None,
    tolerance: float = 1.0,
    progress: Progress = silent,
    *,
    surfaces: bool = True,
    ignore_label: int | None = None,
    background_values: Sequence[int] = (),
    only_predicted: bool = False,
) -> Evaluation:
    """Score every reference of a folder against the prediction of the same name.

    Pairs have equal names but for the suffix; two single files are a pair whatever their names. A missing prediction
    counts as an empty one. A pair that cannot be scored, as its grids or labels do not fit, is listed and the rest go on.

    Args:
        prediction: folder of label maps, or one file.
        reference: folder of label maps, or one file.
        labels: name and value of each structure, or a list of its values; structures may share values. By default those of the
            predictions' sidecars, else those of the `dataset.json` in the folder of the references or the one above, else the
            values in the references, named by value.
        tolerance: tolerance of the NSD, in mm.
        progress: shows how far it is.
        surfaces: whether to compute HD95 and NSD, which take most of the time.
        ignore_label: value in the references of voxels that have no truth and are not scored; it is no structure.
        background_values: values that count as background, beside 0 and those of the predictions' sidecars.
        only_predicted: leave references without a prediction out of all scores, instead of counting them as missed.

    Raises:
        UsageError: a path does not exist, a folder has no images or two of one name, the tolerance is not positive, the labels
            are not usable, or no reference has a prediction though only these are asked for.
        DataError: `dataset.json` is not usable.
    """
    if not (np.isfinite(tolerance) and tolerance > 0):
        raise UsageError(f"tolerance {tolerance:g}: must be a positive number of mm")
    predictions, references = find_label_files(prediction, reference)
    missing = tuple(case for case in references if case not in predictions)
    if missing:
        _tell_missing(len(missing), len(references), only_predicted)
    scored = {case: path for case, path in references.items() if case in predictions or not only_predicted}
    meaning = find_meaning(labels, predictions, references, Path(reference), ignore_label, background_values)
    options = {"surfaces": surfaces, "ignore_label": ignore_label, "background_values": meaning.background_values}
    scores: list[StructureScore] = []
    failures: list[Failure] = []
    with progress("evaluate", len(scored)) as advance:
        for number, (case, path) in enumerate(scored.items(), 1):
            try:
                scores += _score_pair(case, predictions.get(case), path, meaning.labels, tolerance, options)
            except ImageError as error:
                failures.append(Failure(case, error.message))
            advance(number, case)
    return Evaluation(
        summary=summarise(scores, tolerance=tolerance),
        labels=meaning.labels,
        labels_from=meaning.source,
        failures=tuple(failures),
        missing=missing,
        extra=tuple(case for case in predictions if case not in references),
        flat=tuple(case for case, path in scored.items() if is_flat(path)),
        only_predicted=only_predicted,
    )


def _tell_missing(missing: int, references: int, only_predicted: bool) -> None:
    """Say before the work begins what a mean over all references would hide.

    Raises:
        UsageError: nothing is left to be scored.
    """
    if only_predicted and missing == references:
        raise UsageError(
            f"none of the {references} references has a prediction of its name; names must be equal but for the suffix"
        )
    fate = "are left out" if only_predicted else "count as missed; --only-predicted leaves them out"
    log.warning("%d of %d references have no prediction and %s", missing, references, fate)


def find_label_files(prediction: str | Path, reference: str | Path) -> tuple[dict[str, Path], dict[str, Path]]:
    """Return the predictions and the references by case name.

    Raises:
        UsageError: as for `evaluate_folder`.
    """
    prediction, reference = Path(prediction), Path(reference)
    predictions, references = volumes_by_name(prediction), volumes_by_name(reference)
    if prediction.is_file() and reference.is_file():
        predictions = dict(zip(references, predictions.values(), strict=True))
    return predictions, references


def _score_pair(
    case: str,
    prediction: Path | None,
    reference: Path,
    labels: LabelValues,
    tolerance: float,
    options: dict[str, Any],
) -> list[StructureScore]:
    expected = read_label(reference)
    no_structure = (*options["background_values"], options["ignore_label"] or 0)
    refuse_undeclared(without(expected.array, no_structure), labels, reference)
    if prediction is None:
        empty = np.zeros_like(expected.array)
        scores = score_case(case, empty, expected.array, expected.spacing, labels, tolerance, **options)
        return [replace(score, prediction_missing=True) for score in scores]
    found = read_label(prediction)
    refuse_undeclared(without(found.array, options["background_values"]), labels, prediction)
    difference = same_geometry(found, expected)
    if difference:
        raise ImageError(f"{prediction}: grid differs from {reference}: {difference}; resample one onto the other")
    return score_case(case, found.array, expected.array, expected.spacing, labels, tolerance, **options)


def volumes_by_name(entry: Path) -> dict[str, Path]:
    """Return the volumes and 2D images of a folder, or the one file, by name.

    Raises:
        UsageError: the path does not exist, a folder has no images or two of one name.
    """
    if entry.is_dir():
        try:
            volumes = list_images(entry)
        except DataError as error:
            raise UsageError(error.message) from None
    elif not entry.exists():
        raise UsageError(f"{entry}: does not exist")
    elif not entry.name.lower().endswith(IMAGE_SUFFIXES):
        raise UsageError(f"{entry}: not an image; name a {' or '.join(IMAGE_SUFFIXES)} file, or a folder of them")
    else:
        volumes = [entry]
    files: dict[str, Path] = {}
    for path in volumes:
        name = image_stem(path)
        if name in files:
            raise UsageError(f"{files[name]} and {path} are both case {name!r}; keep one")
        files[name] = path
    return files


def _dice(value: float | None) -> str:
    return "-" if value is None else f"{value:.4f}"


def _listed(names: Sequence[str]) -> str:
    return ", ".join(names[:10]) + (f" and {len(names) - 10} more" if len(names) > 10 else "")
