"""From the network's outputs on the prepared grid to the volume's own: some planes at a time, one output after the other.

Outputs for a whole volume take four bytes per voxel and class. Here they are needed only for a few planes at once, so that
memory does not grow with classes times volume.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from se_med.data.grids import Grids
from se_med.data.sampling import sample_grid


class Restoration:
    """Reads planes of the volume, in RAS order, from planes of the prepared grid.

    Linear interpolation needs the prepared planes around a plane; where nothing is resampled, planes are those of the
    prepared grid themselves.

    Args:
        grids: of the volume.
        axis: across which planes are taken.
    """

    def __init__(self, grids: Grids, axis: int) -> None:
        self.grids = grids
        self.axis = axis
        last = grids.shape[axis] - 1
        self.positions = [grids.in_prepared(other, 0, length) for other, length in enumerate(grids.oriented)]
        self.lower = self.positions[axis].clamp(0, last).floor().long()
        self.upper = (self.lower + int(grids.resampled)).clamp_(max=last)

    @property
    def planes(self) -> int:
        """Number of planes of the volume."""
        return self.grids.oriented[self.axis]

    def ready(self, finished: int) -> int:
        """Return how many planes of the volume can be read when the first `finished` prepared planes are known."""
        return int(torch.searchsorted(self.upper, finished))

    def first_needed(self, plane: int) -> int:
        """Return the first prepared plane that is needed from a plane of the volume on."""
        return int(self.lower[plane]) if plane < self.planes else self.grids.shape[self.axis]

    def read(self, prepared: Callable[[slice], Tensor], planes: slice) -> Tensor:
        """Return some planes of the volume, float32, axes in RAS order.

        Args:
            prepared: gives planes of one output on the prepared grid, as (X, Y, Z) that is short along the axis.
            planes: of the volume; start and stop are given.
        """
        first, after = int(self.lower[planes.start]), int(self.upper[planes.stop - 1]) + 1
        values = prepared(slice(first, after))
        if not self.grids.resampled:
            return values.float()
        positions = list(self.positions)
        positions[self.axis] = positions[self.axis][planes] - first
        return sample_grid(values, positions)
