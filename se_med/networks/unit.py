"""What all units share: a seat for a gate, norms with their activation, and the shortcut of residual units.

A normalisation follows its convolution, and the activation follows the normalisation. Where an attention block takes the place
of the normalisation (SE-Norm), it follows the activation instead, as its authors have it (Iantsen et al. 2021).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import ClassVar

from torch import Tensor, nn

from se_med.attention import Gate
from se_med.config.network import NetworkConfig
from se_med.networks.layers import AVERAGE_POOLS, NormFactory, make_activation, make_convolution
from se_med.networks.normalise import normalise
from se_med.networks.seat import Masks, Seat, pass_gate

FOLLOWING_NORM: dict[str, tuple[str, ...]] = {
    "norm": ("pre_norm", "post_norm"),
    "activation": ("pre_norm", "post_norm", "post_act"),
}
"""What a gate can squeeze behind a norm, and behind the activation that follows a norm. The last is what it weighs."""


class Unit(nn.Module):
    """Base of the units, which map ``(B, channels_in, *spatial)`` to ``(B, channels_out, *spatial / stride)``.

    A unit knows the seat of its gate but does not own the gate: it is passed in with each call, so that no parameter of a
    network has another name with gates than without.

    Attributes:
        placements: where gates can stand in the unit; for each placement what they can squeeze, from early to late, the last
            of which is the weighed map. Empty where that map is no output of a convolution with a norm.
        ends_in: the placement at which a gate weighs the unit's own output; None where there is none.
        dropout: the last layer of the unit.

    Args:
        seat: where the gate stands; None for a unit without.
    """

    placements: ClassVar[Mapping[str, tuple[str, ...]]]
    ends_in: ClassVar[str | None] = None
    dropout: nn.Module

    def __init__(self, seat: Seat | None = None) -> None:
        super().__init__()
        self.seat = seat

    @classmethod
    def inner_width(cls, network: NetworkConfig, channels_out: int) -> int:
        """Return the number of channels between the convolutions of a unit with ``channels_out``."""
        return channels_out

    @property
    def takes_stage_gate(self) -> bool:
        """Whether a gate that follows the unit may be passed in instead: the unit has no seat and nothing follows the gate."""
        return self.seat is None and self.ends_in is not None and isinstance(self.dropout, nn.Identity)

    def gated(self, placement: str, x: Tensor, gate: Gate | None, masks: Masks | None) -> Tensor:
        """Return ``x`` as the gate weighs it, if that is where it stands."""
        return pass_gate(gate, x, None, masks) if self._stands(placement) else x

    def normalised(
        self,
        placement: str,
        x: Tensor,
        norm: nn.Module,
        activation: nn.Module | None,
        gate: Gate | None = None,
        masks: Masks | None = None,
    ) -> Tensor:
        """Return a convolution's output ``x`` normalised, activated, and weighed by the gate if that is where it stands."""
        if isinstance(norm, Gate):
            y: Tensor = norm(x if activation is None else activation(x))
            return y
        if gate is None or not self._stands(placement):
            return normalise(x, norm, activation)
        if self.seat is None or self.seat.squeeze_from in (None, "post_act"):
            return normalise(x, norm, activation, gate, masks)
        maps = {"pre_norm": x, "post_norm": norm(x)}
        y = maps["post_norm"] if activation is None else activation(maps["post_norm"])
        return pass_gate(gate, y, self._source(maps, y), masks)

    def bypassed(self, x: Tensor, shortcut: nn.Sequential, gate: Gate | None, masks: Masks | None) -> Tensor:
        """Return the shortcut's output, weighed by the gate if it stands there: a projection is weighed, not its input."""
        if gate is None or not self._stands("identity"):
            y: Tensor = shortcut(x)
            return y
        maps: dict[str, Tensor] = {}
        for name, layer in shortcut.named_children():
            if name == "norm":
                maps["pre_norm"] = x
            x = layer(x)
        return pass_gate(gate, x, self._source(maps, x), masks)

    def _stands(self, placement: str) -> bool:
        return placement == (self.ends_in if self.seat is None else self.seat.placement)

    def _source(self, maps: Mapping[str, Tensor], weighed: Tensor) -> Tensor | None:
        source = maps.get(self.seat.squeeze_from or "") if self.seat is not None else None
        return None if source is weighed else source


def keeps_norm(seat: Seat | None) -> bool:
    """Return whether the output of a norm is squeezed, so that no activation may overwrite it."""
    return seat is not None and seat.squeeze_from == "post_norm"


def is_projected(channels_in: int, channels_out: int, stride: Sequence[int]) -> bool:
    """Return whether the shortcut of a residual unit is a convolution: where resolution or channels change."""
    return channels_in != channels_out or any(step > 1 for step in stride)


def make_shortcut(
    network: NetworkConfig, norm: NormFactory | None, channels_in: int, channels_out: int, stride: Sequence[int]
) -> nn.Sequential:
    """Return the shortcut of a residual unit.

    Where resolution or channels change, it averages over the stride and projects by a 1x1 convolution with norm (ResNet-D, He et
    al. 2018, arXiv 1812.01187), as in nnU-Net's residual encoder; otherwise it is empty.

    Args:
        network: spatial rank, and the activation that precedes an SE-Norm.
        norm: makes the norm; None for a projection without.
        channels_in: channels of the input.
        channels_out: channels of the output.
        stride: stride of the unit per axis.
    """
    path = nn.Sequential()
    if any(step > 1 for step in stride):
        path.add_module("pool", AVERAGE_POOLS[network.rank](tuple(stride)))
    if is_projected(channels_in, channels_out, stride):
        last = norm(channels_out) if norm is not None else None
        unity = (1,) * network.rank
        path.add_module("conv", make_convolution(network, channels_in, channels_out, unity, unity, last or nn.Identity()))
        if isinstance(last, Gate):
            path.add_module("activation", make_activation(network))
        if last is not None:
            path.add_module("norm", last)
    return path
