"""Every gate of a network, where it stands, and the factor it multiplies by: watched, or replaced by another."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from typing import Any, Literal

import torch
from torch import Tensor, nn

from se_med.attention import Gate
from se_med.attention.activations import GATE_FUNCTIONS
from se_med.attention.attention_gate import AttentionGate
from se_med.attention.averaged import AveragedGate
from se_med.attention.cbam import ConvolutionalGate
from se_med.attention.cse import ChannelGate
from se_med.attention.gate import Kind
from se_med.attention.global_context import GlobalContext
from se_med.attention.registry import BLOCKS
from se_med.attention.scse import ConcurrentGate
from se_med.attention.se_norm import EPSILON, SENorm
from se_med.attention.sse import SpatialGate

Weighed = Literal["input", "transformed", "normalised", "nothing"]
"""What a gate's factor multiplies: the block's input, and the product is the output; the input, and the product is transformed
(convolution and norm) afterwards; the normalised input, to which a shift is added; or nothing: there is no such factor."""

Receive = Callable[["GateSite", Tensor], None]
Replacement = Tensor | Callable[[Tensor], Tensor]

BOUNDS: dict[str, tuple[float, float]] = {
    "sigmoid": (0.0, 1.0),
    "hard_sigmoid": (0.0, 1.0),
    "tanh": (-1.0, 1.0),
    "relu": (0.0, float("inf")),
    "2sigmoid": (0.0, 2.0),
}
"""Smallest and largest value of each gate function."""

_ORDER = ("upsample", "skip", "concat", "decoder", "head")
"""Sites of one decoder stage, in the order in which a map passes them."""
_PLACE = re.compile(r"(?P<site>[a-z]+)_(?P<stage>\d+)(?:_(?P<unit>\d+))?")


@dataclass(frozen=True, eq=False)
class GateSite:
    """A gate of a network.

    Attributes:
        name: dotted name of the module, as `named_modules` gives it.
        site: as the configuration names it (`encoder`, `skip`, ...); of a network that is no U-Net of ours the module's name.
        stage: stage of the site; 0 has the highest resolution. None in other networks.
        unit: number of the unit in which it stands; None for one that follows its stage.
        kind: what the block weighs.
        block: the block's name in the registry.
        module: the gate itself.
        part: which part of a block this is that has several, `channel`, `spatial` or `shift`; empty for a whole block.
    """

    name: str
    site: str
    stage: int | None
    unit: int | None
    kind: Kind
    block: str
    module: Gate
    part: str = ""

    @property
    def label(self) -> str:
        """The gate's place in words, `encoder 0` or, inside a unit, `encoder 0.1`; of a part `encoder 0 channel part`."""
        place = self.name if self.stage is None else f"{self.site} {self.stage}"
        if self.stage is not None and self.unit is not None:
            place = f"{place}.{self.unit}"
        return f"{place} {self.part} part" if self.part and self.stage is not None else place

    @property
    def weighed(self) -> Weighed:
        """What the factor multiplies."""
        gate = self.module
        if isinstance(gate, SENorm):
            return "normalised"
        if isinstance(gate, AttentionGate):
            return "transformed"
        if isinstance(gate, ConcurrentGate) and gate.aggregation == "concat":
            return "nothing"
        if isinstance(gate, GlobalContext) and gate.fusion == "add":
            return "nothing"
        return "input"

    @property
    def reason(self) -> str:
        """A sentence on a factor that is not simply multiplied with the block's input; empty for one that is."""
        if self.weighed == "normalised":
            return "The factor scales the normalised map, and a shift that depends on the map is added."
        if self.weighed == "transformed":
            return "The factor scales the skip features before a convolution and a norm, which belong to the block."
        if isinstance(self.module, GlobalContext):
            return "The block adds a term instead of multiplying by a factor; it has no gate to average."
        if self.weighed == "nothing":
            return "The block projects two gated maps to one; no single factor stands for it."
        return ""

    @property
    def bounds(self) -> tuple[float, float]:
        """Smallest and largest value that the factor can have; infinite where there is no bound."""
        gate = self.module
        low, high = self.full_bounds
        if gate.strength is None or self.weighed == "transformed":
            return low, high
        strength = float(gate.strength.detach())
        ends = (1 + strength * (low - 1), 1 + strength * (high - 1)) if strength else (1.0, 1.0)
        return min(ends), max(ends)

    @property
    def full_bounds(self) -> tuple[float, float]:
        """Smallest and largest value before any blend with the identity (`identity_start`)."""
        return _bounds(self.module)

    @property
    def uniform(self) -> bool:
        """Whether all voxels of a channel get the same factor."""
        return self.module.uniform or self.weighed == "normalised"

    def factor(self, *inputs: Tensor) -> Tensor:
        """Return the factor for the inputs of a call of the block, `(B, C or 1, *spatial or ones)`.

        Static gates give one for the whole batch, `(1, C, 1, 1[, 1])`.
        """
        return self.module.gate(*(inputs[:1] if isinstance(self.module, SpatialGate) else inputs))

    def apply(self, factor: Tensor, *inputs: Tensor) -> Tensor:
        """Return the block's output with another factor in place of its own, `(B, C, *spatial)`.

        Raises:
            ValueError: the block multiplies by no factor.
        """
        x, gate = inputs[0], self.module
        if isinstance(gate, SENorm):
            normalised = torch.group_norm(x, gate.channels, eps=EPSILON)
            shift: Tensor = gate.shift.weigh(x)
            return normalised.to(x.dtype) * factor.to(x.dtype) + shift.to(x.dtype)
        if isinstance(gate, AttentionGate):
            transformed: Tensor = gate.output(x * factor.to(x.dtype))
            return gate.blend(x, transformed.to(x.dtype))
        if self.weighed == "nothing":
            raise ValueError(f"{self.name}: {self.reason}")
        return x * factor.to(x.dtype)


