"""Folders of segmentations against folders of references: pairs by name, scores each pair, lists what does not fit."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from se_med.data.layouts.description import FILE_NAME, read_description
from se_med.data.layouts.pairing import list_images
from se_med.errors import DataError, ImageError, UsageError
from se_med.evaluation.metrics import StructureScore, refuse_undeclared, score_case
from se_med.evaluation.summary import Summary, summarise
from se_med.io.image2d import is_flat
from se_med.io.images import IMAGE_SUFFIXES, image_stem, read_label
from se_med.io.nifti import same_geometry
from se_med.progress import Progress, silent


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
        labels: name and value of each structure.
        labels_from: where the labels come from.
        failures: cases that could not be scored; they enter no mean.
        missing: names of the references without a prediction; they count as missed.
        extra: names of the predictions without a reference; they are not scored.
        flat: names of the references that are 2D images: what is in mm elsewhere is in pixels there.
    """

    summary: Summary
    labels: dict[str, int]
    labels_from: str
    failures: tuple[Failure, ...]
    missing: tuple[str, ...]
    extra: tuple[str, ...]
    flat: tuple[str, ...] = ()

    @property
    def warnings(self) -> tuple[str, ...]:
        """What a reader of the numbers should know, one line each."""
        lines = list(self.summary.warnings)
        if self.missing:
            lines.append(f"{len(self.missing)} references have no prediction and count as missed: {_listed(self.missing)}")
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
            "extra": list(self.extra),
            "warnings": list(self.warnings),
        }


def evaluate_folder(
    prediction: str | Path,
    reference: str | Path,
    labels: Mapping[str, int] | None = None,
    tolerance: float = 1.0,
    progress: Progress = silent,
    *,
    surfaces: bool = True,
    ignore_label: int | None = None,
) -> Evaluation:
    """Score every reference of a folder against the prediction of the same name.

    Pairs have equal names but for the suffix; two single files are a pair whatever their names. A missing prediction
    counts as an empty one. A pair that cannot be scored, as its grids or labels do not fit, is listed and the rest go on.

    Args:
        prediction: folder of label maps, or one file.
        reference: folder of label maps, or one file.
        labels: name and value of each structure. By default those of the predictions' sidecars, else those of the
            `dataset.json` in the folder of the references or the one above, else the values in the references, named by value.
        tolerance: tolerance of the NSD, in mm.
        progress: shows how far it is.
        surfaces: whether to compute HD95 and NSD, which take most of the time.
        ignore_label: value in the references of voxels that have no truth and are not scored; it is no structure.

    Raises:
        UsageError: a path does not exist, a folder has no images or two of one name, the tolerance is not positive, or the
            labels are not usable.
        DataError: `dataset.json` is not usable.
    """
    if not (np.isfinite(tolerance) and tolerance > 0):
        raise UsageError(f"tolerance {tolerance:g}: must be a positive number of mm")
    predictions, references = find_label_files(prediction, reference)
    labels, labels_from = _labels(labels, predictions, references, Path(reference), ignore_label)
    if ignore_label in labels.values():
        raise UsageError(
            f"ignore label {ignore_label}: is the value of a structure ({labels_from}: {labels}); give another value"
        )
    scores: list[StructureScore] = []
    failures: list[Failure] = []
    with progress("evaluate", len(references)) as advance:
        for number, (case, path) in enumerate(references.items(), 1):
            try:
                scores += _score_pair(case, predictions.get(case), path, labels, tolerance, surfaces, ignore_label)
            except ImageError as error:
                failures.append(Failure(case, error.message))
            advance(number, case)
    return Evaluation(
        summary=summarise(scores, tolerance=tolerance),
        labels=labels,
        labels_from=labels_from,
        failures=tuple(failures),
        missing=tuple(case for case in references if case not in predictions),
        extra=tuple(case for case in predictions if case not in references),
        flat=tuple(case for case, path in references.items() if is_flat(path)),
    )


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
    labels: Mapping[str, int],
    tolerance: float,
    surfaces: bool,
    ignore_label: int | None,
) -> list[StructureScore]:
    expected = read_label(reference)
    known = expected.array if ignore_label is None else expected.array[expected.array != ignore_label]
    refuse_undeclared(known, labels, reference)
    options: dict[str, Any] = {"surfaces": surfaces, "ignore_label": ignore_label}
    if prediction is None:
        empty = np.zeros_like(expected.array)
        scores = score_case(case, empty, expected.array, expected.spacing, labels, tolerance, **options)
        return [replace(score, prediction_missing=True) for score in scores]
    found = read_label(prediction)
    refuse_undeclared(found.array, labels, prediction)
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


def _labels(
    given: Mapping[str, int] | None,
    predictions: Mapping[str, Path],
    references: Mapping[str, Path],
    reference: Path,
    ignore_label: int | None,
) -> tuple[dict[str, int], str]:
    """Return the structures and where they come from."""
    if given is not None:
        return _usable(given, "the given labels"), "given"
    sidecars = {path.parent / f"{image_stem(path)}.json" for path in predictions.values()}
    found = {str(path): entry for path in sorted(sidecars) if (entry := _sidecar_labels(path)) is not None}
    if found:
        first = next(iter(found))
        for path, entry in found.items():
            if entry != found[first]:
                raise UsageError(f"{path}: has labels {entry}, {first} has {found[first]}; predictions of two models are mixed")
        return found[first], "sidecars of the predictions"
    folder = reference if reference.is_dir() else reference.parent
    for root in (folder, folder.parent):
        declared = read_description(root).labels(ignore_label)
        if declared is not None:
            return _usable(declared, str(root / FILE_NAME)), str(root / FILE_NAME)
    values = [value for value in _values(references.values()) if value != ignore_label]
    if not values:
        raise UsageError(f"{reference}: no structure in any reference, and no labels given; give the name and value of each")
    return {str(value): value for value in values}, "values in the references"


def _sidecar_labels(path: Path) -> dict[str, int] | None:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    except (OSError, ValueError, RecursionError) as error:
        raise UsageError(f"{path}: not readable as JSON: {error}; remove it, or give the labels") from None
    if not isinstance(content, dict) or "labels" not in content:
        return None
    return _usable(content["labels"], str(path))


def _usable(labels: Any, where: str) -> dict[str, int]:
    """Check that labels map names to different positive whole numbers."""
    if not isinstance(labels, Mapping) or not labels:
        raise UsageError(f"{where}: labels {labels!r} are not a mapping from name to value")
    for name, value in labels.items():
        if isinstance(value, bool) or not isinstance(value, int) or value < 1:
            raise UsageError(f"{where}: label {name!r} has the value {value!r}; use whole numbers from 1")
    if len(set(labels.values())) != len(labels):
        raise UsageError(f"{where}: two labels have the same value: {dict(labels)}")
    return dict(labels)


def _values(references: Iterable[Path]) -> Sequence[int]:
    """Return all values in the references but 0; files that cannot be read fail later, one by one."""
    values: set[int] = set()
    for path in references:
        try:
            values.update(np.unique(read_label(path).array).tolist())
        except ImageError:
            continue
    return sorted(values - {0})


def _listed(names: Sequence[str]) -> str:
    return ", ".join(names[:10]) + (f" and {len(names) - 10} more" if len(names) > 10 else "")
