"""From a convolution's output to the next one's input: norm, activation and gate, in one step where they can be fused."""

from __future__ import annotations

from torch import Tensor, nn

from se_med.attention import Gate
from se_med.fused.norm import PLAIN, memory_format, norm_act, usable
from se_med.networks.layers import InstanceNorm
from se_med.networks.seat import Masks, pass_gate


def normalise(
    x: Tensor, norm: nn.Module, activation: nn.Module | None, gate: Gate | None = None, masks: Masks | None = None
) -> Tensor:
    """Return ``x`` normalised, activated and weighed by the gate, ``(B, C, *spatial)``.

    Args:
        x: output of a convolution.
        norm: a normalisation.
        activation: None for no activation.
        gate: None for no gate; it squeezes what it weighs.
        masks: see ``seat.pass_gate``.
    """
    slope = _slope(activation)
    if slope is None or not isinstance(norm, InstanceNorm) or not usable(x):
        y = norm(x)
        return pass_gate(gate, y if activation is None else activation(y), masks=masks)
    gating = None if gate is None or masks or _is_watched(gate) else gate.gating()
    y = norm_act(x, norm.weight, norm.bias, norm.eps, slope, gating or PLAIN)
    return y if gating is not None else pass_gate(gate, y, masks=masks)


def to_channels_last(x: Tensor) -> Tensor:
    """Return ``x`` in channels-last memory where the fused kernels can work on it, else as it is."""
    return x.contiguous(memory_format=memory_format(x.ndim - 2)) if usable(x) else x


def _slope(activation: nn.Module | None) -> float | None:
    """Return the slope of an activation on negative values; None for one that is not linear there."""
    if activation is None:
        return 1.0
    if isinstance(activation, nn.LeakyReLU):
        return float(activation.negative_slope)
    return 0.0 if isinstance(activation, nn.ReLU) else None


def _is_watched(gate: Gate) -> bool:
    """Return whether somebody wants to see the calls of the gate or its parts, or has replaced it: fused, they do not happen."""
    watched = any(module._forward_hooks or module._forward_pre_hooks for module in gate.modules())
    return watched or "forward" in vars(gate)