def find_gates(network: nn.Module) -> tuple[GateSite, ...]:
    """Return all gates of a network in the order in which a map passes them; those inside other gates are parts of these."""
    found: list[GateSite] = []
    names = {kind: name for name, kind in BLOCKS.items()}
    stages = getattr(network, "encoder", None)
    last = len(stages) - 1 if isinstance(stages, nn.ModuleList) else None
    for name, module in network.named_modules():
        if not isinstance(module, Gate) or any(name.startswith(f"{outer.name}.") for outer in found):
            continue
        site, stage, unit = _place(name, last)
        block = names.get(type(module), type(module).__name__)
        found.append(GateSite(name, site, stage, unit, module.kind, block, module))
    return tuple(sorted(found, key=_depth))  # stable: modules of one place keep the network's own order


def find_parts(gate: GateSite) -> tuple[GateSite, ...]:
    """Return the parts of a block that has several: what each of them does is lost in their sum, product or maximum.

    scSE has a channel part and a spatial part, CBAM's channel part can be told apart, SE-Norm has a shift. A part's factor is
    computed from the inputs of its block; it is not hooked, and `identity_start` has no part in it.
    """
    module = gate.module
    parts: dict[str, Gate] = {}
    if isinstance(module, ConcurrentGate):
        parts = {"channel": module.channel, "spatial": module.spatial}
    elif isinstance(module, ConvolutionalGate):
        parts = {"channel": module.channel}
    elif isinstance(module, SENorm):
        parts = {"shift": module.shift}
    return tuple(replace(gate, name=f"{gate.name}.{part}", kind=one.kind, module=one, part=part) for part, one in parts.items())


@contextmanager
def calling(network: nn.Module, hook: Callable[[GateSite, tuple[Tensor, ...]], Tensor | None]) -> Iterator[None]:
    """Call `hook` after every call of a gate, with the gate's inputs; a map that it returns takes the place of the output.

    A gate with a hook is called by itself and not fused with the norm before it, so that outputs may differ in their last bits.
    """
    with ExitStack() as handles:
        for gate in find_gates(network):
            handle = gate.module.register_forward_hook(_calling(gate, hook))
            handles.callback(handle.remove)
        yield


