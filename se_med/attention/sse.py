"""Spatial squeeze-and-excitation, sSE."""

from __future__ import annotations

import torch
from torch import Tensor

from se_med.attention.gate import CONVOLUTIONS, Gate
from se_med.fused.norm import Gating


class SpatialGate(Gate):
    """Spatial excitation (Roy, Navab, Wachinger 2018, arXiv 1803.02579).

    A 1x1 convolution squeezes the channels of each voxel to one number, whose sigmoid weighs the voxel.

    Args:
        channels: number of channels C of the input.
        spatial_dims: 2 or 3.
        identity_start: see Gate.

    Shape:
        ``(B, C, *spatial)`` to the same; the gate is ``(B, 1, *spatial)``.
    """

    kind = "spatial"
    formula = "y = x * sigmoid(w . x + b), w over the channels of a voxel"
    source = "Roy, Navab, Wachinger 2018, arXiv 1803.02579"

    def __init__(self, channels: int, spatial_dims: int, identity_start: bool = False) -> None:
        super().__init__(channels, spatial_dims, identity_start)
        self.conv = CONVOLUTIONS[spatial_dims](channels, 1, kernel_size=1)

    def gating(self) -> Gating | None:
        """Return the gate for the fused kernels; None with ``identity_start``, a blend that they do not know."""
        return None if self.strength is not None else Gating("spatial", weight=self.conv.weight, bias=self.conv.bias)

    def weigh(self, x: Tensor) -> Tensor:
        """Return the weight of each voxel, ``(B, 1, *spatial)``."""
        return torch.sigmoid(self.conv(x))
