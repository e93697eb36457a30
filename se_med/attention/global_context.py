"""Global context block, GC."""

from __future__ import annotations

from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from se_med.attention.gate import CONVOLUTIONS, Gate, hidden_width, one_of, outside_autocast, wide

FUSIONS = ("add", "scale")


class GlobalContext(Gate):
    """Global context (Cao et al. 2019, arXiv 1904.11492).

    A softmax over all voxels weighs a mean of each channel, which two layers with a layer norm transform; the result is added to
    every voxel (``add``) or scales the channels through a sigmoid (``scale``).

    Args:
        channels: number of channels C of the input.
        spatial_dims: 2 or 3.
        fusion: ``add``, as in the article's experiments, or ``scale``.
        reduction: the hidden layer has ``max(min_hidden, channels // reduction)`` units; 16 in the article.
        min_hidden: smallest width of the hidden layer.
        identity_start: see Gate.

    Raises:
        ValueError: unknown fusion.

    Shape:
        ``(B, C, *spatial)`` to the same; the gate is ``(B, C, 1, 1[, 1])``. With ``add`` it is the term that is added.
    """

    kind = "channel"
    formula = "z = sum of softmax(w . x + b) x; t = W2 relu(LN(W1 z + b1)) + b2; y = x + t or x * sigmoid(t)"
    source = "Cao, Xu, Lin, Wei, Hu 2019, arXiv 1904.11492"
    extension = "3D"

    def __init__(
        self,
        channels: int,
        spatial_dims: int,
        fusion: str = "add",
        reduction: int = 4,
        min_hidden: int = 8,
        identity_start: bool = False,
    ) -> None:
        super().__init__(channels, spatial_dims, identity_start)
        self.fusion = one_of("fusion", fusion, FUSIONS)
        hidden = hidden_width(channels, reduction, min_hidden)
        self.mask = CONVOLUTIONS[spatial_dims](channels, 1, kernel_size=1)
        self.fc1 = nn.Linear(channels, hidden)
        self.norm = nn.LayerNorm(hidden)
        self.fc2 = nn.Linear(hidden, channels)

    def weigh(self, x: Tensor) -> Tensor:
        """Return the scale of each channel, or with ``add`` the term added to it, ``(B, C, 1, 1[, 1])``."""
        # A softmax over a million voxels needs float32: most of its weights are below the smallest float16.
        attention = self.mask(x).flatten(2).to(wide(x.dtype)).softmax(2)

        def transform(flat: Tensor) -> Tensor:
            context = torch.matmul(flat, attention.transpose(1, 2))[..., 0].to(self.fc1.weight.dtype)
            return cast("Tensor", self.fc2(F.relu(self.norm(self.fc1(context)))))

        term = outside_autocast(transform, x.flatten(2).to(attention.dtype))
        term = term.reshape(x.shape[0], self.channels, *(1,) * self.spatial_dims)
        return term if self.fusion == "add" else torch.sigmoid(term)

    def gate(self, x: Tensor) -> Tensor:
        """Return the scale of each channel, or with ``add`` the term added to it, ``(B, C, 1, 1[, 1])``."""
        if self.fusion == "scale":
            return super().gate(x)
        term = self.weigh(x)
        return term if self.strength is None else self.strength.to(term.dtype) * term

    def forward(self, x: Tensor) -> Tensor:
        """Return the map with its context, ``(B, C, *spatial)``, in the number format of ``x``."""
        gate = self.gate(x).to(x.dtype)
        return x + gate if self.fusion == "add" else x * gate
