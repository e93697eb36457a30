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
        grad_x, grad_channel, grad_spatial = torch.empty_like(x), torch.empty_like(channel), torch.empty_like(spatial)
        for i in range(x.shape[0]):  # one sample at a time: its temporary maps stay in the cache
            here = slice(i, i + 1)
            apart = channel[here] - spatial[here]
            # +1 where the channel part won, -1 where it lost, 0 where both are equal: torch.maximum halves the gradient there.
            won = (x[here] * apart).sign_()
            weighted = grad[here] * x[here]
            all_channel, all_spatial = weighted.sum(axes, keepdim=True), weighted.sum(1, keepdim=True)
            weighted.mul_(won)
            grad_channel[here] = (all_channel + weighted.sum(axes, keepdim=True)) * 0.5
            grad_spatial[here] = (all_spatial - weighted.sum(1, keepdim=True)) * 0.5
            twice_gate = won.mul_(apart).add_(channel[here]).add_(spatial[here])
            torch.mul(twice_gate, grad[here], out=grad_x[here]).mul_(0.5)
        return grad_x, grad_channel, grad_spatial
