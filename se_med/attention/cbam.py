"""Convolutional block attention module, CBAM."""

from __future__ import annotations

import torch
from torch import Tensor

from se_med.attention.cse import ChannelGate
from se_med.attention.gate import CONVOLUTIONS, Gate, at_least_one
from se_med.fused.cascade import CascadeGating


class ConvolutionalGate(Gate):
    """Channel attention, then spatial attention (Woo et al. 2018, arXiv 1807.06521).

    As in the article, without the batch norm that the authors' code adds after the spatial convolution; the mean comes before
    the maximum in its input, the other way round in the authors' code.

    Args:
        channels: number of channels C of the input.
        spatial_dims: 2 or 3.
        reduction: the hidden layer of the channel part has ``max(min_hidden, channels // reduction)`` units; 16 in the article.
        min_hidden: smallest width of that layer.
        kernel: odd size of the spatial convolution. Default: 7 in 2D as in the article, 3 in 3D, where 7 costs more than the
            convolutions around it.
        identity_start: see Gate.

    Raises:
        ValueError: an even kernel.

    Shape:
        ``(B, C, *spatial)`` to the same; so is the gate.
    """

    kind = "both"
    formula = "x' = x * sigmoid(MLP(mean(x)) + MLP(max(x))); y = x' * sigmoid(conv_k([mean_c x'; max_c x']))"
    source = "Woo, Park, Lee, Kweon 2018, arXiv 1807.06521"
    extension = "3D"

    def __init__(
        self,
        channels: int,
        spatial_dims: int,
        reduction: int = 4,
        min_hidden: int = 8,
        kernel: int | None = None,
        identity_start: bool = False,
    ) -> None:
        super().__init__(channels, spatial_dims, identity_start)
        size = (7 if spatial_dims == 2 else 3) if kernel is None else at_least_one("kernel", kernel)
        if size % 2 == 0:
            raise ValueError(f"kernel: {size} must be odd")
        self.channel = ChannelGate(channels, spatial_dims, reduction, min_hidden, squeeze="avg+max")
        self.spatial = CONVOLUTIONS[spatial_dims](2, 1, size, padding=size // 2, bias=False)

    def weigh(self, x: Tensor) -> Tensor:
        """Return the weight of each channel and voxel, ``(B, C, *spatial)``."""
        channel = self.channel.weigh(x)
        return channel * self._spatial(x * channel.to(x.dtype))

    def forward(self, x: Tensor) -> Tensor:
        """Return the gated map, ``(B, C, *spatial)``, in the number format of ``x``."""
        gated = x * self.channel.weigh(x).to(x.dtype)
        return self.blend(x, gated * self._spatial(gated).to(x.dtype))

    def gating(self) -> CascadeGating | None:
        """Return both gates for the fused kernels, which do not know the blend of ``identity_start``."""
        if self.strength is not None:
            return None
        channel, spatial = tuple(self.channel.parameters()), tuple(self.spatial.parameters())
        return CascadeGating(self.channel.excite, lambda pooled: torch.sigmoid(self.spatial(pooled)), channel, spatial)

    def _spatial(self, gated: Tensor) -> Tensor:
        return torch.sigmoid(self.spatial(torch.cat((gated.mean(1, keepdim=True), gated.amax(1, keepdim=True)), 1)))
