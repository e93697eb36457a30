"""Sums of weighted network outputs over a few planes of a volume that move along it."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from se_med.errors import RunError
from se_med.fused.sums import add_window
from se_med.inference.tiling import Tiling


class Planes:
    """The network's outputs for as many planes as windows are at work on, one value per output and voxel.

    Planes count from the first one of the sums' grid (see `Tiling`) in `add`, `finish`; from the volume's first one in `read`,
    `release` and `finished`.

    Args:
        outputs: outputs of the network, and further maps.
        tiling: the windows. Where they overlap, outputs are divided by the sum of weights when planes are finished.
    """

    def __init__(self, outputs: int, tiling: Tiling) -> None:
        self.outputs = outputs
        self.tiling = tiling
        self.axis = tiling.axis
        size = list(tiling.extent)
        size[self.axis] = tiling.capacity
        self.size = tuple(size)
        self.sums: Tensor | None = None
        self.weights = None if tiling.disjoint else torch.zeros(self.size)
        self._first = 0  # plane of the sums' grid that is stored first
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
            weights: (*window), of the voxels of a window; None where windows are disjoint.
        """
        if self.sums is None:
            if share == 1.0 and tuple(output.shape) == (self.outputs, *self.size):
                self.sums = output.float().contiguous()
                return
            self.sums = torch.zeros(self.outputs, *self.size)
        where = [slice(first, first + length) for first, length in zip(start, output.shape[1:], strict=True)]
        along = where[self.axis]
        where[self.axis] = slice(along.start - self._first, along.stop - self._first)
        add_window(self.sums[:, *where], output, share, weights, None if self.weights is None else self.weights[*where])

    def finish(self, stop: int, precision: str) -> None:
        """Make means of the sums in all planes before `stop`.

        Raises:
            RunError: a value is not finite.
        """
        if self.sums is None:
            raise ValueError("nothing was added")
        where = self._stored(self.finished, stop - self.tiling.origin[self.axis])
        self._done = stop
        if where is None:
            return
        for output in self.sums:
            values = output[*where]
            if self.weights is not None:
                values.div_(self.weights[*where])
            if not bool(torch.isfinite(values.sum())):
                raise RunError(f"the network's output is not finite in {precision}; try inference.precision=fp32, or train again")

    def read(self, output: int, planes: slice) -> Tensor:
        """View the planes of the volume start to stop of one output: (X, Y, Z), short along the axis."""
        where = self._stored(planes.start, planes.stop)
        if self.sums is None or where is None:
            raise ValueError(f"planes {planes.start} to {planes.stop} are not there")
        return self.sums[output][*where]

    def release(self, plane: int) -> None:
        """Forget the planes of the volume before `plane`, which makes room for as many."""
        first = min(plane + self.tiling.origin[self.axis] if plane else 0, self._done)
        gone = first - self._first
        last = self._first + self.tiling.capacity >= self.tiling.extent[self.axis]
        if gone <= 0 or self.sums is None or last:
            return
        for values in (*self.sums, *(() if self.weights is None else (self.weights,))):
            kept = self.tiling.capacity - gone
            if kept > 0:  # copied, since both may overlap; one output at a time
                values.narrow(self.axis, 0, kept).copy_(values.narrow(self.axis, gone, kept).clone())
            values.narrow(self.axis, max(0, kept), min(gone, self.tiling.capacity)).zero_()
        self._first = first

    def _stored(self, start: int, stop: int) -> list[slice] | None:
        """Return where planes of the volume are stored; None where there are none."""
        stop = min(stop, self.tiling.shape[self.axis])
        if stop <= start:
            return None
        where = [slice(first, first + length) for first, length in zip(self.tiling.origin, self.tiling.shape, strict=True)]
        offset = self.tiling.origin[self.axis] - self._first
        where[self.axis] = slice(start + offset, stop + offset)
        return where
