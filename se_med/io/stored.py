"""What the header of a volume says about its voxels, and how these become an image or a label map; the same for all formats."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from nibabel.volumeutils import apply_read_scaling
from numpy.typing import NDArray

from se_med.errors import ImageError
from se_med.io.pieces import for_each
from se_med.io.volume import Geometry, Volume, label_type, spacing_of

Packing = Literal["none", "gzip", "zlib"]
_TILE = (64, 8)  # voxels along the first two axes that are turned around together
_LABEL_TOLERANCE = 1e-3  # labels stored as scaled integers or floats come back as 0.9999


@dataclass(frozen=True)
class Stored:
    """What a header says about a file: grid, voxel type and place of the voxels.

    Attributes:
        header: what `Volume.header` is to be.
        shape: `(X, Y, Z)`, or `(X, Y, Z, C)` with more than one channel.
        affine: `(4, 4)` float64, voxel to mm in the RAS+ world.
        dtype: voxel type with its byte order.
        offset: bytes before the voxels.
        slope: voxels times slope plus intercept are the values; None: voxels are the values.
        intercept: see slope.
        data: the file of the voxels where it is not the file of the header.
        packing: how the voxels are compressed behind the offset.
        channel_axis: place of the channels among the stored axes, the fastest first; 3 with one channel.
    """

    header: Any
    shape: tuple[int, ...]
    affine: NDArray[np.float64]
    dtype: np.dtype[Any]
    offset: int
    slope: float | None = None
    intercept: float = 0.0
    data: Path | None = None
    packing: Packing = "none"
    channel_axis: int = 3

    @property
    def voxel_bytes(self) -> int:
        """Size of the voxels in bytes."""
        return math.prod(self.shape) * self.dtype.itemsize

    @property
    def file_bytes(self) -> int:
        """Size of the whole (uncompressed) file in bytes."""
        return self.offset + self.voxel_bytes

    @property
    def needed_bytes(self) -> int:
        """Memory that reading takes: the voxels as stored, and as float32."""
        return self.file_bytes + 4 * math.prod(self.shape)

    @property
    def geometry(self) -> Geometry:
        """The grid."""
        x, y, z = self.shape[:3]
        return Geometry((x, y, z), self.affine, spacing_of(self.affine), self.shape[3] if len(self.shape) == 4 else 1)

    def arranged(self, content: NDArray[np.uint8]) -> NDArray[Any]:
        """View the bytes of the voxels as an array of `shape`."""
        voxels = np.frombuffer(content, dtype=self.dtype)
        if len(self.shape) == 3:
            return voxels.reshape(self.shape, order="F")
        stored = list(self.shape[:3])
        stored.insert(self.channel_axis, self.shape[3])
        return np.moveaxis(voxels.reshape(stored, order="F"), self.channel_axis, 3)


@dataclass(frozen=True)
class Content:
    """The whole of a file: its header, its voxels as stored, of the header's shape, and the sha256 (hex) of its bytes."""

    stored: Stored
    voxels: NDArray[Any]
    digest: str


def image_volume(content: Content, path: Path) -> Volume:
    """Make an image of voxels: 3D gives one channel, in 4D the last axis holds the channels.

    Raises:
        ImageError: there are NaN or infinite values.
    """
    stored = content.stored
    voxels = np.moveaxis(content.voxels, -1, 0) if content.voxels.ndim == 4 else content.voxels[np.newaxis]
    scaled = stored.slope is not None or stored.dtype.kind == "f"
    with np.errstate(over="ignore", invalid="ignore"):  # float64 beyond float32 becomes infinite and is refused below
        array = in_c_order(_scaled(voxels, stored), np.float32)
        finite = not scaled or bool(np.isfinite(array.sum(dtype=np.float64)))
    if not finite:
        raise ImageError(f"{path}: {_count_not_finite(array)}; mask them out or export the image again")
    return Volume(array, stored.affine, stored.header, path, content.digest)


def label_volume(content: Content, path: Path) -> Volume:
    """Make a label map of voxels: whole numbers from 0, as the smallest unsigned integer type that holds them.

    Floats are accepted where every value is a whole number (to 0.001: scaled label maps come back as 0.9999).

    Raises:
        ImageError: the voxels are 4D, or there are negative, fractional, NaN or infinite values.
    """
    stored = content.stored
    if content.voxels.ndim == 4:
        words = "x".join(map(str, content.voxels.shape))
        raise ImageError(f"{path}: 4D label map of shape {words}; store one 3D map with a value per structure")
    values = _scaled(content.voxels, stored)
    if values.dtype.kind == "f":
        values = _whole_numbers(values, path)
    lowest, highest = int(values.min()), int(values.max())
    if lowest < 0:
        raise ImageError(f"{path}: label value {lowest} is negative; use whole numbers from 0 (background)")
    labels = in_c_order(values, label_type(highest))
    return Volume(labels, stored.affine, stored.header, path, content.digest)


def in_c_order(voxels: NDArray[Any], dtype: Any) -> NDArray[Any]:
    """Copy (..., X, Y, Z) into a C-contiguous array of a type.

    Files keep the first axis fastest, so this turns every volume around. Tile by tile it takes a third to a half of the time: at
    once, every voxel is a miss of the cache. Large volumes are turned around by several threads. What overflows becomes infinite.
    """
    if voxels.flags.c_contiguous or voxels.ndim < 3:
        return np.ascontiguousarray(voxels, dtype=dtype)
    copy = np.empty(voxels.shape, dtype=dtype)

    def turn(x: int) -> None:
        with np.errstate(over="ignore", invalid="ignore"):  # each thread has its own
            for y in range(0, voxels.shape[-2], _TILE[1]):
                tile = (..., slice(x, x + _TILE[0]), slice(y, y + _TILE[1]), slice(None))
                copy[tile] = voxels[tile]

    for_each(turn, range(0, voxels.shape[-3], _TILE[0]), voxels.size)
    return copy


def _scaled(voxels: NDArray[Any], stored: Stored) -> NDArray[Any]:
    if stored.slope is None:
        return voxels
    with np.errstate(over="ignore", invalid="ignore"):  # what overflows becomes infinite and is refused by the caller
        scaled: NDArray[Any] = apply_read_scaling(voxels, stored.slope, stored.intercept)
    return scaled


def _whole_numbers(values: NDArray[Any], path: Path) -> NDArray[np.int64]:
    if not np.isfinite(values).all():
        raise ImageError(f"{path}: {_count_not_finite(values)}; a label map holds whole numbers from 0")
    rounded = np.rint(values)
    odd = np.abs(values - rounded) > _LABEL_TOLERANCE
    if odd.any():
        raise ImageError(
            f"{path}: {int(odd.sum())} voxels with fractional labels such as {float(values[odd][0]):g}; a label map holds whole "
            "numbers: resample it with nearest neighbour, or threshold the probabilities"
        )
    if np.abs(rounded).max() > 2**53:
        raise ImageError(f"{path}: label value {float(np.abs(rounded).max()):g} is too large to be true; write the labels again")
    whole: NDArray[np.int64] = rounded.astype(np.int64)
    return whole


def _count_not_finite(values: NDArray[Any]) -> str:
    nan, infinite = int(np.isnan(values).sum()), int(np.isinf(values).sum())
    return f"{nan} voxels are NaN and {infinite} infinite, of {values.size}"
