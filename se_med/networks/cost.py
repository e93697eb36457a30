"""What a network costs, by stage and by gate: parameters, multiplications and memory that training keeps.

Nothing is computed: the forward pass runs on tensors that have a shape and no values, so patches of any size can be counted on
any machine.
"""

from __future__ import annotations

import copy
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any, cast

from torch import Tensor, nn

from se_med.attention import Gate
from se_med.attention.registry import BLOCKS
from se_med.networks.ledger import Ledger, Place
from se_med.networks.unet import UNet

STAGE_OF_SITE = {"upsample": "decoder", "skip": "decoder", "concat": "decoder"}
"""Where gates are counted that stand at no stage's own site; others are counted at the stage named as their site."""
FUSED_SITES = ("encoder", "bottleneck", "decoder")
"""Where a gate stands behind a norm and an activation, and is fused into them where the kernels know it."""


@dataclass(frozen=True)
class Cost:
    """What something costs.

    Attributes:
        parameters: learned numbers.
        macs: multiplications with an addition, of convolutions and matrix products, for one image. Elementwise operations, norms,
            pooling and interpolation are not counted.
        activation_bytes: memory in float32 that the forward pass of one batch keeps for the backward pass. What several
            operations keep together counts once; parameters, buffers and the input itself do not count.
    """

    parameters: int = 0
    macs: int = 0
    activation_bytes: int = 0

    def __add__(self, other: Cost) -> Cost:
        """Return the sum of both."""
        return Cost(self.parameters + other.parameters, self.macs + other.macs, self.activation_bytes + other.activation_bytes)

    def percent_above(self, other: Cost) -> dict[str, float]:
        """Return how much more than ``other`` this is, in percent of ``other``."""
        theirs = asdict(other)
        return {key: 100 * (mine / theirs[key] - 1) if theirs[key] else 0.0 for key, mine in asdict(self).items()}


@dataclass(frozen=True)
class GateCost:
    """One gate: its name in the network, such as ``decoder_0``, its block and its cost."""

    name: str
    block: str
    cost: Cost


@dataclass(frozen=True)
class StageCost:
    """One stage of the encoder or decoder, or the heads.

    Attributes:
        name: ``encoder 0``, ..., ``bottleneck``, ..., ``decoder 0``, ``head``.
        shape: channels and spatial size of its output; for the heads of the output at full resolution.
        units: number of units; 0 for the heads.
        cost: everything in it, its gates included. A decoder stage includes its upsampling and its skip connection.
        gates: the gates in it, in the order in which the image passes them.
    """

    name: str
    shape: tuple[int, ...]
    units: int
    cost: Cost
    gates: tuple[GateCost, ...]


@dataclass(frozen=True)
class NetworkCost:
    """All stages in the order of the forward pass."""

    stages: tuple[StageCost, ...]

    @property
    def total(self) -> Cost:
        """The cost of the whole network."""
        return sum((stage.cost for stage in self.stages), Cost())

    @property
    def gates(self) -> Cost:
        """The cost of all gates."""
        return sum((gate.cost for stage in self.stages for gate in stage.gates), Cost())

    def to_dict(self) -> dict[str, Any]:
        """Return everything as JSON-able data."""
        return {"stages": [asdict(stage) for stage in self.stages], "total": asdict(self.total), "gates": asdict(self.gates)}


