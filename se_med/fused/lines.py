"""Instance norm, leaky ReLU and the gate of Project & Excite in one, with gradients."""

from __future__ import annotations

import ctypes
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensor
from torch.autograd.function import once_differentiable

from se_med.fused.kernels import FORMATS, library, memory_format, moments

CONVOLUTIONS: dict[int, Callable[..., Tensor]] = {2: F.conv2d, 3: F.conv3d}
_POINTERS = ("x", "mean", "rstd", "weight", "bias", "p", "w", "b", "corrections", "squeezed", "dz", "out", "partial")


@dataclass(frozen=True)
class LineGating:
    """A gate sigmoid(W2 relu(p_i + p_j + p_k) + b2) for each channel and voxel, in the terms of the kernels.

    Attributes:
        excite: maps the means of y over all axes but one, ``(B, lines, C)`` float32 with the lines of the first axis first, to p,
            ``(B, lines, hidden)``. Its second argument is the number of lines of each axis.
        parameters: what ``excite`` learns.
        weight: of the second layer, ``(C, hidden, 1, 1[, 1])``.
        bias: of that layer, ``(C,)``.
    """

    excite: Callable[[Tensor, tuple[int, ...]], Tensor]
    parameters: tuple[Tensor, ...]
    weight: Tensor
    bias: Tensor


class _Lines(ctypes.Structure):
    """``Lines`` of lines.c."""

    _fields_ = (
        ("samples", ctypes.c_int64),
        ("extent", ctypes.c_int64 * 3),
        *((name, ctypes.c_int64) for name in ("channels", "hidden")),
        *((name, ctypes.c_int32) for name in ("format", "threads", "width")),
        ("slope", ctypes.c_float),
        *((name, ctypes.c_void_p) for name in _POINTERS),
    )


def norm_lines(x: Tensor, weight: Tensor, bias: Tensor, epsilon: float, slope: float, gating: LineGating) -> Tensor:
    """Return the gated leaky ReLU of the instance norm of ``x``, as ``norm_act`` does; it keeps no map but ``x``."""
    return _NormLines.apply(  # type: ignore[no-untyped-call,no-any-return]
        x, weight, bias, gating.weight, gating.bias, epsilon, slope, gating, *gating.parameters
    )


class _NormLines(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        weight: Tensor,
        bias: Tensor,
        w2: Tensor,
        b2: Tensor,
        epsilon: float,
        slope: float,
        gating: LineGating,
        *parameters: Tensor,
    ) -> Tensor:
        x = x.contiguous(memory_format=memory_format(x.ndim - 2))
        weight, bias = weight.detach().float().contiguous(), bias.detach().float().contiguous()
        mean, rstd = moments(x, epsilon)
        w, b = w2.detach().float().flatten(1).t().contiguous(), b2.detach().float().contiguous()
        known = {"mean": mean, "rstd": rstd, "weight": weight, "bias": bias, "w": w, "b": b}
        axes = tuple(x.shape[2:])
        wanted = any(ctx.needs_input_grad)
        slopes = torch.empty(x.shape[0], _count(axes), 2 if wanted else 1, x.shape[1])
        _call("slopes" if wanted else "means", x, slope, w.shape[0], known, slopes)
        seen = slopes[:, : sum(axes)]
        lines = (weight * seen[:, :, 1] + bias * seen[:, :, 0] if wanted else seen[:, :, 0]) / _voxels(axes)[:, None]
        lines.requires_grad_(wanted)
        with torch.set_grad_enabled(wanted):
            hidden = gating.excite(lines, axes)
        p = _padded(hidden.detach().float(), axes)
        z = torch.empty_like(x)
        if isinstance(x, FakeTensor):  # computes nothing, but its multiplications are counted
            CONVOLUTIONS[x.ndim - 2](x.new_empty(x.shape[0], w.shape[0], *axes), w2.to(x.dtype))
        _call("forward", x, slope, w.shape[0], {**known, "p": p, "out": z})
        ctx.save_for_backward(x, mean, rstd, weight, bias, w, b, p, slopes)
        ctx.slope, ctx.axes, ctx.excitation, ctx.parameters, ctx.shape = slope, axes, (lines, hidden), parameters, w2.shape
        return z

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        x, mean, rstd, weight, bias, w, b, p, slopes = ctx.saved_tensors
        samples, channels, hidden = x.shape[0], x.shape[1], w.shape[0]
        grad = grad.to(x.dtype).contiguous(memory_format=memory_format(x.ndim - 2))
        known = {"mean": mean, "rstd": rstd, "weight": weight, "bias": bias, "w": w, "b": b, "p": p, "dz": grad}
        totals, dp = torch.empty(samples, 3 + hidden, channels), torch.empty(samples, _count(ctx.axes), hidden)
        _call("sums", x, ctx.slope, hidden, known, totals, dp)
        lines, excited = ctx.excitation
        wanted = [lines, *(parameter for parameter in ctx.parameters if parameter.requires_grad)]
        dp = dp[:, : sum(ctx.axes)]
        found = iter(torch.autograd.grad(excited, wanted, dp.to(excited.dtype), retain_graph=True))
        squeezed = _padded(next(found) / _voxels(ctx.axes)[: sum(ctx.axes), None], ctx.axes)
        grads = [next(found) if parameter.requires_grad else None for parameter in ctx.parameters]
        through = (squeezed[:, :, None] * slopes).sum(1)
        du, duxhat = totals[:, 0] + through[:, 0], totals[:, 1] + through[:, 1]
        corrections = (torch.stack((du, duxhat), 1) / math.prod(ctx.axes)).contiguous()
        grad_x = torch.empty_like(x)
        _call("backward", x, ctx.slope, hidden, {**known, "corrections": corrections, "squeezed": squeezed, "out": grad_x})
        grad_w = totals[:, 3:].sum(0).t().reshape(ctx.shape)
        return (grad_x, duxhat.sum(0), du.sum(0), grad_w, totals[:, 2].sum(0), None, None, None, *grads)


def _count(axes: tuple[int, ...]) -> int:
    """Return the number of lines that the kernels see: a 2D map has a third axis of one voxel, whose line counts for nothing."""
    return sum(axes) + 3 - len(axes)


def _padded(lines: Tensor, axes: tuple[int, ...]) -> Tensor:
    return F.pad(lines, (0, 0, 0, 3 - len(axes))).contiguous()


def _voxels(axes: tuple[int, ...]) -> Tensor:
    """Return the number of voxels of each line."""
    return torch.cat([torch.full((size,), float(math.prod(axes) // size)) for size in axes])


def _call(kernel: str, x: Tensor, slope: float, hidden: int, buffers: dict[str, Tensor], *arguments: Tensor) -> None:
    kernels = library()
    if kernels is None:
        raise RuntimeError("the kernels are not compiled")
    if isinstance(x, FakeTensor):
        return
    extent = (*x.shape[2:], *(1,) * (5 - x.ndim))
    call = _Lines(
        samples=x.shape[0],
        extent=(ctypes.c_int64 * 3)(*extent),
        channels=x.shape[1],
        hidden=hidden,
        format=FORMATS[x.dtype],
        threads=torch.get_num_threads(),
        width=kernels.se_med_width(),
        slope=slope,
    )
    partial = torch.empty(kernels.se_med_line_partial(ctypes.addressof(call)) if kernel in ("slopes", "means", "sums") else 1)
    for name, buffer in {"x": x, **buffers, "partial": partial}.items():
        setattr(call, name, buffer.data_ptr())
    getattr(kernels, f"se_med_line_{kernel}")(ctypes.addressof(call), *(argument.data_ptr() for argument in arguments))
