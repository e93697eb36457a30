"""Concurrent spatial and channel squeeze-and-excitation, scSE."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from se_med.attention.cse import ChannelGate
from se_med.attention.gate import CONVOLUTIONS, one_of
from se_med.attention.max_out import max_out
from se_med.attention.squeezing import SqueezingGate
from se_med.attention.sse import SpatialGate
from se_med.fused.norm import Gating

AGGREGATIONS = ("max", "add", "multiply", "gate_multiply", "concat")


class ConcurrentGate(SqueezingGate):
    """Channel and spatial excitation side by side (Roy, Navab, Wachinger, arXiv 1803.02579 and 1808.08127).

    With c the channel gate and s the spatial gate, the output is

    - ``max``: max(c x, s x), the max-out of the journal article. Where x is negative that takes the smaller of both gates, so it
      is not x times the larger gate;
    - ``add``: c x + s x, as in the conference article; with all weights zero it returns x unchanged;
    - ``multiply``: (c x)(s x), the product of both outputs, which loses the sign of x;
    - ``gate_multiply``: c s x, the product of both gates;
    - ``concat``: c x and s x, side by side as 2C channels, projected back to C by a 1x1 convolution.

    Args:
        channels: number of channels C of the input.
        spatial_dims: 2 or 3.
        reduction: the hidden layer of the channel part has ``max(min_hidden, channels // reduction)`` units.
        min_hidden: smallest width of that layer.
        aggregation: one of the above.
        identity_start: see Gate.

    Raises:
        ValueError: unknown aggregation.

    Shape:
        ``(B, C, *spatial)`` to the same; the gate is ``(B, C, *spatial)``. ``concat`` has no single gate: its ``gate`` is
        ``(B, 2C, *spatial)``, the channel gates before the spatial ones.
    """

    kind = "both"
    formula = "y = max(c x, s x), c x + s x, (c x)(s x), c s x or W [c x; s x], with c the gate of cse and s the gate of sse"
    source = "Roy, Navab, Wachinger 2018, arXiv 1803.02579 (add) and 2019, arXiv 1808.08127 (max, multiply, concat)"
    extension = "aggregation gate_multiply; the projection after concat"

    def __init__(
        self,
        channels: int,
        spatial_dims: int,
        reduction: int = 4,
        min_hidden: int = 8,
        aggregation: str = "max",
        identity_start: bool = False,
    ) -> None:
        super().__init__(channels, spatial_dims, identity_start)
        self.aggregation = one_of("aggregation", aggregation, AGGREGATIONS)
        self.channel = ChannelGate(channels, spatial_dims, reduction, min_hidden)
        self.spatial = SpatialGate(channels, spatial_dims)
        if aggregation == "concat":
            self.projection = CONVOLUTIONS[spatial_dims](2 * channels, channels, kernel_size=1)

    @property
    def moments_only(self) -> bool:
        """Whether the channel part squeezes nothing but means: always."""
        return self.channel.moments_only

    def gating(self) -> Gating | None:
        """Return both gates for the fused kernels, which know ``max`` and ``add``, without the blend of ``identity_start``."""
        mode = {"max": "larger", "add": "sum"}.get(self.aggregation)
        channel = self.channel.gating()
        if mode is None or channel is None or self.strength is not None:
            return None
        return replace(channel, mode=mode, weight=self.spatial.conv.weight, bias=self.spatial.conv.bias)

    def weigh(self, x: Tensor, source: Tensor | None = None, mask: Tensor | None = None) -> Tensor:
        """Return the factor of each channel and voxel, ``(B, C, *spatial)``; with ``concat`` ``(B, 2C, *spatial)``."""
        channel, spatial = self.channel.weigh(x, source, mask), self.spatial.weigh(x)
        if self.aggregation == "add":
            return channel + spatial
        if self.aggregation == "gate_multiply":
            return channel * spatial
        if self.aggregation == "multiply":
            return channel * spatial * x
        if self.aggregation == "concat":
            return torch.cat((channel.expand_as(x), spatial.expand_as(x)), 1)
        return torch.where(x >= 0, torch.maximum(channel, spatial), torch.minimum(channel, spatial))

    def gate(self, x: Tensor, source: Tensor | None = None, mask: Tensor | None = None) -> Tensor:
        """Return the factor on x, ``(B, C, *spatial)``; with ``concat`` both gates, which no blend applies to."""
        return self.weigh(x, source, mask) if self.aggregation == "concat" else super().gate(x, source, mask)

    def forward(self, x: Tensor, source: Tensor | None = None, mask: Tensor | None = None) -> Tensor:
        """Return the gated map, ``(B, C, *spatial)``, in the number format of ``x``."""
        channel, spatial = self.channel.weigh(x, source, mask).to(x.dtype), self.spatial.weigh(x).to(x.dtype)
        return self.blend(x, self._aggregate(x, channel, spatial))

    def _aggregate(self, x: Tensor, channel: Tensor, spatial: Tensor) -> Tensor:
        if self.aggregation == "max":
            return max_out(x, channel, spatial)
        if self.aggregation == "add":
            # Two gated maps, not x times the sum of the gates: the sum would be one more full map kept for the backward pass.
            return torch.addcmul(x * channel, x, spatial)
        if self.aggregation == "concat":
            projected: Tensor = self.projection(torch.cat((x * channel, x * spatial), 1))
            return projected.to(x.dtype)
        gated = x * channel * spatial
        return gated * x if self.aggregation == "multiply" else gated
