"""Sums of weighted outputs over windows of a volume, their means, and which output is the highest: compiled, or by torch."""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import torch
from torch import Tensor

from se_med.fused.kernels import FORMATS, library


class _Window(ctypes.Structure):
    """``Window`` of sums.c."""

    _fields_ = (
        ("outputs", ctypes.c_int64),
        ("size", ctypes.c_int64 * 3),
        ("source", ctypes.c_int64 * 4),
        ("to", ctypes.c_int64 * 2),
        ("totals", ctypes.c_int64 * 2),
        *((name, ctypes.c_int32) for name in ("format", "threads", "width", "rows")),
        ("share", ctypes.c_float),
        *((name, ctypes.c_void_p) for name in ("output", "voxels", "weights", "sums", "total")),
    )


class _Means(ctypes.Structure):
    """``Means`` of sums.c."""

    _fields_ = (
        ("outputs", ctypes.c_int64),
        ("size", ctypes.c_int64 * 3),
        ("source", ctypes.c_int64 * 2),
        ("totals", ctypes.c_int64 * 2),
        ("to", ctypes.c_int64 * 4),
        *((name, ctypes.c_int32) for name in ("threads", "width")),
        *((name, ctypes.c_void_p) for name in ("sums", "total", "means", "classes", "odd")),
    )


class _Highest(ctypes.Structure):
    """``Highest`` of sums.c."""

    _fields_ = (
        ("size", ctypes.c_int64 * 3),
        ("source", ctypes.c_int64 * 2),
        *((name, ctypes.c_int32) for name in ("format", "threads", "width", "index")),
        *((name, ctypes.c_void_p) for name in ("values", "best", "classes")),
    )


@dataclass(frozen=True)
class Part:
    """The outputs of a window, or of a part of it, and the sums that they are added to.

    Attributes:
        sums: (X, Y, Z, K) float32, usually a view of a larger tensor.
        output: (K, X, Y, Z) in any memory order and floating type; fastest where the outputs of a voxel lie together.
        share: factor of all weights.
        weights: (X, Y, Z) float32; None for 1 everywhere.
        total: (X, Y, Z) float32, to which the weights times the share are added.
    """

    sums: Tensor
    output: Tensor
    share: float = 1.0
    weights: Tensor | None = None
    total: Tensor | None = None


def add_windows(parts: Sequence[Part]) -> None:
    """Add windows to sums, each voxel with its weight times the share, in place.

    Args:
        parts: at least one, of equal size and place along x and y: those behind one another along z. Together they move sums
            between memory and processor fewer times than one by one.
    """
    kernels = _kernels()
    known = all(part.output.dtype in FORMATS for part in parts)
    if kernels is None or not known or not all(_fits(part.sums, part.total) for part in parts):
        for part in parts:
            _add_by_torch(part.sums, part.output, part.share, part.weights, part.total)
        return
    contiguous = [None if part.weights is None else part.weights.contiguous() for part in parts]
    windows = (_Window * len(parts))(
        *(_window(part, weights, int(kernels.se_med_width())) for part, weights in zip(parts, contiguous, strict=True))
    )
    kernels.se_med_add_windows(ctypes.byref(windows), ctypes.c_int64(len(parts)))


def mean_outputs(sums: Tensor, total: Tensor | None, means: Tensor) -> bool:
    """Fill the means of the outputs: sums divided by the total of their weights. Return whether all are finite.

    Args:
        sums: (X, Y, Z, K) float32, usually a view of a larger tensor.
        total: (X, Y, Z) float32; None for 1 everywhere.
        means: (K, X, Y, Z) float32, in any memory order.
    """
    kernels = _kernels()
    if kernels is not None and _fits(sums, total):
        return _mean(sums, total, kernels, means.stride(), means=means)
    weighted = sums if total is None else sums / total.unsqueeze(-1)
    means.copy_(weighted.permute(3, 0, 1, 2))
    return bool(torch.isfinite(means.sum()))


