"""Channel squeeze-and-excitation, cSE."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from se_med.attention.gate import Gate, hidden_width, wide


class ChannelGate(Gate):
    """Squeeze-and-excitation over channels (Hu et al. 2018, arXiv 1709.01507).

    The map is squeezed to its mean per channel; two fully connected layers turn the means of all channels into one weight per
    channel between 0 and 1.

    Args:
        channels: number of channels C of the input.
        spatial_dims: 2 or 3.
        reduction: the hidden layer has ``max(min_hidden, channels // reduction)`` units.
        min_hidden: smallest width of the hidden layer.

    Shape:
        ``(B, C, *spatial)`` to the same; the gate is ``(B, C, 1, 1[, 1])``.
    """

    kind = "channel"
    formula = "y = x * sigmoid(W2 relu(W1 mean(x) + b1) + b2)"
    source = "Hu, Shen, Sun 2018, arXiv 1709.01507"

    def __init__(self, channels: int, spatial_dims: int, reduction: int = 4, min_hidden: int = 8) -> None:
        super().__init__(channels, spatial_dims)
        hidden = hidden_width(channels, reduction, min_hidden)
        self.fc1 = nn.Linear(channels, hidden)
        self.fc2 = nn.Linear(hidden, channels)

    def squeeze(self, x: Tensor) -> Tensor:
        """Return the mean of each channel, ``(B, C)``."""
        return x.mean(self.spatial_axes, dtype=wide(x.dtype))

    def gate(self, x: Tensor) -> Tensor:
        """Return the weight of each channel, ``(B, C, 1, 1[, 1])``."""
        return self.excite(self.squeeze(x)).reshape(x.shape[0], self.channels, *(1,) * self.spatial_dims)

    def excite(self, squeezed: Tensor) -> Tensor:
        """Turn channel descriptors into gates, ``(B, C)`` to ``(B, C)``."""
        # Gates of a trained network vary between cases by a few thousandths, below the resolution of bfloat16: these two small
        # products stay in the format of their weights even where autocast narrows everything else.
        if torch.is_autocast_enabled(squeezed.device.type):
            with torch.autocast(squeezed.device.type, enabled=False):
                return self._excite(squeezed)
        return self._excite(squeezed)

    def _excite(self, squeezed: Tensor) -> Tensor:
        return torch.sigmoid(self.fc2(F.relu(self.fc1(squeezed.to(self.fc1.weight.dtype)))))
