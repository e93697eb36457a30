"""Instance norm, leaky ReLU and gate in one, with gradients."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensor
from torch.autograd.function import once_differentiable

from se_med.fused.cascade import CascadeGating, norm_cascade
from se_med.fused.kernels import Pass, memory_format, usable
from se_med.fused.lines import CONVOLUTIONS, LineGating, norm_lines

__all__ = ["PLAIN", "Gating", "memory_format", "norm_act", "usable"]


@dataclass(frozen=True)
class Gating:
    """How a map is gated after its activation, in the terms of the kernels.

    Attributes:
        mode: ``channel`` (g y), ``spatial`` (s y), ``larger`` (max(g y, s y)) or ``sum`` (g y + s y), with g a number per channel
            and s a number per voxel.
        excite: maps the means of y over space, ``(B, C)`` float32, to g, ``(B, C)``; None in mode ``spatial``.
        parameters: what ``excite`` learns.
        weight: of the 1x1 convolution whose sigmoid is s, ``(1, C, 1, 1[, 1])``; None in mode ``channel``.
        bias: of that convolution, ``(1,)``.
    """

    mode: str
    excite: Callable[[Tensor], Tensor] | None = None
    parameters: tuple[Tensor, ...] = ()
    weight: Tensor | None = None
    bias: Tensor | None = None


AnyGating = Gating | LineGating | CascadeGating
PLAIN = Gating("plain")


def norm_act(x: Tensor, weight: Tensor, bias: Tensor, epsilon: float, slope: float, gating: AnyGating = PLAIN) -> Tensor:
    """Return the gated leaky ReLU of the instance norm of ``x``, ``(B, C, *spatial)`` in its number format, channels last.

    Sums are float32 or wider whatever the format. It keeps ``x`` for the backward pass, and one number per voxel with a spatial
    gate; nothing else of the size of a map.

    Args:
        x: map, ``(B, C, *spatial)``, for which ``usable`` holds.
        weight: of the norm, ``(C,)``.
        bias: of the norm, ``(C,)``.
        epsilon: added to the variance.
        slope: of the activation on negative values.
        gating: the gate; none by default.
    """
    if isinstance(gating, CascadeGating):
        return norm_cascade(x, weight, bias, epsilon, slope, gating)
    if isinstance(gating, LineGating):
        return norm_lines(x, weight, bias, epsilon, slope, gating)
    tensors = (x, weight, bias, gating.weight, gating.bias)
    return _NormAct.apply(*tensors, epsilon, slope, gating, *gating.parameters)  # type: ignore[no-untyped-call,no-any-return]


class _NormAct(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        weight: Tensor,
        bias: Tensor,
        spatial_weight: Tensor | None,
        spatial_bias: Tensor | None,
        epsilon: float,
        slope: float,
        gating: Gating,
        *parameters: Tensor,
    ) -> Tensor:
        x = x.contiguous(memory_format=memory_format(x.ndim - 2))
        weight, bias = weight.detach().float().contiguous(), bias.detach().float().contiguous()
        mean, rstd = Pass(x, slope).moments(epsilon)
        known = {"mean": mean, "rstd": rstd, "weight": weight, "bias": bias}
        voxels = x[0, 0].numel()
        slopes = pooled = gate = s = w = None
        if gating.excite is not None:
            slopes = Pass(x, slope, "plain", **known).slopes()
            pooled = ((weight * slopes[:, 1] + bias * slopes[:, 0]) / voxels).requires_grad_(any(ctx.needs_input_grad))
            with torch.set_grad_enabled(any(ctx.needs_input_grad)):
                gate = gating.excite(pooled)
        if spatial_weight is not None and spatial_bias is not None:
            w = torch.cat((spatial_weight.detach().flatten(), spatial_bias.detach())).float()
            # Without values this computes nothing, but its multiplications are counted.
            fake = isinstance(x, FakeTensor)
            s = CONVOLUTIONS[x.ndim - 2](x, spatial_weight).float() if fake else torch.empty(x.shape[0], voxels)
        z = torch.empty_like(x)
        # A number that stands for no gate, so that the kernels may always look at one.
        wide_gate = torch.empty(x.shape[:2]) if gate is None else gate.detach().float().contiguous()
        Pass(x, slope, gating.mode, gate=wide_gate, w=w, s=s, out=z, **known).forward()
        ctx.save_for_backward(x, mean, rstd, weight, bias, wide_gate, w, s, slopes)
        ctx.slope, ctx.mode, ctx.excitation, ctx.parameters = slope, gating.mode, (pooled, gate), parameters
        ctx.shapes = (
            None if spatial_weight is None else spatial_weight.shape,
            None if spatial_bias is None else spatial_bias.shape,
        )
        return z

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        x, mean, rstd, weight, bias, gate, w, s, slopes = ctx.saved_tensors
        channels, voxels = x.shape[1], x[0, 0].numel()
        grad = grad.to(x.dtype).contiguous(memory_format=memory_format(x.ndim - 2))
        known = {"mean": mean, "rstd": rstd, "weight": weight, "bias": bias, "gate": gate, "w": w, "s": s, "dz": grad}
        totals = Pass(x, ctx.slope, ctx.mode, **known).sums()
        rows = totals[:, : 4 * channels].reshape(-1, 4, channels)
        du, duxhat, squeezed = rows[:, 0], rows[:, 1], torch.zeros_like(mean)
        grads: list[Tensor | None] = [None] * len(ctx.parameters)
        pooled, excited = ctx.excitation
        if excited is not None:
            wanted = [pooled, *(parameter for parameter in ctx.parameters if parameter.requires_grad)]
            found = iter(torch.autograd.grad(excited, wanted, rows[:, 2].to(excited.dtype), retain_graph=True))
            squeezed = next(found) / voxels
            grads = [next(found) if parameter.requires_grad else None for parameter in ctx.parameters]
            du, duxhat = du + squeezed * slopes[:, 0], duxhat + squeezed * slopes[:, 1]
        grad_x = torch.empty_like(x)
        corrections = torch.stack((du / voxels, duxhat / voxels, squeezed), 1).contiguous()
        Pass(x, ctx.slope, ctx.mode, out=grad_x, **known).backward(corrections)
        weight_shape, bias_shape = ctx.shapes
        grad_w = None if weight_shape is None else rows[:, 3].sum(0).reshape(weight_shape)
        grad_w0 = None if bias_shape is None else totals[:, -1].sum().reshape(bias_shape)
        return (grad_x, duxhat.sum(0), du.sum(0), grad_w, grad_w0, None, None, None, *grads)
