"""What the gates of a network do on one case after another: running moments and means, nothing of the size of a map is kept."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from se_med.attention.squeezing import SqueezingGate
from se_med.data.plan import Plan
from se_med.evaluation.metrics import score_case
from se_med.explain.gates import GateSite, calling, find_gates, find_parts
from se_med.explain.windows import Place, branch_of, evaluating, label_windows, pad_crop
from se_med.inference.engine import run
from se_med.inference.predictor import Predictor
from se_med.inference.segmentation import volumes_ml
from se_med.io.images import read_image, read_images, read_label
from se_med.io.volume import Volume

CLOSED, OPEN = 0.05, 0.95
"""Shares of a gate's range below and above which it counts as saturated."""
POOLS: dict[int, Callable[..., Tensor]] = {2: F.adaptive_avg_pool2d, 3: F.adaptive_avg_pool3d}

Numbers = NDArray[np.float64]


@dataclass
class Moments:
    """Running moments of a factor over the positions (voxels and windows) of one case, per channel (C,)."""

    count: float
    mean: Numbers
    squares: Numbers
    low: Numbers
    high: Numbers
    below: Numbers
    above: Numbers

    @classmethod
    def of(cls, values: Tensor, bounds: tuple[float, float]) -> Moments:
        """Return the moments of values (C, N); the limits of saturation follow from the bounds, which may be infinite."""
        flat = values.float()
        variance, mean = torch.var_mean(flat, 1, correction=0)
        low, high = flat.aminmax(dim=1)
        below = above = torch.full_like(mean, torch.nan)
        span = bounds[1] - bounds[0]
        if np.isfinite(span) and span > 0:
            below = (flat < bounds[0] + CLOSED * span).sum(1).float()
            above = (flat > bounds[0] + OPEN * span).sum(1).float()
        count = float(flat.shape[1])
        parts = [_numbers(part) for part in (mean, variance, low, high, below, above)]
        return cls(count, parts[0], parts[1] * count, *parts[2:])

    def add(self, other: Moments) -> None:
        """Take in the moments of further positions (Chan, Golub, LeVeque 1983)."""
        total, apart = self.count + other.count, other.mean - self.mean
        self.squares = self.squares + other.squares + apart**2 * (self.count * other.count / total)
        self.mean = self.mean + apart * (other.count / total)
        self.low, self.high = np.minimum(self.low, other.low), np.maximum(self.high, other.high)
        self.below, self.above = self.below + other.below, self.above + other.above
        self.count = total

    @property
    def variance(self) -> Numbers:
        """Variance over positions, (C,)."""
        return self.squares / self.count


@dataclass
class ClassMeans:
    """Weighted means of a factor per class, (classes, C); classes without weight are NaN."""

    sums: Numbers
    weights: Numbers

    @classmethod
    def empty(cls, classes: int, channels: int) -> ClassMeans:
        """Return means of nothing."""
        return cls(np.zeros((classes, channels)), np.zeros(classes))

    def add(self, index: int, values: Numbers, weight: float) -> None:
        """Take in the mean (C,) of something with a weight."""
        self.sums[index] += weight * values
        self.weights[index] += weight

    @property
    def means(self) -> Numbers:
        """The means, (classes, C)."""
        with np.errstate(invalid="ignore", divide="ignore"):
            return np.where(self.weights[:, None] > 0, self.sums / self.weights[:, None], np.nan)


@dataclass
class GateCase:
    """What one gate did on one case.

    Attributes:
        moments: of its factor over all positions.
        regions: mean factor in the region of each class.
        windows: mean factor in the windows in which each class is present; of the background, in those without a structure.
    """

    moments: Moments
    regions: ClassMeans
    windows: ClassMeans


@dataclass
class CaseGates:
    """What all gates did on one case.

    Attributes:
        name: of the case.
        gates: by name.
        volumes: of each structure, ml; of 2D images thousands of pixels.
        dice: of each structure against the reference; None without one, NaN where the structure is in neither.
        windows: number of windows.
    """

    name: str
    gates: dict[str, GateCase] = field(default_factory=dict)
    volumes: dict[str, float] = field(default_factory=dict)
    dice: dict[str, float] | None = None
    windows: int = 0


def collect_case(predictor: Predictor, name: str, files: Sequence[Path], label: Path | None = None) -> CaseGates:
    """Take a case through the network and record its gates.

    Args:
        predictor: the network, of which the first member is asked.
        name: of the case.
        files: the image, one file per channel or one with all.
        label: the reference segmentation; without one, classes are where the network predicts them.

    Raises:
        ImageError: a file cannot be used.
        RunError: the network's output is not finite.
    """
    native = read_image(files[0]) if len(files) == 1 else read_images(list(files))
    prepared = predictor.preparation.forward(native)
    reference = None if label is None else read_label(label)
    truth = _predicted(predictor, native) if reference is None else reference
    classes = predictor.preparation.forward_label(truth, prepared)
    record = CaseGates(name, volumes=volumes_ml(truth.array, native.affine, predictor.plan.structures.values))
    watch = _Watch(predictor.plan, classes, record)
    member = predictor.members[0]

    def visit(batch: Tensor, places: Sequence[Place]) -> Tensor:
        watch.begin(places)
        return member.forward(batch)

    outputs = predictor.plan.num_classes
    branch = branch_of(predictor, prepared.array, prepared.native, visit, outputs, files[0])
    with evaluating(member.network), calling(member.network, watch.see):
        maps = run([branch], predictor.preparation.target, outputs)
    if reference is not None:
        labels = predictor.preparation.label_values(maps.classes, branch.restoration.grids)
        record.dice = _dice(name, labels, reference, predictor.plan)
    return record


