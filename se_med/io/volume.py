"""Voxels with their grid: what every reader returns, what grids may be, and when two are the same.

Voxels stay in their file's own order; orientation and spacing are changed elsewhere (`se_med.data.preparation`).
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from se_med.errors import ImageError

_TOLERANCE = 1e-3  # of a voxel
_SMALLEST_SPACING, _LARGEST_SPACING = 1e-3, 1e3  # mm
_FARTHEST = 1e9  # mm; nothing in an affine of a body is a thousand kilometres
_FLATTEST = 1e-3  # volume of a voxel relative to the box of its edges; below, axes are (nearly) parallel
_LABEL_TYPES = (np.uint8, np.uint16, np.uint32, np.uint64)


@dataclass(frozen=True, eq=False)
class Volume:
    """An image or a label map as its file stores it.

    Attributes:
        array: image `(C, X, Y, Z)` float32, label map `(X, Y, Z)` unsigned integer, in the file's own voxel order.
        affine: `(4, 4)` float64, voxel index to mm in RAS+ world coordinates.
        header: what a label map on this grid takes over bit for bit: nibabel's header (sform and qform codes, units), or the
            geometry of a MetaImage; None where the affine says it all.
        path: the file, or None.
        digest: sha256 (hex) of the file's bytes.
        flat: a 2D image, read as one slice: its spacing is one pixel, since its true one is not known.
    """

    array: NDArray[Any]
    affine: NDArray[np.float64]
    header: Any = field(default=None, repr=False)
    path: Path | None = None
    digest: str = ""
    flat: bool = False

    @property
    def shape(self) -> tuple[int, int, int]:
        """Voxels along each spatial axis as stored."""
        x, y, z = self.array.shape[-3:]
        return x, y, z

    @property
    def spacing(self) -> tuple[float, float, float]:
        """Length of the voxel edges in mm, along the axes as stored."""
        return spacing_of(self.affine)


@dataclass(frozen=True, eq=False)
class Geometry:
    """The voxel grid of a file: shape in voxels, affine (voxel to mm, RAS+), spacing in mm, number of channels."""

    shape: tuple[int, int, int]
    affine: NDArray[np.float64]
    spacing: tuple[float, float, float]
    channels: int = 1


def same_geometry(a: Volume | Geometry, b: Volume | Geometry) -> str | None:
    """Compare two grids: shape, and affine to a thousandth of a voxel.

    Returns:
        None when they agree, else one line with both values of the first thing that differs: shape, spacing, direction or origin.
    """
    if a.shape != b.shape:
        return f"shape {_words(a.shape, 'x')} against {_words(b.shape, 'x')}"
    spacing = np.array(a.spacing)
    if (np.abs(spacing - np.array(b.spacing)) > _TOLERANCE * spacing).any():
        return f"spacing {_words(a.spacing, 'x')} against {_words(b.spacing, 'x')} mm"
    turned = np.linalg.norm(a.affine[:3, :3] - b.affine[:3, :3], axis=0)
    if (turned > _TOLERANCE * spacing).any():
        return f"axis directions {_directions(a)} against {_directions(b)}"
    shift = np.linalg.solve(a.affine[:3, :3], a.affine[:3, 3] - b.affine[:3, 3])  # in voxels
    if (np.abs(shift) > _TOLERANCE).any():
        return f"origin ({_words(a.affine[:3, 3], ', ')}) against ({_words(b.affine[:3, 3], ', ')}) mm"
    return None


def spacing_of(affine: NDArray[np.float64]) -> tuple[float, float, float]:
    """Length of each voxel edge in mm, along the axes as stored."""
    x, y, z = np.sqrt((np.asarray(affine, dtype=np.float64)[:3, :3] ** 2).sum(axis=0)).tolist()
    return x, y, z


def check_affine(affine: NDArray[np.float64], path: Path | None) -> None:
    """Refuse a grid that no image of a body has.

    Raises:
        ImageError: the matrix is not finite, singular, or its spacing is absurd.
    """
    if not (np.abs(affine) < _FARTHEST).all():
        rows = affine[:3].tolist()
        raise ImageError(f"{path}: affine has values that are not numbers or too large: {rows}; repair the sform or qform")
    spacing = spacing_of(affine)
    words = "x".join(f"{value:g}" for value in spacing)
    if min(spacing) < _SMALLEST_SPACING * 0.999:  # a float32 0.001 is a little less than 0.001
        raise ImageError(f"{path}: spacing {words} mm is zero or too small to be true; repair the header's spacing")
    if max(spacing) > _LARGEST_SPACING:
        raise ImageError(f"{path}: spacing {words} mm is too large to be true; repair the header's spacing")
    flatness = abs(float(np.linalg.det(affine[:3, :3]))) / math.prod(spacing)
    if flatness < _FLATTEST:
        raise ImageError(f"{path}: affine is singular: its axes {affine[:3, :3].tolist()} span no volume; repair the header")


def check_labels(labels: NDArray[Any], like: Volume) -> None:
    """Raise a ValueError unless `labels` are whole numbers from 0 on the grid of `like`."""
    if labels.shape != like.shape:
        raise ValueError(f"labels have shape {labels.shape}, the grid has {like.shape}")
    if labels.dtype.kind not in "iub" or int(labels.min()) < 0:
        raise ValueError(f"labels must be whole numbers from 0, got {labels.dtype} from {labels.min()}")


def label_type(highest: int) -> Any:
    """The smallest unsigned integer type that holds a label value."""
    return next(kind for kind in _LABEL_TYPES if highest <= np.iinfo(kind).max)


def _words(values: Any, separator: str) -> str:
    return separator.join(f"{value:.6g}" for value in values)


def _directions(grid: Volume | Geometry) -> str:
    columns = grid.affine[:3, :3] / np.array(grid.spacing)
    return f"[{'; '.join(_words(column, ' ') for column in columns.T)}]"
