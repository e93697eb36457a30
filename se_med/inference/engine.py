"""Outputs of networks, plane after plane, to classes and maps of a whole volume.

Planes of the volume are decided on as soon as all windows that reach them are through, and forgotten. Networks of several
groups (other spacings or patches) keep step with one another, and are averaged on the volume's own grid.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from se_med.data.grids import SLAB_VOXELS, slabs
from se_med.data.restoration import Restoration
from se_med.data.targets import Target
from se_med.inference.windows import WindowStream


@dataclass(frozen=True)
class Branch:
    """One group of networks on their way through a volume.

    Attributes:
        stream: their windows.
        restoration: from their prepared grid to the volume's own.
        share: of the mean over all networks.
    """

    stream: WindowStream
    restoration: Restoration
    share: float = 1.0

    def advance(self, done: int) -> int:
        """Take windows through until a plane after the first `done` can be read; return how many planes can be."""
        while (ready := self.restoration.ready(self.stream.planes.finished)) <= done:
            self.stream.advance()
        return ready

    def read(self, planes: slice) -> Iterator[Tensor]:
        """Yield planes of the volume, in RAS order, of one output after the other."""
        for values in self.stream.read(self.restoration.needed(planes)):
            yield self.restoration.read(values, planes)

    @property
    def direct(self) -> bool:
        """Whether the highest sum of a prepared voxel is the class of a voxel of the volume: nothing is done in between."""
        return not self.restoration.grids.resampled and len(self.stream.passes) == 1 and self.stream.target.exclusive

    def voxels(self, most: int) -> int:
        """Return how many voxels of the volume may be read at once, if neither these nor the prepared ones are to be more."""
        grids = self.restoration.grids
        return int(most * min(1.0, math.prod(grids.oriented) / math.prod(grids.shape)))

    def release(self, done: int) -> None:
        """Forget what only the first `done` planes needed."""
        self.stream.planes.release(self.restoration.first_needed(done))


@dataclass(frozen=True, eq=False)
class Maps:
    """What is known of a volume's voxels, all in RAS order.

    Attributes:
        classes: (X, Y, Z) uint8, as `Target.choose` gives them.
        probabilities: (outputs, X, Y, Z) uint8, in 255ths; None where not asked for.
        entropy: (X, Y, Z) float16, of the mean probabilities, as a share of the largest there is; likewise.
        disagreement: (X, Y, Z) float16, what of the entropy is there because passes disagree: the rest is the mean of their own
            entropies. None where not asked for, or with a single pass.
    """

    classes: NDArray[np.uint8]
    probabilities: NDArray[np.uint8] | None = None
    entropy: NDArray[np.float16] | None = None
    disagreement: NDArray[np.float16] | None = None


def run(
    branches: Sequence[Branch],
    target: Target,
    outputs: int,
    *,
    probabilities: bool = False,
    entropy: Callable[[Tensor], Tensor] | None = None,
) -> Maps:
    """Take a volume through all its windows.

    Args:
        branches: at least one; their slabs lie along the same axis.
        target: what the outputs stand for.
        outputs: of the networks.
        probabilities: keep probabilities.
        entropy: from probabilities (outputs, *S) to (*S); if given, maps of uncertainty are kept. The streams have it too.

    Raises:
        RunError: an output is not finite.
    """
    grids, axis = branches[0].restoration.grids, branches[0].restoration.axis
    several = len(branches) > 1 or len(branches[0].stream.passes) > 1
    maps = Maps(
        np.empty(grids.oriented, np.uint8),
        np.empty((outputs, *grids.oriented), np.uint8) if probabilities else None,
        np.empty(grids.oriented, np.float16) if entropy else None,
        np.empty(grids.oriented, np.float16) if entropy and several else None,
    )
    alone = len(branches) == 1 and not probabilities and entropy is None
    most = min(branch.voxels(SLAB_VOXELS // (1 if alone else 8)) for branch in branches)
    done, planes = 0, grids.oriented[axis]
    while done < planes:
        ready = min(branch.advance(done) for branch in branches)
        if alone and branches[0].direct:
            classes = torch.from_numpy(maps.classes).narrow(axis, done, ready - done)
            branches[0].stream.planes.choose(slice(done, ready), classes)
        else:
            for slab in slabs(grids.oriented, axis, done, ready, most):
                where = (slice(None),) * axis + (slab,)
                if alone:
                    maps.classes[where] = target.choose(branches[0].read(slab)).numpy()
                else:
                    _average(branches, target, outputs, slab, where, maps, entropy)
        for branch in branches:
            branch.release(ready)
        done = ready
    return maps


def logits_of(stream: WindowStream, outputs: int) -> Tensor:
    """Take a volume through all its windows and return all logits (outputs, X, Y, Z) on the prepared grid."""
    tiling, planes = stream.tiling, stream.planes
    logits = torch.empty(outputs, *tiling.shape)
    done = 0
    while done < tiling.shape[tiling.axis]:
        stream.advance()
        ready = planes.finished
        if ready > done:
            logits.narrow(1 + tiling.axis, done, ready - done).copy_(stream.read(slice(done, ready)))
            planes.release(ready)
            done = ready
    return logits


def _average(
    branches: Sequence[Branch],
    target: Target,
    outputs: int,
    planes: slice,
    where: tuple[slice, ...],
    maps: Maps,
    entropy: Callable[[Tensor], Tensor] | None,
) -> None:
    """Fill some planes of the maps from the mean probabilities of all branches."""
    mean: Tensor | None = None
    own: Tensor | None = None  # mean of the passes' own entropies
    for branch in branches:
        values = branch.read(planes)
        logits = torch.stack(list(islice(values, outputs)))
        if len(branches) == 1:  # exactly as without maps
            maps.classes[where] = target.choose(iter(logits)).numpy()
        probability = target.probabilities(logits).mul_(branch.share)
        if maps.disagreement is not None and entropy is not None:
            single = branch.stream.entropy is None
            part = entropy(probability / branch.share) if single else next(values).clamp(0, 1)
            own = part * branch.share if own is None else own.add_(part, alpha=branch.share)
        mean = probability if mean is None else mean.add_(probability)
    if mean is None:
        return
    if maps.probabilities is not None:
        maps.probabilities[(slice(None), *where)] = mean.mul(255).round_().to(torch.uint8).numpy()
    if maps.entropy is not None and entropy is not None:
        whole = entropy(mean)
        maps.entropy[where] = whole.numpy()
        if maps.disagreement is not None and own is not None:
            maps.disagreement[where] = (whole - own).clamp_(min=0).numpy()
    if len(branches) > 1:
        maps.classes[where] = target.choose(iter(target.to_logits_(mean))).numpy()