def measure(module: nn.Module, *shapes: Sequence[int]) -> Cost:
    """Count one module in training mode, as a part of a network: gradients flow through it to its inputs.

    Args:
        module: any module of torch; it is left as it is.
        *shapes: the shape of each input, the batch first and equal in all.
    """
    ledger = Ledger()
    ledger.trace(copy.deepcopy(module).train(), shapes, inside=True)
    parameters = sum(parameter.numel() for parameter in module.parameters())
    return Cost(parameters, ledger.macs.total() // shapes[0][0], ledger.kept.total())


def measure_network(network: UNet, in_channels: int, patch: Sequence[int], batch_size: int) -> NetworkCost:
    """Count a U-Net stage by stage and gate by gate, in training mode.

    Args:
        network: the network; it is left as it is.
        in_channels: channels of the image.
        patch: spatial size of the image.
        batch_size: images per batch.

    Raises:
        ValueError: a size that the network refuses, or a batch that is too small for one of its gates.
    """
    network = copy.deepcopy(network).train()
    shape = (batch_size, in_channels, *patch)
    fused = _kept_by_stage(copy.deepcopy(network), shape)
    ledger = Ledger()
    stages, gates = _stages(network), _gates(network)
    shapes: dict[str, tuple[int, ...]] = {}
    places: dict[str, Place] = {}
    for name, modules in stages.items():
        for module in modules:
            ledger.watch(module, partial(_in_stage, name))
        modules[0].register_forward_hook(partial(_note_shape, shapes, name))
    for name, gate in gates.items():
        ledger.watch(gate, partial(_in_gate, places, name))
    network.unfold.register_forward_hook(partial(_note_shape, shapes, "head"))
    ledger.trace(network, [shape], inside=False)
    for name in stages:
        _charge_as_fused(ledger.kept, [place for place in places.values() if place[0] == name], (name, ""), fused[name])
    inside = {parameter for gate in gates.values() for parameter in gate.parameters()}

    def cost(place: Place, modules: Sequence[nn.Module], without: set[nn.Parameter]) -> Cost:
        own = {parameter for module in modules for parameter in module.parameters()} - without
        return Cost(sum(parameter.numel() for parameter in own), ledger.macs[place] // batch_size, ledger.kept[place])

    rows = []
    for name, modules in stages.items():
        costs = [
            GateCost(key, _block(gates[key]), cost(place, [gates[key]], set()))
            for key, place in places.items()
            if place[0] == name
        ]
        total = sum((gate.cost for gate in costs), cost((name, ""), modules, inside))
        units = 0 if name == "head" else len(cast("nn.Sequential", modules[0]))
        rows.append(StageCost(name, shapes[name], units, total, tuple(costs)))
    return NetworkCost(tuple(rows))


def _kept_by_stage(network: UNet, shape: Sequence[int]) -> dict[str, int]:
    """Return the bytes that each stage keeps with its gates, which are fused into norms where that is possible."""
    ledger = Ledger()
    stages = _stages(network)
    for name, modules in stages.items():
        for module in modules:
            ledger.watch(module, partial(_in_stage, name))
    for name, gate in network.gates.items():
        if cast("Gate", gate).gating() is None or name.split("_")[0] not in FUSED_SITES:
            ledger.watch(gate, partial(_in_gate, {}, name))
    ledger.trace(network, [shape], inside=False)
    return {name: sum(kept for place, kept in ledger.kept.items() if place[0] == name) for name in stages}


def _charge_as_fused(kept: Counter[Place], gates: Sequence[Place], stage: Place, total: int) -> None:
    """Lower what the gates of a stage keep, in proportion, so that the stage keeps ``total``: watched gates are not fused."""
    apart = sum(kept[place] for place in gates)
    saved = apart + kept[stage] - total
    for place in gates:
        kept[place] -= round(saved * kept[place] / apart) if apart else 0


def _stages(network: UNet) -> dict[str, list[nn.Module]]:
    """Return the modules of each stage, first the one whose output is the stage's, in the order of the forward pass."""
    *encoder, bottleneck = network.encoder
    stages = {f"encoder {index}": [stage] for index, stage in enumerate(encoder)} | {"bottleneck": [bottleneck]}
    for index in reversed(range(len(network.decoder))):
        stages[f"decoder {index}"] = [network.decoder[index], network.upsample[index]]
    return stages | {"head": list(network.heads)}


def _gates(network: UNet) -> dict[str, Gate]:
    """Return the gates of a network by name, without the gates that others are made of."""
    found: dict[str, Gate] = {}
    for name, module in network.named_modules():
        if isinstance(module, Gate) and not any(name.startswith(f"{outer}.") for outer in found):
            found[name] = module
    return {name.removeprefix("gates."): gate for name, gate in found.items()}


def _in_stage(name: str, around: Place) -> Place:
    return name, ""


def _in_gate(places: dict[str, Place], name: str, around: Place) -> Place:
    stage, _ = around
    if not stage:  # between two stages: the site tells
        site, index, *_ = name.split("_")
        stage = site if site in ("bottleneck", "head") else f"{STAGE_OF_SITE.get(site, site)} {index}"
    return places.setdefault(name, (stage, name))


def _note_shape(shapes: dict[str, tuple[int, ...]], name: str, module: nn.Module, inputs: object, output: Tensor) -> None:
    shapes[name] = tuple(output.shape[1:])


def _block(gate: Gate) -> str:
    return next(name for name, block in BLOCKS.items() if type(gate) is block)
