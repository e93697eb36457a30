"""From the network's outputs on the prepared grid to the volume's own: some planes at a time, one output after the other.

Outputs for a whole volume take four bytes per voxel and class. Here they are needed only for a few planes at once, so that
memory does not grow with classes times volume.
"""

from __future__ import annotations

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

    def needed(self, planes: slice) -> slice:
        """Return the prepared planes that some planes of the volume, with start and stop, are read from."""
        return slice(int(self.lower[planes.start]), int(self.upper[planes.stop - 1]) + 1)

    def read(self, values: Tensor, planes: slice) -> Tensor:
        """Return some planes of the volume, float32, axes in RAS order.

        Args:
            values: of one output, those prepared planes that are `needed`: (X, Y, Z), short along the axis.
            planes: of the volume; start and stop are given.
        """
        if not self.grids.resampled:
            return values.float()
        positions = list(self.positions)
        positions[self.axis] = positions[self.axis][planes] - self.needed(planes).start
        return sample_grid(values, positions)
