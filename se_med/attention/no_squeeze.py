"""Control: an excitation without a squeeze."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from se_med.attention.gate import CONVOLUTIONS, Gate, hidden_width


class NoSqueeze(Gate):
    """The two layers of cse at every voxel, without pooling (Hu et al. 2018, arXiv 1709.01507, section 6.5 of version 4).

    It has the parameters of cse but no view of the whole map: what a channel gate is worth without global context.

    Args:
        channels: number of channels C of the input.
        spatial_dims: 2 or 3.
        reduction: the hidden layer has ``max(min_hidden, channels // reduction)`` channels.
        min_hidden: smallest width of the hidden layer.
        identity_start: see Gate.

    Shape:
        ``(B, C, *spatial)`` to the same; so is the gate.
    """

    kind = "control"
    formula = "y = x * sigmoid(W2 relu(W1 x + b1) + b2) at every voxel"
    source = "Hu, Shen, Albanie, Sun, Wu 2019, arXiv 1709.01507v4"
    extension = "3D"

    def __init__(
        self, channels: int, spatial_dims: int, reduction: int = 4, min_hidden: int = 8, identity_start: bool = False
    ) -> None:
        super().__init__(channels, spatial_dims, identity_start)
        hidden = hidden_width(channels, reduction, min_hidden)
        self.conv1 = CONVOLUTIONS[spatial_dims](channels, hidden, kernel_size=1)
        self.conv2 = CONVOLUTIONS[spatial_dims](hidden, channels, kernel_size=1)

    def weigh(self, x: Tensor) -> Tensor:
        """Return the weight of each channel and voxel, ``(B, C, *spatial)``."""
        return torch.sigmoid(self.conv2(F.relu(self.conv1(x))))
