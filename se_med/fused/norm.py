"""Instance norm, leaky ReLU and gate in one, with gradients."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, cast

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensor
from torch.autograd.function import once_differentiable

from se_med.fused.cascade import CascadeGating, norm_cascade
from se_med.fused.kernels import (
    BACKWARD,
    CORRECT,
    EXCITE,
    EXCITE_BACK,
    FORWARD,
    MOMENTS,
    SLOPES,
    SUMS,
    WIDEST,
    Pass,
    memory_format,
    usable,
)
from se_med.fused.lines import CONVOLUTIONS, LineGating, norm_lines

__all__ = ["PLAIN", "Gating", "Layers", "memory_format", "norm_act", "usable"]


class Layers(NamedTuple):
    """Two fully connected layers, ``sigmoid(second relu(first m + first_bias) + second_bias)``; a bias may be None."""

    first: Tensor
    first_bias: Tensor | None
    second: Tensor
    second_bias: Tensor | None


@dataclass(frozen=True)
class Gating:
    """How a map is gated after its activation, in the terms of the kernels.

    Attributes:
        mode: ``channel`` (g y), ``spatial`` (s y), ``larger`` (max(g y, s y)) or ``sum`` (g y + s y), with g a number per channel
            and s a number per voxel.
        excite: maps the means of y over space, ``(B, C)`` float32, to g, ``(B, C)``; None in mode ``spatial``.
        layers: ``excite`` as the kernels know it; None where it is anything else.
        parameters: what ``excite`` learns, where it has no ``layers``.
        weight: of the 1x1 convolution whose sigmoid is s, ``(1, C, 1, 1[, 1])``; None in mode ``channel``.
        bias: of that convolution, ``(1,)``.
    """

    mode: str
    excite: Callable[[Tensor], Tensor] | None = None
    layers: Layers | None = None
    parameters: tuple[Tensor, ...] = ()
    weight: Tensor | None = None
    bias: Tensor | None = None


AnyGating = Gating | LineGating | CascadeGating
PLAIN = Gating("channel")
"""No gate: one of 1 for every channel."""


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
    learned = gating.parameters if gating.layers is None else gating.layers
    tensors = (x, weight, bias, gating.weight, gating.bias)
    return _NormAct.apply(*tensors, epsilon, slope, gating, *learned)  # type: ignore[no-untyped-call,no-any-return]


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
        *learned: Tensor | None,
    ) -> Tensor:
        x = x.contiguous(memory_format=memory_format(x.ndim - 2))
        z, samples, channels, excitation = torch.empty_like(x), x.shape[0], x.shape[1], None
        kept: dict[str, Tensor | None] = {name: torch.empty(samples, channels) for name in ("mean", "rstd")}
        kept["gate"] = torch.ones(samples, channels)
        kept |= {"weight": weight.detach().float().contiguous(), "bias": bias.detach().float().contiguous()}
        kept |= _voxel_gate(x, spatial_weight, spatial_bias)
        if gating.excite is None:
            steps = MOMENTS | FORWARD
        elif _fits(gating.layers, x):
            kept |= _excitation(x, *learned)
            steps = MOMENTS | SLOPES | EXCITE | FORWARD
        else:
            excitation = _excite(x, slope, epsilon, gating.excite, kept, any(ctx.needs_input_grad))
            kept["gate"] = excitation[1].detach().float().contiguous()
            steps = FORWARD
        Pass(x, slope, gating.mode, epsilon, out=z, **kept).forward(steps)
        ctx.names = ("x", *kept)
        ctx.save_for_backward(x, *kept.values())
        ctx.slope, ctx.mode, ctx.excitation, ctx.learned = slope, gating.mode, excitation, learned
        ctx.shapes = [None if tensor is None else tensor.shape for tensor in (spatial_weight, spatial_bias)]
        return z

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        kept = dict(zip(ctx.names, ctx.saved_tensors, strict=True))
        x = kept.pop("x")
        samples, channels = x.shape[:2]
        totals, grad_x = torch.empty(samples, 4 * channels + 1), torch.empty_like(x)
        kept |= {"dz": grad.to(x.dtype).contiguous(memory_format=memory_format(x.ndim - 2)), "out": grad_x, "totals": totals}
        kept |= {
            "corrections": torch.empty(samples, 3, channels),
            "ds": None if kept["s"] is None else torch.empty_like(kept["s"]),
        }
        grads: list[Tensor | None] = []
        if ctx.excitation is not None:
            step = Pass(x, ctx.slope, ctx.mode, **kept)
            step.backward(SUMS)
            grads = _excite_back(totals, kept, ctx.excitation, ctx.learned, x[0, 0].numel())
            step.backward(BACKWARD)
        elif ctx.learned:
            kept |= {"dunits": torch.empty_like(kept["units"]), "dlogits": torch.empty_like(kept["gate"])}
            Pass(x, ctx.slope, ctx.mode, **kept).backward(SUMS | CORRECT | EXCITE_BACK | BACKWARD)
            grads = _layer_gradients(kept, ctx.learned)
        else:
            Pass(x, ctx.slope, ctx.mode, **kept).backward(SUMS | CORRECT | BACKWARD)
        total = totals.sum(0)
        du, duxhat, dw = total[:channels], total[channels : 2 * channels], total[3 * channels : 4 * channels]
        weight_shape, bias_shape = ctx.shapes
        grad_w = None if weight_shape is None else dw.reshape(weight_shape)
        grad_w0 = None if bias_shape is None else total[-1].reshape(bias_shape)
        return (grad_x, duxhat, du, grad_w, grad_w0, None, None, None, *grads)


def _voxel_gate(x: Tensor, weight: Tensor | None, bias: Tensor | None) -> dict[str, Tensor | None]:
    """Return the weights of the voxel gates in one, and room for the gates."""
    if weight is None or bias is None:
        return {"w": None, "s": None}
    w = torch.cat((weight.detach().flatten(), bias.detach())).float()
    if isinstance(x, FakeTensor):  # this computes nothing, but its multiplications are counted
        return {"w": w, "s": CONVOLUTIONS[x.ndim - 2](x, weight).float().flatten(1)}
    return {"w": w, "s": torch.empty(x.shape[0], x[0, 0].numel())}


def _fits(layers: Layers | None, x: Tensor) -> bool:
    """Return whether the kernels can go through the layers. Without values torch does, so that multiplications are counted."""
    if layers is None or isinstance(x, FakeTensor) or layers.first.shape[0] > WIDEST:
        return False
    return all(layer is None or (layer.dtype == torch.float32 and layer.is_contiguous()) for layer in layers)


def _excitation(
    x: Tensor, first: Tensor | None, first_bias: Tensor | None, second: Tensor | None, second_bias: Tensor | None
) -> dict[str, Tensor | None]:
    """Return the layers of a channel gate, and room for what they give."""
    samples, channels = x.shape[:2]
    layers = {"w1": first, "b1": first_bias, "w2": second, "b2": second_bias}
    given = {name: None if layer is None else layer.detach() for name, layer in layers.items()}
    room = {"slopes": torch.empty(samples, 2, channels), "pooled": torch.empty(samples, channels)}
    return {**given, **room, "units": torch.empty(samples, len(cast("Tensor", first)))}


def _layer_gradients(kept: dict[str, Tensor], layers: Sequence[Tensor | None]) -> list[Tensor | None]:
    """Return the gradients of both layers, None for one that is not there or not learned."""
    dunits, dlogits = kept["dunits"], kept["dlogits"]
    rules: tuple[Callable[[], Tensor], ...] = (
        lambda: dunits.t() @ kept["pooled"],
        lambda: dunits.sum(0),
        lambda: dlogits.t() @ kept["units"],
        lambda: dlogits.sum(0),
    )
    return [rule() if layer is not None and layer.requires_grad else None for rule, layer in zip(rules, layers, strict=True)]


def _excite(
    x: Tensor, slope: float, epsilon: float, excite: Callable[[Tensor], Tensor], kept: dict[str, Tensor | None], wanted: bool
) -> tuple[Tensor, Tensor]:
    """Fill the statistics, and return the means of y and what ``excite`` makes of them, both ``(B, C)``."""
    kept["slopes"] = slopes = torch.empty(x.shape[0], 2, x.shape[1])
    Pass(x, slope, "channel", epsilon, **kept).forward(MOMENTS | SLOPES)
    weight, bias = cast("Tensor", kept["weight"]), cast("Tensor", kept["bias"])
    pooled = ((weight * slopes[:, 1] + bias * slopes[:, 0]) / x[0, 0].numel()).requires_grad_(wanted)
    with torch.set_grad_enabled(wanted):
        return pooled, excite(pooled)


def _excite_back(
    totals: Tensor, kept: dict[str, Tensor], excitation: tuple[Tensor, Tensor], learned: Sequence[Tensor], voxels: int
) -> list[Tensor | None]:
    """Go back through ``excite``: fill corrections, add to the totals what comes through the squeeze, return its gradients."""
    pooled, gate = excitation
    du, duxhat, dgate, _ = totals[:, :-1].reshape(len(totals), 4, -1).unbind(1)
    wanted = [pooled, *(parameter for parameter in learned if parameter is not None and parameter.requires_grad)]
    found = iter(torch.autograd.grad(gate, wanted, dgate.to(gate.dtype), retain_graph=True))
    squeezed = next(found) / voxels
    du += squeezed * kept["slopes"][:, 0]
    duxhat += squeezed * kept["slopes"][:, 1]
    torch.stack((du / voxels, duxhat / voxels, squeezed), 1, out=kept["corrections"])
    return [next(found) if parameter is not None and parameter.requires_grad else None for parameter in learned]
