"""Gates with one constant factor per channel, folded into the convolutions and norms around them: same output, no gate."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import dataclass
from typing import cast

import torch
from torch import Tensor

from se_med.explain.gates import find_gates
from se_med.explain.paths import BATCH_NORMS, TRANSPOSED, Paths, Scaling, UnfoldableError
from se_med.networks.unet import UNet


@dataclass(frozen=True)
class FoldedGate:
    """A gate that was folded.

    Attributes:
        gate: name of the module.
        into: names of the layers that have its factor now.
    """

    gate: str
    into: tuple[str, ...]


@dataclass(frozen=True)
class KeptGate:
    """A gate that could not be folded exactly.

    Attributes:
        gate: name of the module.
        reason: why, as a clause.
    """

    gate: str
    reason: str


@dataclass(frozen=True, eq=False)
class Folding:
    """A network without some of its gates.

    Attributes:
        network: a copy without the folded gates, in evaluation mode.
        folded: what was folded, and where.
        kept: what was not, and why; a gate is also kept where another of its site and stage is.
    """

    network: UNet
    folded: tuple[FoldedGate, ...]
    kept: tuple[KeptGate, ...]


def fold_gates(network: UNet, factors: Mapping[str, Tensor]) -> Folding:
    """Fold constant factors of gates into the layers around them.

    The result computes what the network computes when these gates multiply by their factors, up to rounding, in evaluation mode.

    Args:
        network: the network; it is left as it is.
        factors: by name of the gate, `(C,)` or `(1,)`: what it always multiplies by.

    Raises:
        ValueError: there is no gate of that name.
    """
    copied = copy.deepcopy(network).eval()
    gates = {gate.name: gate for gate in find_gates(copied)}
    for name in factors:
        if name not in gates:
            raise ValueError(f"{name}: no gate of this network; it has {', '.join(gates) or 'none'}")
    wanted = {name: factor.detach().reshape(-1).expand(gates[name].module.channels) for name, factor in factors.items()}
    kept: list[KeptGate] = []
    while True:  # whatever has to stay can be in the way of others
        plans: dict[str, list[Scaling]] = {}
        refused: list[KeptGate] = []
        for name, factor in wanted.items():
            try:
                plans[name] = Paths(copied, set(wanted)).scalings(gates[name], factor)
            except UnfoldableError as problem:
                refused.append(KeptGate(name, str(problem)))
        if not refused:
            break
        places = {(gates[one.gate].site, gates[one.gate].stage) for one in refused}
        known = {one.gate for one in refused}
        beside = [name for name in wanted if name not in known and (gates[name].site, gates[name].stage) in places]
        kept += [*refused, *(KeptGate(name, "another gate of its site and stage has to stay") for name in beside)]
        for one in kept:
            wanted.pop(one.gate, None)
    names = {module: name for name, module in copied.named_modules()}
    with torch.no_grad():
        for scaling in (scaling for plan in plans.values() for scaling in plan):
            _apply(scaling)
    for name in wanted:
        del copied.gates[name.removeprefix("gates.")]
    folded = tuple(FoldedGate(name, tuple(dict.fromkeys(names[one.layer] for one in plan))) for name, plan in plans.items())
    return Folding(copied, folded, tuple(kept))


def _apply(scaling: Scaling) -> None:
    layer = scaling.layer
    weight, bias = cast("Tensor", layer.weight), cast("Tensor | None", layer.bias)
    factor = scaling.factor.to(weight)
    if isinstance(layer, BATCH_NORMS) and scaling.side == "in":
        # w (f x - m) / s + b = (w f) (x - m / f) / s + b
        weight.mul_(factor)
        cast("Tensor", layer.running_mean).div_(factor)
        return
    # Convolutions have their output channels first, transposed ones their input channels.
    axis = int(isinstance(layer, TRANSPOSED) == (scaling.side == "out"))
    weight.mul_(factor.reshape([-1 if axis == other else 1 for other in range(weight.ndim)]) if weight.ndim > 1 else factor)
    if scaling.side == "out" and bias is not None:
        bias.mul_(factor)
