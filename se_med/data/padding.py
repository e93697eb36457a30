"""Padding of volumes that are smaller than the patch: one rule for training and inference."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[np.float32]


def pad_to(array: Array, size: Sequence[int]) -> tuple[Array, tuple[slice, ...]]:
    """Pad the spatial axes to at least `size`, evenly on both sides, with the minimum of each channel.

    The minimum is background in z-scored MR and air in CT, where zero would be the brightness of mean tissue. Training patches
    and inference windows of volumes smaller than the patch both use this.

    Args:
        array: (C, *spatial).
        size: smallest size of each spatial axis; axes that are larger stay as they are.

    Returns:
        The padded array (the same one where nothing is missing), and the slices that give the unpadded one back.
    """
    before, after = padding(array.shape[1:], size)
    inside = (slice(None), *(slice(low, low + length) for low, length in zip(before, array.shape[1:], strict=True)))
    if not any(before) and not any(after):
        return array, inside
    shape = [low + length + high for low, length, high in zip(before, array.shape[1:], after, strict=True)]
    padded = np.empty((array.shape[0], *shape), dtype=array.dtype)
    padded[:] = channel_minimum(array).reshape(-1, *[1] * len(shape))
    padded[inside] = array
    return padded, inside


def padding(shape: Sequence[int], size: Sequence[int]) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Return how many voxels `pad_to` puts before and after each axis; the odd one goes after."""
    missing = [max(0, wanted - length) for length, wanted in zip(shape, size, strict=True)]
    return tuple(number // 2 for number in missing), tuple(number - number // 2 for number in missing)


def channel_minimum(array: Array) -> Array:
    """Return the lowest intensity of each channel of (C, *spatial): what lies outside of a volume."""
    minimum: Array = array.min(axis=tuple(range(1, array.ndim)))
    return minimum
