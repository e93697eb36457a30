"""What headers say about the voxel grid: one geometry or two, and whether a body fits into it."""

from __future__ import annotations

from itertools import product
from typing import Any

import nibabel
import numpy as np
from nibabel.spatialimages import HeaderDataError
from numpy.typing import NDArray

from se_med.data.case import Case
from se_med.data.checks.finding import Finding
from se_med.data.checks.reading import matrix
from se_med.io.image2d import is_flat
from se_med.io.images import read_geometry
from se_med.io.volume import Volume, same_geometry, spacing_of

DISAGREEMENT = 0.5
"""Distance, in voxels, between the places that sform and qform give one corner. A float32 quaternion near half a turn is off by a
third of that in a large image."""
PIXDIM_DISAGREEMENT = 0.01
"""Relative difference between the spacing of the sform and pixdim."""
LARGEST_VIEW, SMALLEST_VIEW = 3000.0, 2.0
"""Longest edge, in mm, of an image that holds a body, or a part of one that is worth a volume."""
LARGEST_SPACING = 50.0
"""mm; no organ shows in larger voxels."""


def header_findings(case: Case, image: Volume, label: Volume) -> list[Finding]:
    """Warn where a header holds two geometries, of which programs read one or the other.

    Returns:
        At most one finding: about the image, or about the label map where the image is right.
    """
    found = [(volume, _two_geometries(volume)) for volume in (image, label)]
    bad = [(volume, problem) for volume, problem in found if problem is not None]
    if not bad:
        return []
    volume, (message, matrices) = bad[0]
    too = "; so has the label map" if len(bad) > 1 else ""
    return [Finding("header", "warning", f"{message}{too}", case.name, volume.path, matrices=matrices)]


def channel_findings(case: Case) -> list[Finding]:
    """Warn where the channels of a case, which can be read, are on other grids than the first: they are resampled onto it."""
    first, *others = case.images
    if not others or is_flat(first):
        return []
    grid = read_geometry(first)
    differing = [(path, other, same_geometry(grid, other)) for path, other in ((path, read_geometry(path)) for path in others)]
    differing = [entry for entry in differing if entry[2] is not None]
    if not differing:
        return []
    path, other, difference = differing[0]
    more = f" ({len(differing)} channels are not)" if len(differing) > 1 else ""
    message = (
        f"not on the grid of {first.name}: {difference}{more}; it is resampled, so see that both were scanned in one position"
    )
    matrices = {first.name: matrix(grid.affine), path.name: matrix(other.affine)}
    return [Finding("channel grids", "warning", message, case.name, path, matrices=matrices)]


def spacing_findings(case: Case, image: Volume) -> list[Finding]:
    """Warn of voxels or an image of a size that no scan of a body has; 2D images have no true spacing."""
    if image.flat:
        return []
    spacing, extent = np.array(image.spacing), np.array(image.spacing) * image.shape
    words = "x".join(f"{value:.4g}" for value in spacing)
    view = "x".join(f"{value:.4g}" for value in extent)
    message = None
    if extent.max() < SMALLEST_VIEW:
        message = f"spacing {words} mm makes an image of {view} mm; were metres or centimetres stored as mm? Correct the header"
    elif spacing.max() > LARGEST_SPACING or extent.max() > LARGEST_VIEW:
        message = f"spacing {words} mm makes an image of {view} mm, larger than a body; correct the spacing in the header"
    return [] if message is None else [Finding("spacing", "warning", message, case.name, case.images[0])]


def _two_geometries(volume: Volume) -> tuple[str, dict[str, tuple[tuple[float, ...], ...]]] | None:
    header = volume.header
    if not isinstance(header, nibabel.Nifti1Header):  # other formats, and Analyze, have one geometry; NIfTI-2 derives from it
        return None
    if int(header["sform_code"]) <= 0:
        return None  # the qform, or the spacing alone, is all there is
    sform = np.asarray(header.get_sform(), dtype=np.float64)
    if int(header["qform_code"]) <= 0:
        return _against_pixdim(header, sform)
    try:
        qform = np.asarray(header.get_qform(), dtype=np.float64)
    except (HeaderDataError, ValueError):
        return "the qform is no rotation; se-med uses the sform, but programs that use the qform fail or guess: repair it", {}
    distance = _largest_distance(sform, qform, volume.shape)
    voxels = distance / min(spacing_of(sform))
    if not voxels > DISAGREEMENT:
        return None
    message = (
        f"sform (code {int(header['sform_code'])}) and qform (code {int(header['qform_code'])}) are up to {distance:.3g} mm "
        f"({voxels:.3g} voxels) apart; se-med uses the sform, other programs may use the qform: make them equal"
    )
    return message, {"sform": matrix(sform), "qform": matrix(qform)}


def _against_pixdim(header: Any, sform: NDArray[np.float64]) -> tuple[str, dict[str, tuple[tuple[float, ...], ...]]] | None:
    pixdim = np.abs(np.asarray(header["pixdim"][1:4], dtype=np.float64))
    spacing = np.array(spacing_of(sform))
    if (np.abs(pixdim - spacing) <= PIXDIM_DISAGREEMENT * spacing).all():
        return None
    words = ["x".join(f"{value:.4g}" for value in values) for values in (pixdim, spacing)]
    message = (
        f"spacing {words[0]} in pixdim, {words[1]} in the sform; se-med uses the sform, other programs pixdim: make them equal"
    )
    return message, {"sform": matrix(sform)}


def _largest_distance(first: NDArray[np.float64], second: NDArray[np.float64], shape: tuple[int, int, int]) -> float:
    """Return how far apart, in mm, two affines put a corner of the grid at most."""
    corners = np.array([(*corner, 1.0) for corner in product(*[(0, size - 1) for size in shape])])
    return float(np.linalg.norm((corners @ (first - second).T)[:, :3], axis=1).max())
