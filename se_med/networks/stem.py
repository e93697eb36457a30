"""Space-to-depth and depth-to-space with a factor per axis: full resolution in and out, convolutions at a lower one."""

from __future__ import annotations

import math
from collections.abc import Sequence

from torch import Tensor, nn


class SpaceToDepth(nn.Module):
    """Turn each block of ``factors`` voxels into channels, ``(B, C, *S)`` to ``(B, C * prod(factors), *S / factors)``.

    Channel ``c`` at offset ``o`` of the block (row-major) becomes channel ``c * prod(factors) + o``: torch.pixel_unshuffle
    (Shi et al. 2016, arXiv 1609.05158) with a factor per axis, in 2D and 3D.
    """

    def __init__(self, factors: Sequence[int]) -> None:
        super().__init__()
        self.factors = tuple(factors)

    def forward(self, x: Tensor) -> Tensor:
        """Rearrange ``x``, whose sizes must be multiples of ``factors``."""
        rank = len(self.factors)
        batch, channels, *sizes = x.shape
        coarse = [size // factor for size, factor in zip(sizes, self.factors, strict=True)]
        split = [part for pair in zip(coarse, self.factors, strict=True) for part in pair]
        offsets, blocks = range(3, 3 + 2 * rank, 2), range(2, 2 + 2 * rank, 2)
        x = x.reshape(batch, channels, *split).permute(0, 1, *offsets, *blocks)
        return x.reshape(batch, channels * math.prod(self.factors), *coarse)


class DepthToSpace(nn.Module):
    """The inverse of SpaceToDepth, ``(B, C * prod(factors), *S)`` to ``(B, C, *S * factors)``."""

    def __init__(self, factors: Sequence[int]) -> None:
        super().__init__()
        self.factors = tuple(factors)

    def forward(self, x: Tensor) -> Tensor:
        """Rearrange ``x``, whose channels must be a multiple of ``prod(factors)``."""
        rank = len(self.factors)
        batch, channels, *coarse = x.shape
        x = x.reshape(batch, channels // math.prod(self.factors), *self.factors, *coarse)
        order = [axis for pair in zip(range(2 + rank, 2 + 2 * rank), range(2, 2 + rank), strict=True) for axis in pair]
        fine = [size * factor for size, factor in zip(coarse, self.factors, strict=True)]
        return x.permute(0, 1, *order).reshape(batch, -1, *fine)


def make_stem(factors: Sequence[int]) -> tuple[nn.Module, nn.Module]:
    """Return the layers before the first stage and after the last: identities where all factors are 1."""
    if math.prod(factors) == 1:
        return nn.Identity(), nn.Identity()
    return SpaceToDepth(factors), DepthToSpace(factors)
