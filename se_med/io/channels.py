"""Joins images that hold one channel each, and resamples those that lie on another grid onto that of the first.

T1 and T2, or PET and CT, are often stored on grids of their own. Their affines say where they lie to each other in the patient;
whether the patient moved between them is not looked at.
"""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Sequence
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from se_med.errors import ImageError
from se_med.io.volume import Volume, same_geometry

log = logging.getLogger(__name__)

_EDGE = 0.5 + 1e-3  # voxels from the centre of a border voxel to its edge, and a tolerance
_STRAIGHT = 1e-4  # voxels; axes that turn less than this over the whole volume are parallel


def join_channels(volumes: Sequence[Volume]) -> Volume:
    """Join channels in the order given, on the grid of the first.

    A volume on another grid is interpolated linearly where the first one's voxel centres lie inside of it; elsewhere its channels
    take their lowest value. A warning that names both files is logged, once per process.

    Args:
        volumes: images (C, X, Y, Z).

    Returns:
        A volume with the affine, header and path of the first; its digest covers all.

    Raises:
        ImageError: a volume does not overlap with the first, or a 2D image has another size.
    """
    first = volumes[0]
    if len(volumes) == 1:
        return first
    arrays = [first.array, *(_on_grid(volume, first) for volume in volumes[1:])]
    digest = hashlib.sha256("".join(volume.digest for volume in volumes).encode()).hexdigest()
    return Volume(np.concatenate(arrays), first.affine, first.header, first.path, digest, first.flat)


def _on_grid(volume: Volume, first: Volume) -> NDArray[Any]:
    """Return the channels of a volume on the grid of the first."""
    difference = same_geometry(first, volume)
    if difference is None and volume.flat == first.flat:
        return volume.array
    if volume.flat or first.flat:
        difference = difference or "only one of them is a 2D image"
        raise ImageError(
            f"{volume.path}: grid differs from {first.path}: {difference}; 2D images are not resampled, do it before"
        )
    matrix = np.linalg.inv(volume.affine) @ first.affine  # voxel of the first -> voxel of the other
    outside = _outside(matrix, first.shape, volume.shape)
    share = float(outside.mean())
    if share == 1:
        raise ImageError(f"{volume.path}: does not overlap with {first.path}: {difference}; check that both are of one patient")
    _warn(
        f"{volume.path}: grid differs from {first.path} ({difference}); resampled onto it"
        + (f", {share:.1%} of its voxels lie outside and take the lowest value" if share else "")
    )
    return np.stack([_resampled(channel, matrix, first.shape, outside) for channel in volume.array])


def _resampled(
    channel: NDArray[Any], matrix: NDArray[np.float64], shape: tuple[int, ...], outside: NDArray[np.bool_]
) -> NDArray[np.float32]:
    """Sample (X, Y, Z) linearly at `matrix` times each voxel of a grid of `shape`; its lowest value where that is outside."""
    from scipy import ndimage  # costs a tenth of the start of a prediction, and few have such channels

    linear = matrix[:3, :3]
    straight = np.abs(linear - np.diag(np.diag(linear))).max() * max(shape) < _STRAIGHT
    sampled: NDArray[np.float32] = ndimage.affine_transform(
        channel,
        np.diag(linear) if straight else linear,  # scipy is several times faster with the diagonal alone
        offset=matrix[:3, 3],
        output_shape=shape,
        output=np.float32,
        order=1,
        mode="nearest",
    )
    sampled[outside] = channel.min()
    return sampled


def _outside(matrix: NDArray[np.float64], shape: tuple[int, ...], other: tuple[int, ...]) -> NDArray[np.bool_]:
    """Tell for each voxel of a grid of `shape` whether its centre lies outside of the voxels of the other grid."""
    outside = np.zeros(shape, dtype=np.bool_)
    y, z = np.arange(shape[1])[:, None], np.arange(shape[2])[None]
    for row, length in zip(matrix[:3], other, strict=True):
        for x, plane in enumerate(outside):
            position = row[0] * x + row[1] * y + row[2] * z + row[3]
            plane |= (position < -_EDGE) | (position > length - 1 + _EDGE)
    return outside


@lru_cache(maxsize=4096)
def _warn(message: str) -> None:
    # Planning and preparation read the same files: once is enough.
    log.warning("%s", message)
