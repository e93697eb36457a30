"""A prepared volume through the windows of a given tiling, and what its windows say of each voxel on their own."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from se_med.data.grids import find_grids
from se_med.data.preparation import Prepared
from se_med.data.restoration import Restoration
from se_med.data.targets import Target
from se_med.explain.gates import GateSite, watching
from se_med.explain.windows import Place
from se_med.inference.engine import Branch, run
from se_med.inference.predictor import Predictor
from se_med.inference.tiling import Tiling
from se_med.inference.windows import Pass, WindowStream


@dataclass(frozen=True, eq=False)
class Seen:
    """What the windows of a volume say, on the prepared grid (X, Y, Z) but for `classes`.

    Attributes:
        covered: number of windows over each voxel.
        foreground: whether any window gives the voxel to a structure.
        disagree: whether windows give it to different classes.
        spread: standard deviation over windows of the probability that it belongs to a structure.
        classes: classes of the mean of all windows, on the volume's own grid in RAS order.
        factors: by name of the gate, the mean factor of each window and channel, (windows, C) or (windows, 1).
    """

    covered: NDArray[np.uint16]
    foreground: NDArray[np.bool_]
    disagree: NDArray[np.bool_]
    spread: NDArray[np.float32]
    classes: NDArray[np.uint8]
    factors: dict[str, NDArray[np.float64]]


def pass_through(predictor: Predictor, prepared: Prepared, tiling: Tiling) -> Seen:
    """Take a volume through its windows, one after the other.

    Args:
        predictor: of one network and a single pass.
        prepared: the volume.
        tiling: its windows, without margins.

    Raises:
        RunError: the network's output is not finite.
    """
    plan, member, target = predictor.plan, predictor.members[0], predictor.preparation.target
    votes = _Votes(tiling, target, exclusive=not plan.regions)
    places = _places(tiling)
    factors: dict[str, list[NDArray[np.float64]]] = {}

    def receive(gate: GateSite, factor: Tensor) -> None:
        mean = factor.flatten(2).float().mean(2)[0]
        factors.setdefault(gate.name, []).append(mean.cpu().numpy().astype(np.float64))

    def forward(batch: Tensor) -> Tensor:
        logits = member.forward(batch)
        whole = logits if plan.slice_axis is None else logits.unsqueeze(2 + plan.slice_axis)
        votes.add(whole[0].float(), next(places))
        return logits

    grids = find_grids(prepared.native, plan.spacing)
    one = Pass(forward, precision=member.precision)
    stream = WindowStream([prepared.array], [one], tiling, plan.slice_axis, 1, plan.num_classes, target)
    network = predictor.network.eval()
    with torch.inference_mode(), watching(network, receive):
        maps = run([Branch(stream, Restoration(grids, tiling.axis))], target, plan.num_classes)
    stacked = {name: np.stack(found) for name, found in factors.items()}
    return Seen(votes.covered, votes.foreground, votes.disagree, votes.spread, maps.classes, stacked)


class _Votes:
    """What windows say of each voxel: running sums, nothing per window is kept."""

    def __init__(self, tiling: Tiling, target: Target, exclusive: bool) -> None:
        self.target, self.exclusive = target, exclusive
        self.covered = np.zeros(tiling.shape, np.uint16)
        self.foreground, self.disagree = np.zeros(tiling.shape, np.bool_), np.zeros(tiling.shape, np.bool_)
        self._first = np.zeros(tiling.shape, np.uint8)
        self._mean, self._squares = np.zeros(tiling.shape, np.float32), np.zeros(tiling.shape, np.float32)

    def add(self, logits: Tensor, place: Place) -> None:
        """Take in one window: logits (outputs, X, Y, Z)."""
        inside = place.inside
        where = tuple(
            slice(max(0, start), min(length, start + size))
            for start, size, length in zip(place.start, place.size, place.shape, strict=True)
        )
        logits = logits[:, *inside]
        classes = self.target.choose(iter(logits)).numpy()
        each = self.target.probabilities(logits)
        probability = (1 - each[0] if self.exclusive else each.amax(0)).numpy()
        new = self.covered[where] == 0
        self._first[where] = np.where(new, classes, self._first[where])
        self.disagree[where] |= classes != self._first[where]
        self.foreground[where] |= classes > 0
        self.covered[where] += 1
        # Welford 1962: sums of squares of nearly equal probabilities would lose what is asked for.
        apart = probability - self._mean[where]
        self._mean[where] += apart / self.covered[where]
        self._squares[where] += apart * (probability - self._mean[where])

    @property
    def spread(self) -> NDArray[np.float32]:
        """Standard deviation over windows; 0 where no window is."""
        deviation: NDArray[np.float32] = np.sqrt(self._squares / np.maximum(self.covered, 1))
        return deviation


def _places(tiling: Tiling) -> Iterator[Place]:
    for windows, _ in tiling.groups():
        for start in windows:
            x, y, z = (first - low for first, low in zip(start, tiling.before, strict=True))
            yield Place((x, y, z), tiling.window, tiling.shape)
