"""Which layers of a U-Net can take the constant factor of a gate, from the order of operations in its units.

Where the factor can be moved back to what makes the weighed map, it is: the map that all others see is then the same as before. A
norm or convolution takes it directly, an activation lets it pass that is linear on both sides of 0 (leaky ReLU, ReLU) where no
factor is negative, a residual sum where both of its branches take it. Else it is moved on to all convolutions that read the map.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from typing import Literal, cast

import torch
from torch import Tensor, nn

from se_med.attention import Gate
from se_med.explain.gates import GateSite, find_gates
from se_med.networks.bottleneck import BottleneckUnit
from se_med.networks.inception import InceptionUnit
from se_med.networks.plain import PlainUnit
from se_med.networks.residual import PreactivatedUnit, ResidualUnit
from se_med.networks.unet import UNet
from se_med.networks.unit import Unit

SMALLEST = 1e-6
"""A factor that another layer must be divided by is not below this."""
BATCH_NORMS = (nn.BatchNorm2d, nn.BatchNorm3d)
NORMS = (nn.GroupNorm, *BATCH_NORMS)
TRANSPOSED = (nn.ConvTranspose2d, nn.ConvTranspose3d)
LAYERS = (*NORMS, nn.Conv2d, nn.Conv3d, *TRANSPOSED)
Residual = ResidualUnit | BottleneckUnit


class UnfoldableError(Exception):
    """A factor cannot be folded exactly; the message says why, as a clause."""


@dataclass(frozen=True, eq=False)
class Scaling:
    """A layer whose output channels, or input channels, are scaled.

    Attributes:
        layer: a convolution or a norm.
        side: which channels.
        factor: `(C,)`.
    """

    layer: nn.Module
    side: Literal["out", "in"]
    factor: Tensor


class Paths:
    """Finds the layers that can take a factor, from the units' own order of operations.

    Args:
        network: the network.
        constant: names of the gates that are folded: any factor passes them.
    """

    def __init__(self, network: UNet, constant: Collection[str]) -> None:
        self.network = network
        self.staying = [gate for gate in find_gates(network) if gate.name not in constant]

    def scalings(self, gate: GateSite, factor: Tensor) -> list[Scaling]:
        """Return what to scale in place of the gate.

        Raises:
            UnfoldableError: there is no way.
        """
        if gate.weighed == "normalised":
            raise UnfoldableError("it is the norm of its units, and its shift depends on the map as well")
        if gate.weighed == "transformed":
            raise UnfoldableError("a convolution and a norm of its own follow, which mix channels")
        if gate.weighed == "nothing":
            raise UnfoldableError("it multiplies by no factor")
        if not bool(torch.isfinite(factor).all()):
            raise UnfoldableError("its factor is not finite")
        if bool((factor == 1).all()):
            return []
        try:
            return self._before(gate, factor)
        except UnfoldableError as first:
            try:
                return self._after(gate, factor)
            except UnfoldableError as second:
                raise UnfoldableError(f"{first}; and {second}") from None

    def _units(self, site: str, stage: int) -> list[Unit]:
        stages = self.network.decoder if site == "decoder" else self.network.encoder
        return list(cast("nn.Sequential", stages[stage]))  # type: ignore[arg-type]  # all are units

    def _before(self, gate: GateSite, factor: Tensor) -> list[Scaling]:
        site, stage = gate.site, cast("int", gate.stage)
        if site == "upsample":
            return [Scaling(self.network.upsample[stage], "out", factor)]
        if site not in ("encoder", "bottleneck", "decoder"):
            raise UnfoldableError("what makes its input makes it for others too")
        units = self._units(site, stage)
        if gate.unit is None:
            return self._output(units, len(units) - 1, factor)
        unit = units[gate.unit]
        placement = unit.seat.placement if unit.seat is not None else ""
        if placement == "post" or (placement == "standard" and isinstance(unit, PlainUnit | InceptionUnit)):
            return self._output(units, gate.unit, factor)
        if placement == "standard":
            return [_out(unit.conv2 if isinstance(unit, PreactivatedUnit) else _last_norm(unit), factor)]
        if placement == "identity":
            return self._shortcut(units, gate.unit, factor)
        if placement == "conv3" and isinstance(unit, BottleneckUnit):
            _through(unit.activation2, factor)
            return [_out(unit.norm2, factor)]
        raise UnfoldableError("its input is read by the shortcut as well")

    def _output(self, units: list[Unit], index: int, factor: Tensor) -> list[Scaling]:
        """Scale what leaves a unit."""
        unit = units[index]
        if isinstance(unit, PlainUnit | InceptionUnit):
            _through(unit.activation, factor)
            return [_out(unit.norm, factor)]
        if isinstance(unit, PreactivatedUnit):
            if not isinstance(unit.norm3, nn.Identity):
                _through(unit.activation3, factor)
                return [_out(unit.norm3, factor)]
            return [_out(unit.conv2, factor), *self._shortcut(units, index, factor)]
        _through(_last_activation(unit), factor)
        return [_out(_last_norm(unit), factor), *self._shortcut(units, index, factor)]

    def _shortcut(self, units: list[Unit], index: int, factor: Tensor) -> list[Scaling]:
        """Scale what a shortcut adds to the sum; where it is the unit's input itself, that, and undo it for the other branch."""
        unit = units[index]
        path = dict(_path(unit).named_children())
        if "norm" in path:
            return [_out(path["norm"], factor)]
        if "conv" in path:
            return [_out(path["conv"], factor)]
        if index == 0:
            raise UnfoldableError("its unit's shortcut is the input of the stage itself")
        if not isinstance(unit, Residual):
            raise UnfoldableError("its unit's shortcut is the unit's input itself, which a norm reads as well")
        if bool((factor < SMALLEST).any()):
            raise UnfoldableError("its unit's shortcut is the unit's input itself, and a factor is not above 0")
        return [*self._output(units, index - 1, factor), _in(unit.conv1, 1 / factor)]

    def _after(self, gate: GateSite, factor: Tensor) -> list[Scaling]:
        site, stage = gate.site, cast("int", gate.stage)
        if site == "skip":
            return self._joined(stage, factor)
        if site == "concat":
            return self._stage("decoder", stage, factor)
        if site == "head":
            return [_in(self.network.heads[0], factor)]
        if site == "upsample":
            raise UnfoldableError("the upsampling cannot take it")
        if gate.unit is None:
            return self._leaving(site, stage, factor)
        units = self._units(site, stage)
        unit = units[gate.unit]
        placement = unit.seat.placement if unit.seat is not None else ""
        if placement == "pre":
            return _entering_branch(unit, factor)
        if placement == "conv3" and isinstance(unit, BottleneckUnit):
            return [_in(unit.conv3, factor)]
        if placement == "post" or isinstance(unit, PlainUnit | InceptionUnit):
            if gate.unit + 1 < len(units):
                return _entering(units[gate.unit + 1], factor)
            return self._leaving(site, stage, factor)
        raise UnfoldableError("a sum follows")

    def _leaving(self, site: str, stage: int, factor: Tensor) -> list[Scaling]:
        """Scale what reads the output of a stage."""
        last = len(self.network.encoder) - 1
        if site == "encoder":
            following = "encoder" if stage + 1 < last else "bottleneck"
            self._refuse("skip", stage)
            return [*self._stage(following, stage + 1, factor), *self._joined(stage, factor)]
        above = last - 1 if site == "bottleneck" else stage - 1
        if above < 0:
            self._refuse("head", 0)
            return [_in(self.network.heads[0], factor)]
        for gate in self.staying:
            if (gate.site, gate.stage) == ("skip", above) and gate.module.signal == "coarse":
                raise UnfoldableError(f"{gate.label} stays and reads the same map")
        return [_in(self.network.upsample[above], factor)]

    def _joined(self, stage: int, factor: Tensor) -> list[Scaling]:
        """Scale what reads the skip connection behind the concatenation, where it comes second."""
        self._refuse("concat", stage)
        return self._stage("decoder", stage, torch.cat((torch.ones_like(factor), factor)))

    def _stage(self, site: str, stage: int, factor: Tensor) -> list[Scaling]:
        """Scale what reads the input of a stage."""
        unit = self._units(site, stage)[0]
        if unit.seat is not None and unit.seat.placement == "pre":
            self._refuse(site, stage)
        return _entering(unit, factor)

    def _refuse(self, site: str, stage: int) -> None:
        for gate in self.staying:
            if (gate.site, gate.stage) == (site, stage):
                raise UnfoldableError(f"{gate.label} stays and reads the same map")


