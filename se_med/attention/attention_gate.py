"""Attention gate on the skip connection, in the authors' form."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from se_med.attention.gate import BATCH_NORMS, CONVOLUTIONS, Gate, at_least_one


class AttentionGate(Gate):
    """Attention gate (Oktay et al. 2018, arXiv 1804.03999): coarse decoder features choose where the skip connection passes.

    Skip features are brought to the grid of the coarse signal by a strided convolution; the weights found there are
    interpolated back to the fine grid. A 1x1 convolution with batch norm ends the block.

    Args:
        channels: number of channels C of the skip features.
        spatial_dims: 2 or 3.
        signal_channels: number of channels G of the coarse decoder features.
        stride: per axis, the step from the fine to the coarse grid.
        hidden: number of channels F in which both meet. Default: C // 2, at least 1.
        identity_start: see Gate.

    Shape:
        x ``(B, C, *spatial)`` and signal ``(B, G, *spatial / stride)`` to ``(B, C, *spatial)``; the gate is ``(B, 1, *spatial)``.
    """

    kind = "skip"
    formula = "a = up(sigmoid(psi . relu(W_x x + W_g g + b_g) + b)); y = BN(W (a x) + b_w)"
    source = "Oktay et al. 2018, arXiv 1804.03999"
    signal = "coarse"

    def __init__(
        self,
        channels: int,
        spatial_dims: int,
        signal_channels: int,
        stride: Sequence[int] | None = None,
        hidden: int | None = None,
        identity_start: bool = False,
    ) -> None:
        super().__init__(channels, spatial_dims, identity_start)
        convolution = CONVOLUTIONS[spatial_dims]
        width = max(1, channels // 2) if hidden is None else at_least_one("hidden", hidden)
        step = tuple(stride) if stride is not None else (2,) * spatial_dims
        self.theta = convolution(channels, width, step, stride=step, bias=False)
        self.phi = convolution(at_least_one("signal_channels", signal_channels), width, 1)
        self.psi = convolution(width, 1, 1)
        self.output = nn.Sequential(convolution(channels, channels, 1), BATCH_NORMS[spatial_dims](channels))
        self.mode = "bilinear" if spatial_dims == 2 else "trilinear"

    def weigh(self, x: Tensor, signal: Tensor | None = None) -> Tensor:
        """Return the weight of each voxel of the skip connection, ``(B, 1, *spatial)``."""
        if signal is None:
            raise ValueError("an attention gate on the skip connection needs the features of the decoder as its signal")
        theta = self.theta(x)
        phi = self.phi(signal)
        if phi.shape[2:] != theta.shape[2:]:
            phi = F.interpolate(phi, size=theta.shape[2:], mode=self.mode)
        coarse = torch.sigmoid(self.psi(F.relu(theta + phi)))
        return F.interpolate(coarse, size=x.shape[2:], mode=self.mode)

    def gate(self, x: Tensor, signal: Tensor | None = None) -> Tensor:
        """Return the weight of each voxel, ``(B, 1, *spatial)``; the output transform is no part of it."""
        return self.weigh(x, signal)

    def forward(self, x: Tensor, signal: Tensor | None = None) -> Tensor:
        """Return the gated skip features, ``(B, C, *spatial)``, in the number format of ``x``."""
        gated: Tensor = self.output(x * self.weigh(x, signal).to(x.dtype))
        return self.blend(x, gated.to(x.dtype))
