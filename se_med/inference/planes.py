"""Sums of weighted network outputs over a few planes of a volume that move along it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import torch
from torch import Tensor

from se_med.errors import RunError
from se_med.fused.sums import Part, add_windows, highest_mean, mean_outputs
from se_med.inference.tiling import Tiling

HELD = 4
"""Windows behind one another that are held back, to be added together: sums are moved through memory fewer times."""


class Planes:
    """The network's outputs for as many planes as windows are at work on: one value per output and voxel.

    Planes count from the first one of the sums' grid (see `Tiling`) in `add` and `finish`; from the volume's first one in `read`,
    `choose`, `release` and `finished`. A plane that is forgotten makes room for the one that follows the last, so that nothing
    is ever moved.

    Args:
        outputs: outputs of the network, and further maps.
        tiling: the windows.
        precision: the arithmetic of the network, for messages.
        weighted: outputs are divided by the sum of weights when planes are read, as where windows overlap.
    """

    def __init__(self, outputs: int, tiling: Tiling, precision: str, *, weighted: bool) -> None:
        self.outputs, self.tiling, self.precision = outputs, tiling, precision
        self.axis = tiling.axis
        size = list(tiling.extent)
        size[self.axis] = tiling.capacity
        self.size = tuple(size)
        self.sums: Tensor | None = None  # (*size, K): the outputs of a voxel lie together, as networks give them
        self.weights = torch.zeros(self.size) if weighted else None
        self._held: dict[tuple[int, ...], list[Part]] = {}  # by place along x and y
        self._windows = 0  # held back
        self._first = 0  # first plane of the sums' grid that is stored
        self._done = 0

    @property
    def finished(self) -> int:
        """How many planes of the volume are finished."""
        return min(max(0, self._done - self.tiling.origin[self.axis]), self.tiling.shape[self.axis])

    def add(self, start: Sequence[int], output: Tensor, share: float, weights: Tensor | None) -> None:
        """Add the outputs (K, *window) of a window, or of several passes over it, whose shares of the mean sum up to `share`.

        Args:
            start: of the window on the sums' grid.
            output: in any memory order and floating type. It is taken over where it is all there is.
            share: of the mean over passes.
            weights: (*window), of the voxels of a window; None where nothing is weighted.
        """
        if self.sums is None:
            if share == 1.0 and tuple(output.shape) == (self.outputs, *self.size):
                self.sums = output.permute(1, 2, 3, 0).float().contiguous()
                return
            # Numpy asks the system for zeros, torch writes them.
            self.sums = torch.from_numpy(np.zeros((*self.size, self.outputs), np.float32))
        place = [slice(first, first + length) for first, length in zip(start, output.shape[1:], strict=True)]
        if not self._first <= place[self.axis].start <= place[self.axis].stop <= self._first + self.tiling.capacity:
            raise ValueError(f"planes {place[self.axis]} are forgotten, or there is no room for them yet")
        self._hold(place, output, share, weights)

    def finish(self, stop: int) -> None:
        """No window comes any more that reaches a plane before `stop`."""
        self._add_held()
        self._done = stop

    def read(self, planes: slice) -> Tensor:
        """Return the planes of the volume start to stop, (K, X, Y, Z) float32, short along the axis.

        Raises:
            RunError: a value is not finite.
        """
        shape = list(self.tiling.shape)
        shape[self.axis] = planes.stop - planes.start
        means = torch.empty(self.outputs, *shape)
        for sums, weights, part in self._stored(planes):
            self._check(mean_outputs(sums, weights, means[:, *part]))
        return means

    def choose(self, planes: slice, classes: Tensor) -> None:
        """Fill the class of the highest output, of equal ones the first.

        Args:
            planes: of the volume.
            classes: (X, Y, Z) uint8, short along the axis.

        Raises:
            RunError: an output is not finite.
        """
        for sums, weights, part in self._stored(planes):
            self._check(highest_mean(sums, weights, classes[*part]))

    def release(self, plane: int) -> None:
        """Forget the planes of the volume before `plane`, which makes room for as many."""
        first = min(plane + self.tiling.origin[self.axis] if plane else 0, self._done)
        last = self._first + self.tiling.capacity >= self.tiling.extent[self.axis]
        if first <= self._first or self.sums is None or last:
            return
        for there, _ in self._turns(slice(self._first, first)):
            where = (slice(None),) * self.axis + (there,)
            self.sums[where].zero_()
            if self.weights is not None:
                self.weights[where].zero_()
        self._first = first

    def _hold(self, place: Sequence[slice], output: Tensor, share: float, weights: Tensor | None) -> None:
        if self.sums is None:
            raise ValueError("there are no sums yet")
        parts: dict[tuple[int, ...], Part] = {}
        for there, here in self._turns(place[self.axis]):
            where, part = list(place), [slice(None)] * 3
            where[self.axis], part[self.axis] = there, here
            total = None if self.weights is None else self.weights[*where]
            some = Part(self.sums[*where], output[:, *part], share, None if weights is None else weights[*part], total)
            parts[where[0].start, where[0].stop, where[1].start, where[1].stop, len(parts) if self.axis == 2 else 0] = some
        if self._windows == HELD or not parts.keys() <= (self._held.keys() or parts.keys()):
            self._add_held()
        for key, some in parts.items():
            self._held.setdefault(key, []).append(some)
        self._windows += 1

    def _add_held(self) -> None:
        for parts in self._held.values():
            add_windows(parts)
        self._held, self._windows = {}, 0

    def _stored(self, planes: slice) -> Iterator[tuple[Tensor, Tensor | None, list[slice]]]:
        """Yield sums (X, Y, Z, K) and weights of planes of the volume, and which part of these planes they are."""
        offset = self.tiling.origin[self.axis]
        first, stop = planes.start + offset, planes.stop + offset
        if self.sums is None or not self._first <= first <= stop <= self._done:
            raise ValueError(f"planes {planes.start} to {planes.stop} are not there")
        where = [slice(low, low + length) for low, length in zip(self.tiling.origin, self.tiling.shape, strict=True)]
        part = [slice(None)] * 3
        for there, here in self._turns(slice(first, stop)):
            where[self.axis], part[self.axis] = there, here
            yield self.sums[*where], None if self.weights is None else self.weights[*where], list(part)

    def _turns(self, planes: slice) -> Iterator[tuple[slice, slice]]:
        """Yield where planes of the sums' grid are stored, and which of these planes they are."""
        capacity, first = self.tiling.capacity, planes.start
        while first < planes.stop:
            place = first % capacity
            count = min(capacity - place, planes.stop - first)
            yield slice(place, place + count), slice(first - planes.start, first - planes.start + count)
            first += count

    def _check(self, finite: bool) -> None:
        if not finite:
            raise RunError(
                f"the network's output is not finite in {self.precision}; try inference.precision=fp32, or train again"
            )