def _entering(unit: Unit, factor: Tensor) -> list[Scaling]:
    """Scale everything that reads the input of a unit."""
    if isinstance(unit, PlainUnit):
        return [_in(unit.conv, factor)]
    if isinstance(unit, InceptionUnit):
        if bool((factor < 0).any()):
            raise UnfoldableError("a factor is negative, and a maximum follows")
        inner = [cast("PlainUnit", branch[0]).conv for branch in (unit.branch2, unit.branch3)]
        return [_in(layer, factor) for layer in (unit.branch1[1], *inner, unit.branch4[1])]
    path = dict(_path(unit).named_children())
    if "conv" not in path:
        raise UnfoldableError("a shortcut without a layer follows")
    return [*_entering_branch(unit, factor), _in(path["conv"], factor)]


def _entering_branch(unit: Unit, factor: Tensor) -> list[Scaling]:
    """Scale what reads the input of the residual branch alone."""
    if isinstance(unit, PreactivatedUnit) and not isinstance(unit.norm1, nn.Identity):
        if isinstance(unit.norm1, BATCH_NORMS) and bool((factor.abs() >= SMALLEST).all()):
            return [_in(unit.norm1, factor)]
        raise UnfoldableError("a norm follows, which takes it out again, but for its epsilon")
    return [_in(cast("nn.Module", unit.conv1), factor)]


def _path(unit: Unit) -> nn.Sequential:
    return cast("nn.Sequential", unit.shortcut)


def _last_norm(unit: Unit) -> nn.Module:
    return cast("nn.Module", unit.norm3 if isinstance(unit, BottleneckUnit) else unit.norm2)


def _last_activation(unit: Unit) -> nn.Module:
    return cast("nn.Module", unit.activation3 if isinstance(unit, BottleneckUnit) else unit.activation2)


def _through(activation: nn.Module, factor: Tensor) -> None:
    """Refuse a factor that is not the same before and after an activation."""
    if not isinstance(activation, nn.LeakyReLU | nn.ReLU | nn.Identity):
        raise UnfoldableError(f"the activation {type(activation).__name__} is not linear on both sides of 0")
    if bool((factor < 0).any()) and not isinstance(activation, nn.Identity):
        raise UnfoldableError("a factor is negative, and an activation comes before it")


def _out(layer: nn.Module, factor: Tensor) -> Scaling:
    if isinstance(layer, Gate) or not isinstance(layer, LAYERS):
        raise UnfoldableError(f"{type(layer).__name__} before it has no weight per channel")
    return Scaling(layer, "out", factor)


def _in(layer: nn.Module, factor: Tensor) -> Scaling:
    if getattr(layer, "groups", 1) != 1:
        raise UnfoldableError("the convolution behind it has groups")
    return Scaling(layer, "in", factor)
