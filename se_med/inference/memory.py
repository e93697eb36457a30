"""What segmenting a volume takes in memory, told before it is taken."""

from __future__ import annotations

import math
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

from se_med.data.grids import SLAB_VOXELS, Grids
from se_med.inference.planes import HELD
from se_med.inference.tiling import Shape, Tiling

GIB = 2**30
FLOAT = 4  # bytes
WITHIN_OPERATIONS = 1.25
"""Memory that a forward pass takes, relative to its maps alone: libraries rearrange maps inside of operations."""
POSITIONS = 12
"""Numbers per voxel of a window that is turned without compiled kernels, beside its outputs."""
SURELY_PER_VOXEL = 4096.0
"""Bytes of maps per voxel that no sensible network exceeds; where even this fits, nothing has to be found out."""


@dataclass(frozen=True)
class Work:
    """What decides how much memory the windows of one group of networks take.

    Attributes:
        grids: of the volume.
        channels: of the image.
        arrays: prepared arrays: networks with other normalisations have their own.
        tiling: the windows.
        batch: windows that pass together.
        outputs: of the network, and further maps.
        passes: over each window.
        views: of each window, that may pass together.
        per_voxel: bytes of maps per voxel of a window.
        reach: voxels around a window, per axis, that are read to turn it; None where nothing is turned.
    """

    grids: Grids
    channels: int
    arrays: int
    tiling: Tiling
    batch: int
    outputs: int
    passes: int
    views: int
    per_voxel: float
    reach: Shape | None = None

    @property
    def prepared_bytes(self) -> int:
        """The prepared arrays."""
        return FLOAT * self.channels * self.arrays * math.prod(self.grids.shape)

    @property
    def window_bytes(self) -> float:
        """What a batch of windows takes while it passes."""
        window = math.prod(self.tiling.window)
        batch = min(self.batch, self.tiling.count * self.views)
        # Logits, where there are several passes the probabilities of one and of all, and the windows' image.
        copies = 1 if self.passes == 1 else 3
        waiting = min(HELD, self.tiling.count) if self.tiling.count > 1 else 0
        kept = FLOAT * window * (self.outputs * waiting + self.views * self.weighted)
        passing = WITHIN_OPERATIONS * self.per_voxel + FLOAT * (copies * self.outputs + self.channels)
        return kept + self.turning_bytes + batch * window * passing

    @property
    def turning_bytes(self) -> int:
        """What turning a window and its outputs takes: what is around it, splines of that, the outputs twice, and positions."""
        if self.reach is None:
            return 0
        context = math.prod(length + 2 * beyond for length, beyond in zip(self.tiling.window, self.reach, strict=True))
        return FLOAT * (2 * self.channels * context + (2 * self.outputs + POSITIONS) * math.prod(self.tiling.window))

    @property
    def weighted(self) -> bool:
        """Whether voxels of windows have weights."""
        return self.reach is not None or not self.tiling.disjoint

    @property
    def sum_bytes(self) -> int:
        """The sums of outputs; of a single window they are its outputs, which are counted there."""
        tiling = self.tiling
        if tiling.count == 1 and self.passes == 1:
            return 0
        planes = math.prod(tiling.extent) // tiling.extent[tiling.axis] * tiling.capacity
        return FLOAT * planes * (self.outputs + self.weighted)


def needed_bytes(works: Sequence[Work], *, read: bool, outputs: int, maps: int, corrected: bool) -> int:
    """Return the largest number of bytes that segmenting a volume takes, beyond the networks.

    Args:
        works: one per group of networks.
        read: whether the volume itself is in memory, beside the prepared arrays.
        outputs: probability maps that are kept, one byte per voxel each.
        maps: further maps that are kept, two bytes per voxel each.
        corrected: whether components or holes of structures are searched for at the end.
    """
    first = works[0]
    voxels = math.prod(first.grids.oriented)
    native = FLOAT * first.channels * voxels if read else 0
    prepared = sum(work.prepared_bytes for work in works) if read else 0
    oriented = FLOAT * first.channels * voxels if read and any(work.grids.resampled for work in works) else 0
    kept = voxels * (1 + outputs + 2 * maps)  # classes, and what is asked for
    slab = FLOAT * min(SLAB_VOXELS, voxels) * (6 + first.outputs * (3 if outputs or maps or len(works) > 1 else 1))
    windows = sum(work.sum_bytes for work in works) + max(work.window_bytes for work in works)
    labels = voxels * (2 + (6 if corrected else 0))  # label values in both orders; components are numbered with 4 bytes
    return int(native + max(prepared + oriented, prepared + kept + slab + windows, kept + labels))


class MemoryGate:
    """Lets threads share one limit: each waits until what it needs is left."""

    def __init__(self, limit: float) -> None:
        self.limit = limit
        self._taken = 0
        self._freed = threading.Condition()

    @contextmanager
    def taking(self, amount: int) -> Iterator[None]:
        """Hold an amount, which by itself may be more than the limit: then nobody else is let in."""
        with self._freed:
            self._freed.wait_for(lambda: self._taken == 0 or self._taken + amount <= self.limit)
            self._taken += amount
        try:
            yield
        finally:
            with self._freed:
                self._taken -= amount
                self._freed.notify_all()
