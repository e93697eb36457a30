"""Coefficients of the cubic splines through the voxels of an image."""

from __future__ import annotations

import ctypes

import torch
from torch import Tensor

from se_med.fused.kernels import library

LINES = 16
"""Lines that the kernel filters at once."""


class _Splines(ctypes.Structure):
    """``Splines`` of splines.c."""

    _fields_ = (
        *((name, ctypes.c_int64) for name in ("length", "inner", "lines")),
        ("width", ctypes.c_int32),
        *((name, ctypes.c_void_p) for name in ("values", "room")),
    )


def usable(image: Tensor) -> bool:
    """Return whether an image (C, *S) can be taken: float32 in main memory, and kernels."""
    plain = type(image) is Tensor and image.dtype == torch.float32 and image.device.type == "cpu"
    return plain and image.numel() > 0 and hasattr(library(), "se_med_spline_filter")


def spline_coefficients(image: Tensor) -> Tensor:
    """Return the coefficients (C, *S) of the splines through the voxels of (C, *S) float32, mirrored at its last voxels."""
    kernels, values = library(), image.contiguous().clone()
    for axis in range(1, image.ndim):
        length, inner = image.shape[axis], values.stride(axis)
        if length == 1:
            continue
        room = torch.zeros(length, LINES)
        work = _Splines(
            length=length,
            inner=inner,
            lines=values.numel() // length,
            width=kernels.se_med_width(),  # type: ignore[union-attr]  # usable has seen it
            values=values.data_ptr(),
            room=room.data_ptr(),
        )
        kernels.se_med_spline_filter(ctypes.byref(work))  # type: ignore[union-attr]
    return values
