"""Volumes segmented with other factors in some gates: many variants at once, what comes before a changed gate only once."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from se_med.data.grids import SLAB_VOXELS, find_grids, slabs
from se_med.data.padding import channel_minimum
from se_med.data.preparation import Array, Prepared
from se_med.data.restoration import Restoration
from se_med.explain.gates import GateSite, calling, find_gates, replacing, watching
from se_med.inference.components import correct
from se_med.inference.fitting import Extras, fit
from se_med.inference.member import Member
from se_med.inference.memory import GIB
from se_med.inference.predictor import SINGLE_PASS, Predictor
from se_med.inference.tiling import Tiling
from se_med.inference.windows import Pass, WindowStream

Labels = NDArray[np.integer[Any]]
STAGES = ("encoder", "bottleneck", "decoder")
"""Sites whose gate, where it follows the units, gives what leaves the stage."""


@dataclass(frozen=True, eq=False)
class Variant:
    """A network with other factors in some of its gates; with none at all, the network as it is.

    Attributes:
        factors: by name of the gate, the factor that takes the place of its own; broadcasts to the gate's input `(B, C, *S)`.
        shuffled: names of gates that take the factor which they have for another case, at the same place of the volume.
    """

    factors: Mapping[str, Tensor] = field(default_factory=dict)
    shuffled: tuple[str, ...] = ()

    @property
    def gates(self) -> tuple[str, ...]:
        """Names of all gates that are changed."""
        return (*self.factors, *self.shuffled)


def single_pass(predictor: Predictor) -> Predictor:
    """Return a predictor of the same network without test-time flips, shifts and rotations.

    Raises:
        ValueError: an ensemble.
    """
    if len(predictor.members) > 1:
        raise ValueError("gates are those of one network; give one run")
    inference = predictor.config.inference.model_copy(update=SINGLE_PASS)
    config = predictor.config.model_copy(update={"inference": inference})
    return Predictor(predictor.network, config, predictor.plan, predictor.digest)


def predict_variants(
    predictor: Predictor, prepared: Prepared, variants: Sequence[Variant], donor: Array | None = None
) -> list[Labels]:
    """Segment a volume once per variant.

    Windows are those of the predictor, each taken through all variants before the next one. Memory is that of a prediction, the
    outputs of all stages for one batch of windows, and per variant the outputs for the planes that windows are at work on and
    one byte per voxel; variants are taken in several rounds where they need more than a quarter of `inference.max_memory`.

    Args:
        predictor: of one network and a single pass, see `single_pass`.
        prepared: the volume.
        variants: what is segmented.
        donor: (C, X, Y, Z), prepared array of the case whose factors shuffled gates take; cropped or padded to the volume.

    Returns:
        (X, Y, Z) label values on the volume's own grid, one for each variant.

    Raises:
        ValueError: shuffled gates without a donor.
        RunError: the network's output is not finite.
    """
    if donor is None and any(variant.shuffled for variant in variants):
        raise ValueError("shuffled gates need the array of another case")
    config, plan, member = predictor.config, predictor.plan, predictor.members[0]
    grids = find_grids(prepared.native, plan.spacing)
    way = fit([[member]], [grids], config.inference, Extras(read=False), config.inference.max_memory * GIB)
    tiling = way.tilings[0]
    array = prepared.array if donor is None else np.concatenate([prepared.array, fitted(donor, prepared.array.shape[1:])])
    values = plan.structures.values
    labels: list[Labels] = []
    for chosen in _rounds(variants, tiling, plan.num_classes, config.inference.max_memory * GIB / 4):
        forward = _Variants(member, chosen)
        outputs = len(chosen) * plan.num_classes
        stream = WindowStream(
            [array],
            [Pass(forward, precision=member.precision)],
            tiling,
            plan.slice_axis,
            way.batch,
            outputs,
            predictor.preparation.target,
        )
        with torch.inference_mode():
            classes = _decide(stream, Restoration(grids, tiling.axis), predictor, len(chosen))
        for index in range(len(chosen)):
            native = predictor.preparation.label_values(classes[index], grids)
            inference = config.inference
            correct(
                native, [values[name] for name in inference.largest_component], [values[name] for name in inference.fill_holes]
            )
            labels.append(native)
    return labels


def fitted(array: Array, shape: Sequence[int]) -> Array:
    """Return (C, X, Y, Z) cropped or padded about its centre to a shape, with the minimum of each channel."""
    result = np.empty((len(array), *shape), np.float32)
    result[:] = channel_minimum(array).reshape(-1, 1, 1, 1)
    inner, outer = [slice(None)], [slice(None)]
    for have, want in zip(array.shape[1:], shape, strict=True):
        kept = min(have, want)
        inner.append(slice((have - kept) // 2, (have - kept) // 2 + kept))
        outer.append(slice((want - kept) // 2, (want - kept) // 2 + kept))
    result[tuple(outer)] = array[tuple(inner)]
    return result


def _rounds(variants: Sequence[Variant], tiling: Tiling, outputs: int, limit: float) -> Iterator[Sequence[Variant]]:
    across = math.prod(length for axis, length in enumerate(tiling.extent) if axis != tiling.axis)
    each = outputs * across * tiling.capacity * 4 + math.prod(tiling.shape)
    together = max(1, int(limit / each))
    return (variants[first : first + together] for first in range(0, len(variants), together))


def _decide(stream: WindowStream, restoration: Restoration, predictor: Predictor, variants: int) -> NDArray[np.uint8]:
    """Take a volume through all its windows; return the classes `(variants, X, Y, Z)` in RAS order."""
    grids, axis, count = restoration.grids, restoration.axis, predictor.plan.num_classes
    target, planes = predictor.preparation.target, stream.planes
    classes = np.empty((variants, *grids.oriented), np.uint8)
    done = 0
    while done < restoration.planes:
        while (ready := restoration.ready(planes.finished)) <= done:
            stream.advance()
        for slab in slabs(grids.oriented, axis, done, ready, max(1, SLAB_VOXELS // variants)):
            where = (slice(None),) * axis + (slab,)
            logits = stream.read(restoration.needed(slab))
            for index in range(variants):
                own = logits[index * count : (index + 1) * count]
                classes[index][where] = target.choose(restoration.read(output, slab) for output in own).numpy()
        planes.release(restoration.first_needed(ready))
        done = ready
    return classes


class _Variants:
    """Takes windows `(B, C, *S)`, or `(B, 2C, *S)` with those of the donor, to logits `(B, variants * outputs, *S)`.

    The network as it is runs first, and what leaves each stage is kept. A variant runs from the first of its gates on; where that
    gate is the end of a stage, what leaves the stage is made of the gate's recorded input, and no convolution of it runs again.
    """

    def __init__(self, member: Member, variants: Sequence[Variant]) -> None:
        self.member, self.variants = member, variants
        self.network = member.network.eval()
        self.channels = len(member.plan.channels)
        self.steps = _steps(self.network)
        self.gates = {gate.name: gate for gate in find_gates(self.network)}
        self.changed = {name for variant in variants for name in variant.gates}

    def __call__(self, batch: Tensor) -> Tensor:
        own, other = batch[:, : self.channels], batch[:, self.channels :]
        donated: dict[str, Tensor] = {}
        if any(variant.shuffled for variant in self.variants):
            with watching(self.network, lambda gate, factor: donated.update({gate.name: factor})):
                self.member.forward(other)
        outputs: dict[int, Tensor] = {}
        inputs: dict[str, tuple[Tensor, ...]] = {}
        with self._recording(outputs, inputs):
            plain = self.member.forward(own)
        results = []
        for variant in self.variants:
            factors = {**variant.factors, **{name: donated[name] for name in variant.shuffled}}
            results.append(self._with(factors, own, outputs, inputs) if factors else plain)
        return torch.cat(results, 1)

    def _with(
        self, factors: dict[str, Tensor], own: Tensor, outputs: Mapping[int, Tensor], inputs: Mapping[str, tuple[Tensor, ...]]
    ) -> Tensor:
        gates = [self.gates[name] for name in factors]
        start = min(self._first(gate) for gate in gates)
        kept = {index: output for index, output in outputs.items() if index < start}
        earliest = [gate for gate in gates if self._first(gate) == start]
        if len(earliest) == 1 and self._ends_stage(earliest[0]):
            (gate,) = earliest
            kept[start] = gate.apply(factors[gate.name].to(self.member.device), *inputs[gate.name])
        with ExitStack() as stack:
            for index, output in kept.items():
                stack.enter_context(_giving(self.steps[index], output))
            stack.enter_context(replacing(self.network, factors))
            return self.member.forward(own)

    @contextmanager
    def _recording(self, outputs: dict[int, Tensor], inputs: dict[str, tuple[Tensor, ...]]) -> Iterator[None]:
        def keep(gate: GateSite, given: tuple[Tensor, ...]) -> None:
            if gate.name in self.changed and self._ends_stage(gate):
                inputs[gate.name] = given

        with ExitStack() as stack:
            for index, step in enumerate(self.steps):
                handle = step.register_forward_hook(partial(_keep_output, outputs, index))
                stack.callback(handle.remove)
            stack.enter_context(calling(self.network, keep))
            yield

    def _first(self, gate: GateSite) -> int:
        """Return the first of the steps that the gate has an influence on; 0 where its place is not known."""
        if gate.stage is None:
            return 0
        last = len(self.steps) // 3
        if gate.site in ("encoder", "bottleneck"):
            return gate.stage
        return len(self.steps) if gate.site == "head" else last + 2 + 2 * (last - 1 - gate.stage)

    def _ends_stage(self, gate: GateSite) -> bool:
        return gate.site in STAGES and gate.stage is not None and gate.unit is None and gate.weighed == "input"


def _steps(network: nn.Module) -> list[nn.Module]:
    """Return the parts of a U-Net of ours in the order in which they are called: stages, and the convolutions that upsample."""
    encoder, upsample, decoder = (list(getattr(network, name)) for name in ("encoder", "upsample", "decoder"))
    return [*encoder, *(step for pair in zip(reversed(upsample), reversed(decoder), strict=True) for step in pair)]


def _keep_output(outputs: dict[int, Tensor], index: int, module: nn.Module, inputs: object, output: Tensor) -> None:
    outputs[index] = output


@contextmanager
def _giving(module: nn.Module, output: Tensor) -> Iterator[None]:
    """Let a module give a known output without computing anything."""
    own = vars(module)
    own["forward"] = lambda *args, **kwargs: output
    try:
        yield
    finally:
        del own["forward"]
