"""Attention gate on the skip connection, on the fine grid, as in MONAI."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from se_med.attention.gate import BATCH_NORMS, CONVOLUTIONS, Gate, at_least_one


class FineAttentionGate(Gate):
    """The attention gate as MONAI's AttentionUnet and most 2D code have it, after Oktay et al. 2018, arXiv 1804.03999.

    Decoder features are upsampled before they meet the skip features, every convolution is followed by batch norm, and nothing
    follows the product.

    Args:
        channels: number of channels C of the skip features.
        spatial_dims: 2 or 3.
        signal_channels: number of channels G of the upsampled decoder features.
        hidden: number of channels F in which both meet. Default: C // 2, at least 1.
        identity_start: see Gate.

    Shape:
        x ``(B, C, *spatial)`` and signal ``(B, G, *spatial)`` to ``(B, C, *spatial)``; the gate is ``(B, 1, *spatial)``.
    """

    kind = "skip"
    formula = "y = x * sigmoid(BN(psi . relu(BN(W_g g + b_g) + BN(W_x x + b_x)) + b))"
    source = "MONAI AttentionBlock, after Oktay et al. 2018, arXiv 1804.03999"
    signal = "fine"

    def __init__(
        self,
        channels: int,
        spatial_dims: int,
        signal_channels: int,
        hidden: int | None = None,
        identity_start: bool = False,
    ) -> None:
        super().__init__(channels, spatial_dims, identity_start)
        convolution, norm = CONVOLUTIONS[spatial_dims], BATCH_NORMS[spatial_dims]
        width = max(1, channels // 2) if hidden is None else at_least_one("hidden", hidden)
        self.theta = nn.Sequential(convolution(channels, width, 1), norm(width))
        self.phi = nn.Sequential(convolution(at_least_one("signal_channels", signal_channels), width, 1), norm(width))
        self.psi = nn.Sequential(convolution(width, 1, 1), norm(1))

    def weigh(self, x: Tensor, signal: Tensor | None = None) -> Tensor:
        """Return the weight of each voxel of the skip connection, ``(B, 1, *spatial)``."""
        if signal is None:
            raise ValueError("an attention gate on the skip connection needs the features of the decoder as its signal")
        return torch.sigmoid(self.psi(F.relu(self.phi(signal) + self.theta(x))))

    def gate(self, x: Tensor, signal: Tensor | None = None) -> Tensor:
        """Return the factor on ``x``, the blend of ``identity_start`` included, ``(B, 1, *spatial)``."""
        weight = self.weigh(x, signal)
        return weight if self.strength is None else 1 + self.strength.to(weight.dtype) * (weight - 1)

    def forward(self, x: Tensor, signal: Tensor | None = None) -> Tensor:
        """Return the gated skip features, ``(B, C, *spatial)``, in the number format of ``x``."""
        return x * self.gate(x, signal).to(x.dtype)
