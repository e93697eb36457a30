"""Instance norm, leaky ReLU, channel gate and, after it, spatial gate (CBAM) in one, with gradients."""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensor
from torch.autograd.function import once_differentiable

from se_med.fused.kernels import FORMATS, library, memory_format, moments

_POINTERS = ("x", "mean", "rstd", "weight", "bias", "gate", "peak", "s", "pooled", "dpooled", "corrections", "dz", "out", "ds")


@dataclass(frozen=True)
class CascadeGating:
    """A channel gate and, on the map that it weighs, a spatial gate, in the terms of the kernels.

    Attributes:
        excite: maps the means and the maxima of y over space, ``(2, B, C)`` float32, to the channel gate, ``(B, C)``.
        attend: maps mean and maximum over channels of the map so weighed, ``(B, 2, *spatial)`` float32, to the spatial gate,
            ``(B, 1, *spatial)``.
        channel_parameters: what ``excite`` learns.
        spatial_parameters: what ``attend`` learns.
    """

    excite: Callable[[Tensor], Tensor]
    attend: Callable[[Tensor], Tensor]
    channel_parameters: tuple[Tensor, ...]
    spatial_parameters: tuple[Tensor, ...]

    @property
    def parameters(self) -> tuple[Tensor, ...]:
        """What both learn."""
        return (*self.channel_parameters, *self.spatial_parameters)


class _Cascade(ctypes.Structure):
    """``Cascade`` of cascade.c."""

    _fields_ = (
        *((name, ctypes.c_int64) for name in ("samples", "voxels", "channels")),
        *((name, ctypes.c_int32) for name in ("format", "threads", "width")),
        ("slope", ctypes.c_float),
        *((name, ctypes.c_void_p) for name in (*_POINTERS, "partial")),
    )


def norm_cascade(x: Tensor, weight: Tensor, bias: Tensor, epsilon: float, slope: float, gating: CascadeGating) -> Tensor:
    """Return the gated leaky ReLU of the instance norm of ``x``, as ``norm_act`` does; keeps ``x`` and three numbers a voxel."""
    return _NormCascade.apply(x, weight, bias, epsilon, slope, gating, *gating.parameters)  # type: ignore[no-untyped-call,no-any-return]


class _NormCascade(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        weight: Tensor,
        bias: Tensor,
        epsilon: float,
        slope: float,
        gating: CascadeGating,
        *parameters: Tensor,
    ) -> Tensor:
        x = x.contiguous(memory_format=memory_format(x.ndim - 2))
        weight, bias = weight.detach().float().contiguous(), bias.detach().float().contiguous()
        mean, rstd = moments(x, epsilon)
        known = {"mean": mean, "rstd": rstd, "weight": weight, "bias": bias}
        samples, channels, axes, wanted = x.shape[0], x.shape[1], x.shape[2:], any(ctx.needs_input_grad)
        squeezed = torch.empty(samples, 5, channels)
        _call("squeeze", x, slope, known, squeezed)
        slopes, largest, peak, times = squeezed[:, :2], squeezed[:, 2], squeezed[:, 3].contiguous(), squeezed[:, 4]
        means = (weight * slopes[:, 1] + bias * slopes[:, 0]) / axes.numel()
        pooled = torch.stack((means, largest)).requires_grad_(wanted)
        with torch.set_grad_enabled(wanted):
            gate = gating.excite(pooled)
        known |= {"gate": gate.detach().float().contiguous(), "peak": peak}
        seen = torch.empty(samples, 2, *axes)
        _call("pool", x, slope, {**known, "pooled": seen})
        with torch.set_grad_enabled(wanted):
            attention = gating.attend(seen.requires_grad_(wanted))
        z = torch.empty_like(x)
        _call("forward", x, slope, {**known, "s": attention.detach().float().contiguous(), "out": z})
        ctx.save_for_backward(x, slopes, times, *known.values())
        ctx.slope, ctx.gating, ctx.channel, ctx.spatial = slope, gating, (pooled, gate), (seen, attention)
        return z

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        x, slopes, times, mean, rstd, weight, bias, gate, peak = ctx.saved_tensors
        voxels = x[0, 0].numel()
        grad = grad.to(x.dtype).contiguous(memory_format=memory_format(x.ndim - 2))
        known = {"mean": mean, "rstd": rstd, "weight": weight, "bias": bias, "gate": gate, "peak": peak, "dz": grad}
        seen, attention = ctx.spatial
        ds = torch.empty(attention.shape)
        _call("voxels", x, ctx.slope, {**known, "ds": ds})
        dseen, spatial_grads = _gradients(attention, seen, ctx.gating.spatial_parameters, ds)
        known |= {"s": attention.detach().float().contiguous(), "dpooled": dseen.contiguous()}
        totals = torch.empty(x.shape[0], 3, x.shape[1])
        _call("sums", x, ctx.slope, known, totals)
        pooled, excited = ctx.channel
        (dmeans, dlargest), channel_grads = _gradients(excited, pooled, ctx.gating.channel_parameters, totals[:, 2])
        each, at_peak = dmeans / voxels, dlargest / times
        # At a peak the activation is on one side for good, and normalised x is known.
        step = torch.where(weight * (peak - mean) * rstd + bias > 0, 1.0, ctx.slope)
        du = totals[:, 0] + each * slopes[:, 0] + dlargest * step
        duxhat = totals[:, 1] + each * slopes[:, 1] + dlargest * step * (peak - mean) * rstd
        corrections = torch.stack((du / voxels, duxhat / voxels, each, at_peak), 1).contiguous()
        grad_x = torch.empty_like(x)
        _call("backward", x, ctx.slope, {**known, "corrections": corrections, "out": grad_x})
        return (grad_x, duxhat.sum(0), du.sum(0), None, None, None, *channel_grads, *spatial_grads)


def _gradients(
    output: Tensor, source: Tensor, parameters: tuple[Tensor, ...], grad: Tensor
) -> tuple[Tensor, list[Tensor | None]]:
    """Return the gradients of ``source`` and of the parameters, None for one that is not learned."""
    wanted = [source, *(parameter for parameter in parameters if parameter.requires_grad)]
    found = iter(torch.autograd.grad(output, wanted, grad.to(output.dtype), retain_graph=True))
    return next(found), [next(found) if parameter.requires_grad else None for parameter in parameters]


def _call(kernel: str, x: Tensor, slope: float, buffers: dict[str, Tensor], *arguments: Tensor) -> None:
    kernels = library()
    if kernels is None:
        raise RuntimeError("the kernels are not compiled")
    if isinstance(x, FakeTensor):
        return
    call = _Cascade(
        samples=x.shape[0],
        voxels=x[0, 0].numel(),
        channels=x.shape[1],
        format=FORMATS[x.dtype],
        threads=torch.get_num_threads(),
        width=kernels.se_med_width(),
        slope=slope,
    )
    partial = torch.empty(kernels.se_med_cascade_partial(ctypes.addressof(call)) if kernel in ("squeeze", "sums") else 1)
    for name, buffer in {"x": x, **buffers, "partial": partial}.items():
        setattr(call, name, buffer.data_ptr())
    getattr(kernels, f"se_med_cascade_{kernel}")(ctypes.addressof(call), *(argument.data_ptr() for argument in arguments))
