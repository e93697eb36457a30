"""Sums of weighted outputs over windows of a volume, and which output is the highest: compiled, or by torch."""

from __future__ import annotations

import ctypes

import torch
from torch import Tensor

from se_med.fused.kernels import FORMATS, library


class _Window(ctypes.Structure):
    """``Window`` of sums.c."""

    _fields_ = (
        ("outputs", ctypes.c_int64),
        ("size", ctypes.c_int64 * 3),
        ("source", ctypes.c_int64 * 4),
        ("to", ctypes.c_int64 * 4),
        ("totals", ctypes.c_int64 * 3),
        *((name, ctypes.c_int32) for name in ("format", "threads", "width", "rows")),
        ("share", ctypes.c_float),
        *((name, ctypes.c_void_p) for name in ("output", "weights", "sums", "total")),
    )


class _Highest(ctypes.Structure):
    """``Highest`` of sums.c."""

    _fields_ = (
        ("size", ctypes.c_int64 * 3),
        ("source", ctypes.c_int64 * 2),
        *((name, ctypes.c_int32) for name in ("format", "threads", "width", "index")),
        *((name, ctypes.c_void_p) for name in ("values", "best", "classes")),
    )


def add_window(sums: Tensor, output: Tensor, share: float, weights: Tensor | None = None, total: Tensor | None = None) -> None:
    """Add the outputs of a window to sums, each voxel with its weight times a share, in place.

    Args:
        sums: (K, X, Y, Z) float32, usually a view of a larger tensor.
        output: (K, X, Y, Z) in any memory order and floating type.
        share: factor of all weights.
        weights: (X, Y, Z) float32; None for 1 everywhere.
        total: (X, Y, Z) float32, to which the weights times the share are added.
    """
    kernels = library()
    fits = output.dtype in FORMATS and sums.stride(3) == 1 and (total is None or total.stride(2) == 1)
    if kernels is None or not fits or sums.numel() == 0:
        _add_by_torch(sums, output, share, weights, total)
        return
    weights = None if weights is None else weights.contiguous()
    window = _Window(
        outputs=len(sums),
        size=(ctypes.c_int64 * 3)(*sums.shape[1:]),
        source=(ctypes.c_int64 * 4)(*output.stride()),
        to=(ctypes.c_int64 * 4)(*sums.stride()),
        totals=(ctypes.c_int64 * 3)(*(total.stride() if total is not None else (0, 0, 0))),
        format=FORMATS[output.dtype],
        threads=torch.get_num_threads(),
        width=kernels.se_med_width(),
        share=share,
        output=output.data_ptr(),
        weights=None if weights is None else weights.data_ptr(),
        sums=sums.data_ptr(),
        total=None if total is None else total.data_ptr(),
    )
    kernels.se_med_add_window(ctypes.byref(window))


def raise_highest(best: Tensor, classes: Tensor, values: Tensor, index: int) -> None:
    """Where values are higher than the best so far, make them the best and note their index, in place.

    Args:
        best: (X, Y, Z) float32, contiguous.
        classes: (X, Y, Z) uint8, contiguous.
        values: (X, Y, Z) float32.
        index: of the values.
    """
    kernels = library()
    fits = best.ndim == 3 and values.dtype == torch.float32 and values.device.type == "cpu" and values.stride(2) == 1
    if kernels is None or not fits or not best.is_contiguous() or not classes.is_contiguous():
        classes.masked_fill_(values > best, index)
        torch.maximum(best, values, out=best)
        return
    compared = _Highest(
        size=(ctypes.c_int64 * 3)(*values.shape),
        source=(ctypes.c_int64 * 2)(*values.stride()[:2]),
        format=FORMATS[torch.float32],
        threads=torch.get_num_threads(),
        width=kernels.se_med_width(),
        index=index,
        values=values.data_ptr(),
        best=best.data_ptr(),
        classes=classes.data_ptr(),
    )
    kernels.se_med_highest(ctypes.byref(compared))


def _add_by_torch(sums: Tensor, output: Tensor, share: float, weights: Tensor | None, total: Tensor | None) -> None:
    for plane in range(sums.shape[1]):  # what lies between stays in the processor's cache
        values = output[:, plane].contiguous().float()
        if weights is None:
            sums[:, plane].add_(values, alpha=share)
        else:
            sums[:, plane].addcmul_(values, weights[plane], value=share)
    if total is not None:
        total.add_(weights if weights is not None else torch.ones(()), alpha=share)
