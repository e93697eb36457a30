"""Patches turned, scaled and bent, image and labels in one."""

from __future__ import annotations

import ctypes
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from se_med.fused.kernels import library

FARTHEST = 2**24
"""Voxels up to which every whole number is a float32, and an index an int32."""


class _Affine(ctypes.Structure):
    """``Affine`` of affine.c."""

    _fields_ = (
        ("channels", ctypes.c_int64),
        ("size", ctypes.c_int64 * 3),
        ("source", ctypes.c_int64 * 3),
        *((name, ctypes.c_int32) for name in ("width", "unused")),
        ("matrix", ctypes.c_float * 12),
        *((name, ctypes.c_void_p) for name in ("image", "label", "field", "patch", "classes")),
    )


def usable(image: Tensor, label: Tensor) -> bool:
    """Return whether ``affine_patch`` can take the image and its labels: float32 and uint8, in main memory, compiled kernels."""
    kernels = library()
    types = (image.dtype, label.dtype) == (torch.float32, torch.uint8)
    plain = type(image) is Tensor and type(label) is Tensor and image.device.type == label.device.type == "cpu"
    return hasattr(kernels, "se_med_sample_affine") and types and plain and 0 < label.numel() < FARTHEST


def affine_patch(
    image: Tensor, label: Tensor, matrix: npt.NDArray[np.float64], size: Sequence[int], field: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """Return linear samples of the image and nearest samples of the labels, at the border where they are outside.

    Args:
        image: (C, *source) float32.
        label: (1, *source) uint8.
        matrix: (rank + 1, rank + 1), from patch to source voxels, both counted from the centre.
        size: of the patch.
        field: (rank, *size) float32, displacements that are added to the positions, in source voxels; None for none.

    Returns:
        (C, *size) float32 and (1, *size) uint8.
    """
    rank, image, label = len(size), image.contiguous(), label.contiguous()
    patch, classes = torch.empty(image.shape[0], *size), torch.empty(1, *size, dtype=torch.uint8)
    rows = np.eye(3, 4)
    rows[3 - rank :, 3 - rank : 3] = matrix[:rank, :rank]
    rows[3 - rank :, 3] = matrix[:rank, rank]
    ones = (1,) * (3 - rank)
    if field is not None:
        field = torch.cat([field.new_zeros(3 - rank, *size), field])
    kernels = library()
    work = _Affine(
        channels=image.shape[0],
        size=(*ones, *size),
        source=(*ones, *image.shape[1:]),
        width=kernels.se_med_width(),  # type: ignore[union-attr]  # usable has seen it
        matrix=tuple(rows.flatten().tolist()),
        image=image.data_ptr(),
        label=label.data_ptr(),
        field=None if field is None else field.data_ptr(),
        patch=patch.data_ptr(),
        classes=classes.data_ptr(),
    )
    kernels.se_med_sample_affine(ctypes.byref(work))  # type: ignore[union-attr]
    return patch, classes
