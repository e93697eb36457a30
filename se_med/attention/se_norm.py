"""Squeeze-and-excitation normalisation, SE-Norm."""

from __future__ import annotations

import torch
from torch import Tensor

from se_med.attention.cse import ChannelGate
from se_med.attention.gate import Gate

EPSILON = 1e-5


class SENorm(Gate):
    """Instance normalisation whose scale and shift come from the map itself (Iantsen et al. 2021, arXiv 2102.10446).

    Two excitations squeeze the map before it is normalised: one gives the scale through a sigmoid, one the shift through a tanh.
    The block takes the place of a normalisation; an identity start it cannot have.

    Args:
        channels: number of channels C of the input.
        spatial_dims: 2 or 3.
        reduction: the hidden layers have ``max(min_hidden, channels // reduction)`` units; 2 in the article.
        min_hidden: smallest width of the hidden layers.

    Shape:
        ``(B, C, *spatial)`` to the same; the gate is the scale, ``(B, C, 1, 1[, 1])``.
    """

    kind = "normalisation"
    formula = "y = sigmoid(SE_g(x)) * IN(x) + tanh(SE_b(x)), IN without affine parameters"
    source = "Iantsen, Visvikis, Hatt 2021, arXiv 2102.10446"
    extension = "2D"

    def __init__(self, channels: int, spatial_dims: int, reduction: int = 4, min_hidden: int = 8) -> None:
        super().__init__(channels, spatial_dims)
        self.scale = ChannelGate(channels, spatial_dims, reduction, min_hidden)
        self.shift = ChannelGate(channels, spatial_dims, reduction, min_hidden, gate_function="tanh")

    def weigh(self, x: Tensor) -> Tensor:
        """Return the scale of each channel, ``(B, C, 1, 1[, 1])``."""
        return self.scale.weigh(x)

    def forward(self, x: Tensor) -> Tensor:
        """Return the normalised map, ``(B, C, *spatial)``, in the number format of ``x``.

        Raises:
            ValueError: a map of a single voxel, which cannot be normalised.
        """
        if x[0, 0].numel() == 1:
            raise ValueError(f"input size {list(x.shape[2:])}: SE-Norm needs more than one voxel per channel")
        normalised = torch.group_norm(x, self.channels, eps=EPSILON)
        return torch.addcmul(self.shift.weigh(x).to(x.dtype), normalised.to(x.dtype), self.weigh(x).to(x.dtype))
