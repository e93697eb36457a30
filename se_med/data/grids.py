"""The grids of one volume: native voxels, the same in RAS order, and voxels at the plan's spacing."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt
import torch
from nibabel.orientations import apply_orientation, inv_ornt_aff, io_orientation
from torch import Tensor

from se_med.data.sampling import sample_grid
from se_med.errors import ImageError
from se_med.io.volume import Geometry

SAME_SPACING = 1e-3
"""Spacings that differ by less than this share are equal: nothing is resampled along that axis."""
SLAB_VOXELS = 2**21
"""Voxels resampled at once: bounds the memory of what lies between two grids."""

Number = TypeVar("Number", bound=np.generic)
Spacing = tuple[float, float, float]
Shape = tuple[int, int, int]


@dataclass(frozen=True)
class Grids:
    """The way of one volume: native voxels -> voxels in RAS order -> voxels at the plan's spacing.

    Prepared voxel p lies at `offset + p * target / source` in voxels in RAS order.

    Attributes:
        orientation: (3, 2), axis and direction in RAS order of each native axis, as nibabel has it.
        native: shape as stored.
        oriented: shape in RAS order.
        source: spacing in RAS order, mm.
        target: the plan's spacing, mm.
        shape: shape at the plan's spacing.
        offset: of the first prepared voxel, in voxels in RAS order.
    """

    orientation: npt.NDArray[np.float64]
    native: Shape
    oriented: Shape
    source: Spacing
    target: Spacing
    shape: Shape
    offset: tuple[float, float, float]

    @property
    def resampled(self) -> bool:
        """Whether the spacings differ along any axis."""
        return self.source != self.target

    def affine(self, native: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
        """Return (4, 4), prepared voxel -> mm, given that of the native voxels."""
        to_oriented = np.diag([*(np.array(self.target) / np.array(self.source)), 1.0])
        to_oriented[:3, 3] = self.offset
        affine: npt.NDArray[np.float64] = native @ inv_ornt_aff(self.orientation, self.native) @ to_oriented
        return affine

    def orient(self, array: npt.NDArray[Number]) -> npt.NDArray[Number]:
        """Copy (..., X, Y, Z) from native to RAS order.

        The memory layout is one for all orientations, so that sums over the array are bitwise equal.
        """
        leading = array.shape[:-3]
        oriented = np.empty((*leading, *self.oriented), dtype=array.dtype)
        for index in np.ndindex(*leading):
            oriented[index] = apply_orientation(array[index], self.orientation)
        return oriented

    def to_native(self, array: npt.NDArray[Number]) -> npt.NDArray[Number]:
        """View (..., X, Y, Z) in RAS order as the native array."""
        axes = self.orientation[:, 0].astype(int)
        leading = array.ndim - 3
        x, y, z = (slice(None, None, int(direction)) for direction in self.orientation[:, 1])
        view: npt.NDArray[Number] = array.transpose(*range(leading), *(leading + axes))[..., x, y, z]
        return view

    def in_oriented(self, axis: int, start: int, stop: int) -> Tensor:
        """Return where prepared voxels lie along an axis, in voxels in RAS order; float64."""
        return torch.arange(start, stop, dtype=torch.float64) * (self.target[axis] / self.source[axis]) + self.offset[axis]

    def in_prepared(self, axis: int, start: int, stop: int) -> Tensor:
        """Return where voxels in RAS order lie along an axis, in prepared voxels; float64."""
        ratio = self.source[axis] / self.target[axis]
        return (torch.arange(start, stop, dtype=torch.float64) - self.offset[axis]) * ratio


def find_grids(native: Geometry, spacing: Spacing, where: object = "volume") -> Grids:
    """Return the grids of a volume. They depend on its shape, spacing and nearest orientation alone.

    Args:
        native: the volume as stored.
        spacing: the plan's, mm.
        where: what errors name.

    Raises:
        ImageError: the affine gives no orientation to some axis.
    """
    orientation = io_orientation(native.affine)
    if np.isnan(orientation).any():
        raise ImageError(f"{where}: the affine gives no orientation to every axis; correct the header")
    axes = np.argsort(orientation[:, 0])
    oriented = _shape(np.array(native.shape)[axes])
    measured = (_stable(native.spacing[axis]) for axis in axes)
    source = _triple(
        wanted if abs(found - wanted) < SAME_SPACING * wanted else found for found, wanted in zip(measured, spacing, strict=True)
    )
    ratios = [found / wanted for found, wanted in zip(source, spacing, strict=True)]
    steps = [(length - 1) * ratio for length, ratio in zip(oriented, ratios, strict=True)]
    shape = _shape([round(extent) + 1 for extent in steps])
    offset = _triple((extent - (length - 1)) / 2 / ratio for extent, length, ratio in zip(steps, shape, ratios, strict=True))
    return Grids(orientation, native.shape, oriented, source, spacing, shape, offset)


def resample_image(array: npt.NDArray[np.float32], grids: Grids) -> npt.NDArray[np.float32]:
    """Interpolate (C, X, Y, Z) in RAS order linearly on the prepared grid; beyond the border, its values continue."""
    resampled = np.empty((array.shape[0], *grids.shape), dtype=np.float32)
    across = [grids.in_oriented(axis, 0, grids.shape[axis]) for axis in (1, 2)]
    for channel, output in zip(torch.from_numpy(array), resampled, strict=True):
        for slab in slabs(grids.shape):
            output[slab] = sample_grid(channel, [grids.in_oriented(0, slab.start, slab.stop), *across]).numpy()
    return resampled


def resample_label(array: npt.NDArray[Number], grids: Grids) -> npt.NDArray[Number]:
    """Take the nearest voxel of (X, Y, Z) in RAS order for each one of the prepared grid."""
    nearest = [
        grids.in_oriented(axis, 0, grids.shape[axis]).clamp_(0, length - 1).round_().long().numpy()
        for axis, length in enumerate(grids.oriented)
    ]
    taken: npt.NDArray[Number] = array[np.ix_(*nearest)]
    return taken


def slabs(shape: Sequence[int], axis: int = 0, start: int = 0, stop: int | None = None, voxels: int | None = None) -> list[slice]:
    """Cut planes start to stop along an axis into slabs of at most `voxels` (SLAB_VOXELS), one plane at least."""
    stop = shape[axis] if stop is None else stop
    thickness = max(1, (voxels or SLAB_VOXELS) * shape[axis] // math.prod(shape))
    return [slice(first, min(first + thickness, stop)) for first in range(start, stop, thickness)]


def _shape(values: Sequence[int] | npt.NDArray[Any]) -> Shape:
    x, y, z = (int(value) for value in values)
    return x, y, z


def _triple(values: Iterable[float]) -> tuple[float, float, float]:
    x, y, z = values
    return x, y, z


def _stable(spacing: float) -> float:
    # Headers keep spacings as float32, sometimes only as norms of rotated axes. 20 bits hide that noise, so that equal volumes
    # give equal grids, and keep every dyadic spacing (0.9765625) as it is.
    mantissa, exponent = math.frexp(spacing)
    return math.ldexp(round(math.ldexp(mantissa, 20)), exponent - 20)
