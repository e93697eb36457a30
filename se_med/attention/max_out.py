"""The larger of two gated maps, in few passes over memory and without keeping the gated maps for the backward pass."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable


def max_out(x: Tensor, channel: Tensor, spatial: Tensor) -> Tensor:
    """Return ``maximum(x * channel, x * spatial)``, ``(B, C, *spatial)``.

    Args:
        x: map, ``(B, C, *spatial)``.
        channel: gate of each channel, ``(B, C, 1, 1[, 1])``, in the number format of x.
        spatial: gate of each voxel, ``(B, 1, *spatial)``, in the number format of x.
    """
    # An autograd function of our own is opaque to export, which traces forward operations only.
    if torch.is_grad_enabled() and not torch.compiler.is_exporting():
        return _MaxOut.apply(x, channel, spatial)  # type: ignore[no-untyped-call,no-any-return]  # untyped in torch
    return torch.maximum(x * channel, x * spatial)


class _MaxOut(torch.autograd.Function):
    """Keeps x and the two small gates; the naive form keeps two more full maps."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, channel: Tensor, spatial: Tensor) -> Tensor:
        ctx.save_for_backward(x, channel, spatial)
        y = x * channel
        return torch.maximum(y, x * spatial, out=y)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        x, channel, spatial = ctx.saved_tensors
        axes = tuple(range(2, x.ndim))
        # The share of the channel part: 1 where it won, 0 where it lost, a half where both are equal, as torch.maximum has it.
        share = torch.sign(x * channel - x * spatial).add_(1).mul_(0.5)
        grad_x = torch.addcmul(grad * spatial, grad * share, channel - spatial)
        weighted = grad * x
        won = weighted * share
        grad_channel = won.sum(axes, keepdim=True)
        grad_spatial = weighted.sub_(won).sum(1, keepdim=True)
        return grad_x, grad_channel, grad_spatial