def highest_mean(sums: Tensor, total: Tensor | None, classes: Tensor) -> bool:
    """Fill the index of the output with the highest mean, of equal ones the first. Return whether all means are finite.

    Args:
        sums: (X, Y, Z, K) float32, usually a view of a larger tensor.
        total: (X, Y, Z) float32; None for 1 everywhere.
        classes: (X, Y, Z) uint8, in any memory order.
    """
    kernels = _kernels()
    if kernels is not None and _fits(sums, total):
        return _mean(sums, total, kernels, (0, *classes.stride()), classes=classes)
    finite = True
    for index, plane in enumerate(sums):  # what lies between stays in the processor's cache
        weighted = plane if total is None else plane / total[index].unsqueeze(-1)
        classes[index] = weighted.argmax(-1)
        finite &= bool(torch.isfinite(weighted.sum()))
    return finite


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


def _kernels() -> ctypes.CDLL | None:
    """Return the kernels; None too where those of an older version are still installed."""
    kernels = library()
    return kernels if hasattr(kernels, "se_med_add_windows") else None


def _mean(
    sums: Tensor,
    total: Tensor | None,
    kernels: ctypes.CDLL,
    steps: tuple[int, ...],
    means: Tensor | None = None,
    classes: Tensor | None = None,
) -> bool:
    odd = torch.empty(sums.shape[0] * sums.shape[1])
    wanted = _Means(
        outputs=sums.shape[3],
        size=(ctypes.c_int64 * 3)(*sums.shape[:3]),
        source=(ctypes.c_int64 * 2)(*sums.stride()[:2]),
        totals=_steps(total),
        to=(ctypes.c_int64 * 4)(*steps),
        threads=torch.get_num_threads(),
        width=kernels.se_med_width(),
        sums=sums.data_ptr(),
        total=_address(total),
        means=_address(means),
        classes=_address(classes),
        odd=odd.data_ptr(),
    )
    kernels.se_med_means(ctypes.byref(wanted))
    return not bool(odd.any())  # NaN counts as true


def _window(part: Part, weights: Tensor | None, width: int) -> _Window:
    output, sums = part.output, part.sums
    return _Window(
        outputs=len(output),
        size=(ctypes.c_int64 * 3)(*output.shape[1:]),
        source=(ctypes.c_int64 * 4)(*output.stride()),
        to=(ctypes.c_int64 * 2)(*sums.stride()[:2]),
        totals=_steps(part.total),
        format=FORMATS[output.dtype],
        threads=torch.get_num_threads(),
        width=width,
        share=part.share,
        output=output.data_ptr(),
        voxels=_voxels(len(output)).data_ptr(),
        weights=_address(weights),
        sums=sums.data_ptr(),
        total=_address(part.total),
    )


@lru_cache(maxsize=16)
def _voxels(outputs: int) -> Tensor:
    """Return which of 16 voxels each of their outputs belongs to, int32."""
    return torch.arange(16 * outputs, dtype=torch.int32).div_(outputs, rounding_mode="floor")


def _fits(sums: Tensor, total: Tensor | None) -> bool:
    """Return whether the kernels can read rows of these sums."""
    outputs = sums.shape[3]
    together = sums.stride(3) == 1 and sums.stride(2) == outputs and (total is None or total.stride(2) == 1)
    return together and sums.numel() > 0


def _steps(total: Tensor | None) -> ctypes.Array[ctypes.c_int64]:
    return (ctypes.c_int64 * 2)(*(total.stride()[:2] if total is not None else (0, 0)))


def _address(tensor: Tensor | None) -> int | None:
    return None if tensor is None else tensor.data_ptr()


def _add_by_torch(sums: Tensor, output: Tensor, share: float, weights: Tensor | None, total: Tensor | None) -> None:
    for plane in range(sums.shape[0]):  # what lies between stays in the processor's cache
        values = output[:, plane].permute(1, 2, 0).float()
        if weights is None:
            sums[plane].add_(values, alpha=share)
        else:
            sums[plane].addcmul_(values, weights[plane].unsqueeze(-1), value=share)
    if total is not None:
        total.add_(weights if weights is not None else torch.ones(()), alpha=share)
