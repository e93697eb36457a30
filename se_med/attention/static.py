"""Control: a gate that is learned but does not look at its input."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from se_med.attention.gate import Gate


class StaticGate(Gate):
    """One learned weight per channel, the same for every image: what a channel gate is worth without attention.

    Args:
        channels: number of channels C of the input.
        spatial_dims: 2 or 3.
        identity_start: see Gate.

    Shape:
        ``(B, C, *spatial)`` to the same; the gate is ``(1, C, 1, 1[, 1])``.
    """

    kind = "control"
    formula = "y = x * sigmoid(a), a learned per channel, 0 at the start"
    source = "control of this toolkit"
    extension = "the whole block"

    def __init__(self, channels: int, spatial_dims: int, identity_start: bool = False) -> None:
        super().__init__(channels, spatial_dims, identity_start)
        self.logit = nn.Parameter(torch.zeros(channels))

    @property
    def uniform(self) -> bool:
        """Whether all voxels of a channel get the same weight: always."""
        return True

    def weigh(self, x: Tensor) -> Tensor:
        """Return the weight of each channel, ``(1, C, 1, 1[, 1])``, whatever ``x``."""
        return torch.sigmoid(self.logit).reshape(1, self.channels, *(1,) * self.spatial_dims)
