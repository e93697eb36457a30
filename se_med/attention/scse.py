"""Concurrent spatial and channel squeeze-and-excitation, scSE."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from se_med.attention.cse import ChannelGate
from se_med.attention.gate import Gate
from se_med.attention.max_out import max_out
from se_med.attention.sse import SpatialGate

Aggregation = Literal["max", "add"]


class ConcurrentGate(Gate):
    """Channel and spatial excitation side by side (Roy, Navab, Wachinger, arXiv 1803.02579 and 1808.08127).

    ``max`` is the max-out of the journal article: the larger of both *outputs*. Where x is negative that takes the smaller of
    both gates, so it is not x times the larger gate. ``add`` is the sum of the conference article; with all weights zero it
    returns x unchanged.

    Args:
        channels: number of channels C of the input.
        spatial_dims: 2 or 3.
        reduction: the hidden layer of the channel part has ``max(min_hidden, channels // reduction)`` units.
        min_hidden: smallest width of that layer.
        aggregation: ``max`` or ``add``.

    Raises:
        ValueError: unknown aggregation.

    Shape:
        ``(B, C, *spatial)`` to the same; the gate is ``(B, C, *spatial)``.
    """

    kind = "both"
    formula = "y = max(c x, s x) or c x + s x, with c the gate of cse and s the gate of sse"
    source = "Roy, Navab, Wachinger 2018, arXiv 1803.02579 (add) and 2019, arXiv 1808.08127 (max)"

    def __init__(
        self, channels: int, spatial_dims: int, reduction: int = 4, min_hidden: int = 8, aggregation: Aggregation = "max"
    ) -> None:
        super().__init__(channels, spatial_dims)
        if aggregation not in ("max", "add"):
            raise ValueError(f"aggregation: {aggregation!r} is not one of 'max', 'add'")
        self.aggregation = aggregation
        self.channel = ChannelGate(channels, spatial_dims, reduction, min_hidden)
        self.spatial = SpatialGate(channels, spatial_dims)

    def gate(self, x: Tensor) -> Tensor:
        """Return the factor of each channel and voxel, ``(B, C, *spatial)``."""
        channel, spatial = self.channel.gate(x), self.spatial.gate(x)
        if self.aggregation == "add":
            return channel + spatial
        return torch.where(x >= 0, torch.maximum(channel, spatial), torch.minimum(channel, spatial))

    def forward(self, x: Tensor) -> Tensor:
        """Return the gated map, ``(B, C, *spatial)``, in the number format of ``x``."""
        channel, spatial = self.channel.gate(x).to(x.dtype), self.spatial.gate(x).to(x.dtype)
        if self.aggregation == "add":
            # Two gated maps, not x times the sum of the gates: the sum would be a third full map kept for the backward pass.
            return torch.addcmul(x * channel, x, spatial)
        return max_out(x, channel, spatial)