def region_kind(gate: GateSite) -> str:
    """Return how the value of a class is taken from its region.

    `squeezed`: the gate as it would be if its squeeze saw this region alone; `mean`: the mean of its factor over the region;
    empty where all voxels get one factor from a squeeze that cannot be narrowed down.
    """
    if isinstance(gate.module, SqueezingGate):
        return "squeezed"
    return "" if gate.uniform else "mean"


class _Watch:
    """Receives every gate's inputs and adds what its factor is to the record of the case."""

    def __init__(self, plan: Plan, classes: NDArray[np.uint8], record: CaseGates) -> None:
        self.slice_axis, self.labels, self.record = plan.slice_axis, classes, record
        membership = plan.structures.membership
        # Which class indices make up the background and each structure.
        self.members = [[0], *([int(one) for one in np.flatnonzero(column)] for column in membership.T)]
        self.places: Sequence[Place] = ()
        self.masks: list[Tensor] = []

    def begin(self, places: Sequence[Place]) -> None:
        """Take note of the windows that come next."""
        self.places = places
        self.record.windows += len(places)
        labels = label_windows(self.labels, places, self.slice_axis)
        self.masks = [torch.stack([labels == index for index in members]).any(0)[:, None] for members in self.members]

    def see(self, gate: GateSite, inputs: tuple[Tensor, ...]) -> None:
        """Record one call of a gate, and of its parts."""
        for one in (gate, *find_parts(gate)):
            if one.weighed != "nothing":
                self._record(one, inputs)

    def _record(self, gate: GateSite, inputs: tuple[Tensor, ...]) -> None:
        x = inputs[0]
        factor = gate.factor(*inputs)
        factor = factor.expand(x.shape[0], *factor.shape[1:]) if factor.shape[0] == 1 else factor
        sizes, uniform = tuple(x.shape[2:]), all(size == 1 for size in factor.shape[2:])
        crops = pad_crop(self.places, self.slice_axis, sizes)
        known = self.record.gates.get(gate.name)
        for one, crop in zip(factor, crops, strict=True):
            moments = Moments.of(one.flatten(1) if uniform else one[:, *crop].flatten(1), gate.bounds)
            if known is None:
                shape = (len(self.members), one.shape[0])
                known = GateCase(moments, ClassMeans.empty(*shape), ClassMeans.empty(*shape))
                self.record.gates[gate.name] = known
            else:
                known.moments.add(moments)
        if known is not None:
            self._windows(known, factor, crops, uniform)
            self._regions(known, gate, inputs, factor, uniform)

    def _windows(self, known: GateCase, factor: Tensor, crops: Sequence[tuple[slice, ...]], uniform: bool) -> None:
        present = torch.stack([mask.flatten(1).any(1) for mask in self.masks], 1)
        present[:, 0] = ~present[:, 1:].any(1)
        for one, crop, here in zip(factor, crops, present.tolist(), strict=True):
            mean = _numbers((one if uniform else one[:, *crop]).flatten(1).float().mean(1))
            for index in (index for index, there in enumerate(here) if there):
                known.windows.add(index, mean, 1.0)

    def _regions(self, known: GateCase, gate: GateSite, inputs: tuple[Tensor, ...], factor: Tensor, uniform: bool) -> None:
        kind = region_kind(gate)
        if not kind or (kind == "mean" and uniform):
            return
        x = inputs[0]
        for index, mask in enumerate(self.masks):
            shares = POOLS[x.ndim - 2](mask.float(), tuple(x.shape[2:])).to(x.device)
            weights = shares.flatten(1).sum(1)
            if not bool(weights.any()):
                continue
            seen = factor
            if isinstance(gate.module, SqueezingGate):
                # Of a small structure on a coarse grid, the voxels that it fills most.
                region = shares >= 0.5 * shares.flatten(1).amax(1).clamp(min=1e-6).reshape(-1, *(1,) * (x.ndim - 1))
                source = inputs[1] if len(inputs) > 1 else None
                seen = gate.module.gate(x, source, region)
                seen = seen.expand(x.shape[0], *seen.shape[1:]) if seen.shape[0] == 1 else seen
            flat = seen.flatten(2).float()
            for one, share, weight in zip(flat, shares.flatten(1), weights.tolist(), strict=True):
                if weight > 0:
                    mean = one[:, 0] if one.shape[1] == 1 else (one * share).sum(1) / weight
                    known.regions.add(index, _numbers(mean), weight)


def find_watched(predictor: Predictor) -> tuple[GateSite, ...]:
    """Return the gates of the network that is watched, each followed by its parts."""
    gates = find_gates(predictor.members[0].network)
    return tuple(one for gate in gates for one in (gate, *find_parts(gate)))


def _predicted(predictor: Predictor, native: Volume) -> Volume:
    labels = predictor.predict(native).labels
    return Volume(labels, native.affine, native.header, native.path, native.digest)


def _dice(name: str, labels: NDArray[np.integer], reference: Volume, plan: Plan) -> dict[str, float]:
    scores = score_case(
        name,
        labels,
        reference.array,
        reference.spacing,
        plan.structures.values,
        tolerance=1.0,
        surfaces=False,
        ignore_label=plan.ignore_label,
        background_values=plan.background_values,
    )
    return {score.structure: np.nan if score.dice is None else score.dice for score in scores}


def _numbers(values: Tensor) -> Numbers:
    found: Numbers = values.detach().cpu().numpy().astype(np.float64)
    return found
