"""All units by name, and the stages that are stacked from them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from itertools import pairwise, zip_longest
from typing import cast

from torch import Tensor, nn

from se_med.attention import Gate
from se_med.config.network import NetworkConfig
from se_med.networks.bottleneck import BottleneckUnit, ResNeXtUnit
from se_med.networks.inception import InceptionUnit
from se_med.networks.layers import NormFactory, make_norm
from se_med.networks.plain import PlainUnit
from se_med.networks.residual import PreactivatedUnit, ResidualUnit
from se_med.networks.seat import Masks, Seat, pass_gate
from se_med.networks.unit import Unit

UNITS: dict[str, type[Unit]] = {
    "plain": PlainUnit,
    "residual": ResidualUnit,
    "residual_preact": PreactivatedUnit,
    "bottleneck": BottleneckUnit,
    "resnext": ResNeXtUnit,
    "inception": InceptionUnit,
}


class Stage(nn.Sequential):
    """Units in a row, each of which may have a gate passed in."""

    def forward(
        self, x: Tensor, gates: Sequence[Gate | None] = (), masks: Masks | None = None, last: Gate | None = None
    ) -> Tensor:
        """Map ``(B, channels_in, *spatial)`` to ``(B, channels_out, *spatial / stride)``.

        Args:
            x: the input of the first unit.
            gates: the gate of each unit; none may be given at all.
            masks: see ``seat.pass_gate``.
            last: the gate behind the last unit.
        """
        *units, final = self
        for unit, gate in zip_longest(units, gates[: len(units)]):
            x = unit(x, gate, masks)
        if last is not None and cast("Unit", final).takes_stage_gate:
            fused: Tensor = final(x, last, masks)
            return fused
        return pass_gate(last, final(x, gates[-1] if gates else None, masks), masks=masks)


def make_stage(
    network: NetworkConfig,
    norm: NormFactory | None,
    channels_in: int,
    channels_out: int,
    kernel: Sequence[int],
    stride: Sequence[int],
    units: int,
    seat: Seat | None = None,
) -> Stage:
    """Return ``units`` units in a row, the first of which changes channels and resolution.

    Args:
        network: kind of unit, norm and activation, spatial rank and dropout.
        norm: makes the normalisations; None for the network's own.
        channels_in: channels of the input.
        channels_out: channels of the output.
        kernel: kernel size per axis.
        stride: stride of the first unit per axis.
        units: number of units.
        seat: where the gates inside the units stand; None for units without.
    """
    kind: Callable[..., Unit] = UNITS[network.unit]
    unity = (1,) * network.rank
    make = norm or partial(make_norm, network)
    channels = (channels_in, *(channels_out,) * units)
    stage = Stage()
    for index, (a, b) in enumerate(pairwise(channels)):
        ends = {"first": index == 0, "last": index == units - 1} if kind is PreactivatedUnit else {}
        stage.append(kind(network, make, a, b, kernel, stride if index == 0 else unity, seat, **ends))
    return stage
