"""Scores of one case: Dice, HD95, NSD and volumes of each structure, and what happens where a structure is empty.

Policy. A structure that is empty in both label maps is *absent*: it has no scores and enters no mean. One that only the
prediction lacks is *missed*, one that only the reference lacks is *spurious*: both have Dice 0, NSD 0 and, as HD95, the diagonal
of the image. So no miss and no false alarm is ever left out of a mean.

Voxels that the reference marks with an ignore label have no truth: both label maps are set to background there before anything
is counted. So they enter no overlap and no volume, and the surfaces of both masks end at the border of such a region.

A structure may have several label values, and structures may share values (whole tumour, tumour core): each is scored by itself,
as the mask of its values.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from monai.metrics.hausdorff_distance import compute_hausdorff_distance
from monai.metrics.surface_dice import compute_surface_dice
from numpy.typing import NDArray

from se_med.config.labels import as_values
from se_med.data.structures import Labels, LabelValues, mask_of, without
from se_med.errors import ImageError

Status = Literal["present", "absent", "missed", "spurious"]

PERCENTILE = 95.0
SLACK = 1e-4
"""Share by which a distance may exceed the NSD tolerance: headers store spacings as float32, so 1 mm may read 1.0000001 mm."""


@dataclass(frozen=True)
class StructureScore:
    """How well one structure of one case was segmented.

    Attributes:
        case: name of the case.
        structure: name of the structure.
        status: "present" in both label maps, "absent" from both (not counted), "missed" (prediction empty) or "spurious"
            (reference empty).
        dice: Dice coefficient, 0 to 1; None when absent.
        hd95: 95th percentile Hausdorff distance in mm; None when absent or not asked for.
        nsd: normalised surface distance (surface Dice), 0 to 1; None when absent or not asked for.
        prediction_ml: volume of the prediction, in ml.
        reference_ml: volume of the reference, in ml.
        max_spacing_mm: longest edge of the voxels, in mm. An NSD tolerance below it says little.
        prediction_missing: there is no prediction of this case at all, which counts as an empty one.
    """

    case: str
    structure: str
    status: Status
    dice: float | None
    hd95: float | None
    nsd: float | None
    prediction_ml: float
    reference_ml: float
    max_spacing_mm: float
    prediction_missing: bool = False

    @property
    def volume_error_ml(self) -> float:
        """Volume of the prediction minus volume of the reference, in ml."""
        return self.prediction_ml - self.reference_ml


def score_case(
    case: str,
    prediction: Labels,
    reference: Labels,
    spacing: Sequence[float],
    labels: LabelValues,
    tolerance: float,
    *,
    surfaces: bool = True,
    ignore_label: int | None = None,
    background_values: Sequence[int] = (),
) -> list[StructureScore]:
    """Score every structure of one case.

    HD95 is the larger of the two directed 95th percentiles of the distances between the surface voxels of both masks, in mm
    (other tools pool both directions, or weigh by area, and give other numbers). NSD is the share of the surface voxels of both
    masks that lie within `tolerance` of the other surface (Nikolov et al. 2018, arXiv 1809.04430, counted in voxels). Both are
    MONAI's. A surface voxel is one with a face on the outside of its mask; the border of the image counts as outside.

    Args:
        case: name of the case, for the scores and for messages.
        prediction: label values (X, Y, Z), or (X, Y).
        reference: label values on the same grid.
        spacing: voxel spacing in mm, per axis.
        labels: name and value, or values, of each structure.
        tolerance: tolerance of the NSD, in mm.
        surfaces: whether to compute HD95 and NSD, which take most of the time.
        ignore_label: value in the reference of voxels that have no truth and are not scored.
        background_values: values that count as background, beside 0.

    Returns:
        One score per structure, in the order of `labels`.

    Raises:
        ImageError: the label maps have different shapes, or one holds a value that is not in `labels`.
    """
    if prediction.shape != reference.shape:
        raise ImageError(f"{case}: the prediction has shape {prediction.shape}, the reference {reference.shape}")
    if ignore_label is not None:
        unknown = reference == ignore_label
        prediction, reference = np.where(unknown, 0, prediction), np.where(unknown, 0, reference)
    prediction, reference = without(prediction, background_values), without(reference, background_values)
    for name, array in (("prediction", prediction), ("reference", reference)):
        refuse_undeclared(array, labels, f"{case}: {name}")
    voxel = float(np.prod(spacing)) / 1000.0
    scores = []
    for name, values in labels.items():
        predicted, referenced = mask_of(prediction, values), mask_of(reference, values)
        status, dice, hd95, nsd = _score(predicted, referenced, spacing, tolerance, surfaces)
        scores.append(
            StructureScore(
                case=case,
                structure=name,
                status=status,
                dice=dice,
                hd95=hd95,
                nsd=nsd,
                prediction_ml=int(np.count_nonzero(predicted)) * voxel,
                reference_ml=int(np.count_nonzero(referenced)) * voxel,
                max_spacing_mm=float(max(spacing)),
            )
        )
    return scores


def _score(
    predicted: NDArray[np.bool_], referenced: NDArray[np.bool_], spacing: Sequence[float], tolerance: float, surfaces: bool
) -> tuple[Status, float | None, float | None, float | None]:
    """Return status, Dice, HD95 in mm and NSD of two masks, by the policy of this module."""
    found, expected = int(np.count_nonzero(predicted)), int(np.count_nonzero(referenced))
    if not found and not expected:
        return "absent", None, None, None
    if not found or not expected:
        diagonal = float(np.linalg.norm(np.array(predicted.shape) * np.array(spacing)))
        status: Status = "spurious" if found else "missed"
        return (status, 0.0, diagonal, 0.0) if surfaces else (status, 0.0, None, None)
    dice = 2.0 * int(np.count_nonzero(predicted & referenced)) / (found + expected)
    hd95, nsd = _surface_scores(predicted, referenced, spacing, tolerance) if surfaces else (None, None)
    return "present", dice, hd95, nsd


def _surface_scores(
    predicted: NDArray[np.bool_], referenced: NDArray[np.bool_], spacing: Sequence[float], tolerance: float
) -> tuple[float, float]:
    """Return HD95 in mm and NSD of two masks that are not empty."""
    # In a volume of one slice every voxel has a face on the outside; its surface is the outline in the plane.
    flat = tuple(axis for axis, length in enumerate(predicted.shape) if length == 1)[: predicted.ndim - 2]
    masks = (np.squeeze(predicted, flat), np.squeeze(referenced, flat))
    kept = [float(length) for axis, length in enumerate(spacing) if axis not in flat]
    box = _bounding_box(masks[0] | masks[1])
    # A margin changes nothing: what lies beyond an array's border is outside of the mask for MONAI.
    first, second = (torch.from_numpy(np.ascontiguousarray(mask[box]))[None, None] for mask in masks)
    limit = tolerance * (1.0 + SLACK)
    with warnings.catch_warnings():
        # MONAI 1.6 warns of its own use of a deprecated argument.
        warnings.filterwarnings("ignore", message=".*always_return_as_numpy", category=FutureWarning)
        hd95 = compute_hausdorff_distance(first, second, include_background=True, percentile=PERCENTILE, spacing=kept)
        nsd = compute_surface_dice(first, second, [limit], include_background=True, spacing=kept)
    return float(hd95), float(nsd)


def _bounding_box(mask: NDArray[np.bool_]) -> tuple[slice, ...]:
    box = []
    for axis in range(mask.ndim):
        occupied = np.flatnonzero(mask.any(axis=tuple(other for other in range(mask.ndim) if other != axis)))
        box.append(slice(int(occupied[0]), int(occupied[-1]) + 1))
    return tuple(box)


def refuse_undeclared(array: Labels, labels: LabelValues, what: object) -> None:
    """Raise an error that lists every value of a label map that is not declared.

    Args:
        array: label values.
        labels: name and value, or values, of each structure; 0 is the background.
        what: the file, or what else the message calls the label map.

    Raises:
        ImageError: there is at least one such value.
    """
    declared = {0} | {value for entry in labels.values() for value in as_values(entry)}
    if sum(int(np.count_nonzero(array == value)) for value in declared) == array.size:
        return
    values, counts = np.unique(array, return_counts=True)
    odd = [f"{value} ({count} voxels)" for value, count in zip(values, counts, strict=True) if value not in declared]
    more = f" and {len(odd) - 10} more" if len(odd) > 10 else ""
    names = ", ".join(f"{value} ({name})" for name, entry in labels.items() for value in as_values(entry))
    raise ImageError(f"{what}: undeclared label values {', '.join(odd[:10])}{more}; declared are {names}: declare all structures")