@contextmanager
def watching(network: nn.Module, receive: Receive) -> Iterator[None]:
    """Hand out the factor of every gate on every forward pass, without changing what the network computes.

    Blocks that multiply by no factor (`weighed` is `nothing`) hand out nothing.

    Args:
        network: the network; it is called by the caller, as often as wanted.
        receive: is given the gate and its factor, `(B, C or 1, *spatial or ones)`, detached; of a static gate `(1, ...)`.
    """

    def hook(gate: GateSite, inputs: tuple[Tensor, ...]) -> None:
        if gate.weighed != "nothing":
            with torch.no_grad():
                receive(gate, gate.factor(*inputs).detach())

    with calling(network, hook):
        yield


@contextmanager
def replacing(network: nn.Module, factors: Mapping[str, Replacement]) -> Iterator[None]:
    """Let gates multiply by other factors than their own.

    Args:
        network: the network; it is called by the caller.
        factors: by name of the gate, a factor that broadcasts to the block's input, or what makes it of the gate's own factor.

    Raises:
        ValueError: there is no gate of that name, or it multiplies by no factor.
    """
    gates = {gate.name: gate for gate in find_gates(network)}
    for name in factors:
        if name not in gates:
            raise ValueError(f"{name}: no gate of this network; it has {', '.join(gates) or 'none'}")
        if gates[name].weighed == "nothing":
            raise ValueError(f"{name}: {gates[name].reason}")

    def hook(gate: GateSite, inputs: tuple[Tensor, ...]) -> Tensor | None:
        if gate.name not in factors:
            return None
        chosen = factors[gate.name]
        factor = chosen if isinstance(chosen, Tensor) else chosen(gate.factor(*inputs))
        return gate.apply(factor.to(inputs[0].device), *inputs)

    with calling(network, hook):
        yield


def _calling(
    gate: GateSite, hook: Callable[[GateSite, tuple[Tensor, ...]], Tensor | None]
) -> Callable[[nn.Module, tuple[Any, ...], Any], Tensor | None]:
    return lambda module, inputs, output: hook(gate, inputs)


def _place(name: str, last: int | None) -> tuple[str, int | None, int | None]:
    """Return site, stage and unit of a gate of our own U-Net; of another network the name alone."""
    if last is None:
        return name, None, None
    if name.startswith("gates.") and (match := _PLACE.fullmatch(name.removeprefix("gates."))):
        unit = match["unit"]
        return match["site"], int(match["stage"]), None if unit is None else int(unit)
    parts = name.split(".")  # a normalisation, which lives in its unit
    if len(parts) > 2 and parts[0] in ("encoder", "decoder") and parts[1].isdigit() and parts[2].isdigit():
        stage = int(parts[1])
        return "bottleneck" if (parts[0], stage) == ("encoder", last) else parts[0], stage, int(parts[2])
    return name, None, None


def _depth(gate: GateSite) -> tuple[int, int, int, int]:
    """Return a key that sorts gates by the order in which a map passes them."""
    stage, unit = gate.stage or 0, 1_000_000 if gate.unit is None else gate.unit
    if gate.site in _ORDER:
        return 1, -stage, _ORDER.index(gate.site), unit
    return 0, stage, 0, unit


def _bounds(gate: Gate) -> tuple[float, float]:
    unbounded = (-float("inf"), float("inf"))
    if isinstance(gate, ConcurrentGate):
        known = {"max": (0.0, 1.0), "add": (0.0, 2.0), "gate_multiply": (0.0, 1.0)}
        return known.get(gate.aggregation, unbounded)
    if isinstance(gate, ChannelGate):
        function = next(name for name, known in GATE_FUNCTIONS.items() if known is gate.gate_function)
        return BOUNDS[function]
    if isinstance(gate, AveragedGate):
        return _bounds(gate.channel)
    return unbounded if isinstance(gate, GlobalContext) and gate.fusion == "add" else (0.0, 1.0)
