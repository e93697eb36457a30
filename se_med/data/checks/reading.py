"""Reads one case and finds every error that makes it useless: the rules that training and `se-med check` share."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from se_med.data.case import Case
from se_med.data.checks.finding import Finding
from se_med.data.structures import without
from se_med.errors import ImageError
from se_med.io.images import read_image, read_images, read_label
from se_med.io.volume import Volume, same_geometry

MAX_STRUCTURES = 255
"""Prepared labels are stored as one byte per voxel."""

_KINDS = (
    *(("truncated", "truncated"), ("NaN", "not finite"), ("infinit", "not finite")),
    *(("grid differs", "geometry"), ("does not overlap", "geometry")),
)
_LABEL_WORDS = ("fractional", "negative", "whole number", "label map")
_LISTED = 10  # label values that a message names


@dataclass(frozen=True)
class ReadCase:
    """What reading a case gave.

    Attributes:
        case: the case.
        image: the image; None where it cannot be read.
        label: the label map; None where it cannot be read.
        voxels: number of voxels of each label value that occurs, background (0) first, the ignore label not counted.
        indices: (X, Y, Z) position of each voxel's value in `voxels`; voxels without a reference count as background. None
            where the label cannot be read.
        findings: the errors.
    """

    case: Case
    image: Volume | None
    label: Volume | None
    voxels: dict[int, int]
    indices: NDArray[np.integer] | None
    findings: tuple[Finding, ...]


def read_case(
    case: Case,
    declared: frozenset[int] | None = None,
    ignore_label: int | None = None,
    background_values: Sequence[int] = (),
) -> ReadCase:
    """Read the files of a case and check them.

    Args:
        case: a case with a label.
        declared: label values that may occur beside 0; None: all.
        ignore_label: value of voxels without a reference.
        background_values: values that count as background, beside 0.
    """
    image, findings = _read_image(case)
    label = None
    voxels: dict[int, int] = {}
    indices = None
    if case.label is None:
        findings.append(Finding("folder", "error", "has no label", case.name))
    else:
        try:
            label = read_label(case.label)
        except ImageError as error:
            finding = read_error(error, case, case.label, label=True)
            # A fault that both files share, such as a spacing of 0, is one fault.
            if all(finding.message != other.message for other in findings):
                findings.append(finding)
    if image is not None and label is not None:
        findings += _grid_findings(case, image, label)
    if label is not None:
        labels = without(label.array, background_values)
        ignored = 0 if ignore_label is None else int(np.count_nonzero(labels == ignore_label))
        voxels, indices = compact(np.where(labels == ignore_label, 0, labels) if ignored else labels)
        voxels[0] -= ignored
        findings += _value_findings(case, voxels, declared)
    if image is not None and constant_channels(image.array).all():
        value = float(image.array.flat[0])
        message = f"every voxel is {value:g}; nothing can be learned from it: export the image again, or take the case out"
        findings.append(Finding("constant", "error", message, case.name, case.images[0]))
    return ReadCase(case, image, label, voxels, indices, tuple(findings))


def read_error(error: ImageError, case: Case, path: Path, *, label: bool = False) -> Finding:
    """Turn the refusal of a file into a finding."""
    message = error.message.removeprefix(f"{path}: ")
    kind = next((kind for word, kind in _KINDS if word in message), None)
    if kind is None:
        kind = "bad labels" if label and any(word in message for word in _LABEL_WORDS) else "unreadable"
    if "spacing" in message and kind == "unreadable":
        kind = "spacing"
    return Finding(kind, "error", message, case.name, path)


def pixel_digest(array: NDArray[np.generic]) -> str:
    """Return a digest of shape and values: equal for files that differ in header, compression or voxel type alone."""
    content = np.ascontiguousarray(array)
    digest = hashlib.sha256(repr(content.shape).encode())
    digest.update(content.data)
    return digest.hexdigest()


def constant_channels(image: NDArray[np.float32]) -> NDArray[np.bool_]:
    """Tell for each channel of an image (C, X, Y, Z) whether all its voxels are equal."""
    constant = []
    for voxels in image.reshape(len(image), -1):
        # A few voxels tell for nearly every image that it is not constant.
        alike = (voxels[:: max(1, len(voxels) // 1000)] == voxels[0]).all()
        constant.append(bool(alike and voxels.min() == voxels.max()))
    return np.array(constant)


def compact(labels: NDArray[np.integer]) -> tuple[dict[int, int], NDArray[np.integer]]:
    """Return the number of voxels of each value, sorted by value and 0 first, and the labels as positions in that order."""
    top = int(labels.max(initial=0))
    if top < 2**16:
        counts = np.bincount(labels.ravel())
        values = np.union1d([0], np.flatnonzero(counts))
        counts = counts[values]
    else:
        values, counts = np.unique(labels, return_counts=True)
        if values[0] != 0:
            values, counts = np.append(0, values), np.append(0, counts)
    indices = np.searchsorted(values, labels) if top >= 2**16 else _lookup(values, top)[labels]
    return {int(value): int(count) for value, count in zip(values, counts, strict=True)}, indices


def matrix(affine: NDArray[np.float64]) -> tuple[tuple[float, ...], ...]:
    """Return an affine as a finding holds it."""
    return tuple(tuple(float(value) for value in row) for row in affine)


def _read_image(case: Case) -> tuple[Volume | None, list[Finding]]:
    try:
        return read_images(case.images), []
    except ImageError as error:
        findings = []
        # The reader stops at the first file that is bad; all of them are to be told.
        for path in case.images if len(case.images) > 1 else ():
            try:
                read_image(path)
            except ImageError as one:
                findings.append(read_error(one, case, path))
        named = next((path for path in case.images if error.message.startswith(f"{path}: ")), case.images[0])
        return None, findings or [read_error(error, case, named)]


def _grid_findings(case: Case, image: Volume, label: Volume) -> list[Finding]:
    mismatch = same_geometry(image, label)
    if mismatch is None:
        return []
    message = f"not on the grid of {case.images[0].name}: {mismatch}; resample the label onto the image, or find the right file"
    matrices = {"image": matrix(image.affine), "label": matrix(label.affine)}
    return [Finding("geometry", "error", message, case.name, case.label, matrices=matrices)]


def _value_findings(case: Case, voxels: dict[int, int], declared: frozenset[int] | None) -> list[Finding]:
    structures = {value: count for value, count in voxels.items() if value != 0}
    if len(structures) > MAX_STRUCTURES:
        message = f"{len(structures)} different values; is it an image? At most {MAX_STRUCTURES} structures are allowed"
        return [Finding("bad labels", "error", message, case.name, case.label)]
    unknown = {} if declared is None else {value: count for value, count in structures.items() if value not in declared}
    if not unknown:
        return []
    listed = ", ".join(f"{value} ({count} voxels)" for value, count in list(unknown.items())[:_LISTED])
    more = f" and {len(unknown) - _LISTED} more" if len(unknown) > _LISTED else ""
    remedy = "declare them in data.labels, or correct the label map"
    if set(unknown) == {255}:
        remedy = "a mask of 0 and 255: give 255 as the value of its structure in data.labels"
    message = f"undeclared label values {listed}{more}; declared are {sorted(declared or ())}; {remedy}"
    return [Finding("undeclared", "error", message, case.name, case.label)]


def _lookup(values: NDArray[np.integer], top: int) -> NDArray[np.integer]:
    table = np.zeros(top + 1, dtype=np.min_scalar_type(len(values)))
    table[values] = np.arange(len(values))
    return table
