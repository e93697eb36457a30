"""Efficient channel attention, ECA."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from se_med.attention.gate import at_least_one, outside_autocast
from se_med.attention.squeeze import mean
from se_med.attention.squeezing import SqueezingGate
from se_med.fused.norm import Gating


class EfficientChannelGate(SqueezingGate):
    """Efficient channel attention (Wang et al. 2020, arXiv 1910.03151).

    A short convolution along the channels takes the place of the fully connected layers of cse, so the order of the channels
    has a meaning.

    Args:
        channels: number of channels C of the input.
        spatial_dims: 2 or 3.
        kernel: odd length of the convolution. Default, as in the article: t = floor((log2(C) + 1) / 2), plus 1 where t is even.
        identity_start: see Gate.

    Raises:
        ValueError: an even kernel.

    Shape:
        ``(B, C, *spatial)`` to the same; the gate is ``(B, C, 1, 1[, 1])``.
    """

    kind = "channel"
    formula = "y = x * sigmoid(conv1d_k(mean(x))), along the channels, zero-padded, without bias"
    source = "Wang, Wu, Zhu, Li, Zuo, Hu 2020, arXiv 1910.03151"
    extension = "3D"

    def __init__(self, channels: int, spatial_dims: int, kernel: int | None = None, identity_start: bool = False) -> None:
        super().__init__(channels, spatial_dims, identity_start)
        length = automatic_kernel(channels) if kernel is None else at_least_one("kernel", kernel)
        if length % 2 == 0:
            raise ValueError(f"kernel: {length} must be odd")
        self.conv = nn.Conv1d(1, 1, length, padding=length // 2, bias=False)

    @property
    def moments_only(self) -> bool:
        """Whether nothing but means is squeezed: always."""
        return True

    def gating(self) -> Gating:
        """Return the gate for the fused kernels."""
        parameters = tuple(self.parameters())
        return Gating("channel", lambda pooled: self.blended(outside_autocast(self._excite, pooled)), parameters=parameters)

    def weigh(self, x: Tensor, source: Tensor | None = None, mask: Tensor | None = None) -> Tensor:
        """Return the weight of each channel, ``(B, C, 1, 1[, 1])``."""
        gate = outside_autocast(self._excite, mean(x if source is None else source, mask))
        return gate.reshape(x.shape[0], self.channels, *(1,) * self.spatial_dims)

    def _excite(self, squeezed: Tensor) -> Tensor:
        return torch.sigmoid(self.conv(squeezed.to(self.conv.weight.dtype)[:, None])[:, 0])


def automatic_kernel(channels: int) -> int:
    """Return the article's kernel length for ``channels`` (its gamma 2 and b 1)."""
    length = int((math.log2(channels) + 1) / 2)
    return length if length % 2 else length + 1
