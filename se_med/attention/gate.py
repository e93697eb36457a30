"""The base class of every attention block, and what the blocks share: argument checks and number formats."""

from __future__ import annotations

from typing import ClassVar, Literal

import torch
from torch import Tensor, nn

Kind = Literal["channel", "spatial", "both", "normalisation", "skip", "control"]
"""What a block weighs: channels, voxels, both; or what it stands for: a normalisation, a skip connection, a control."""


class Gate(nn.Module):
    """An attention block: a module from ``(B, C, *spatial)`` to ``(B, C, *spatial)``, in 2D and 3D.

    A block knows nothing of the network around it. What placement, explanation and documentation need to know about a block
    is data on its class.

    Attributes:
        kind: what the block weighs.
        ranks: the spatial ranks it is defined for.
        formula: the block in one line.
        source: authors, year and arXiv id.
        extension: what goes beyond the authors' own definition; empty where nothing does.

    Args:
        channels: number of channels C of the input.
        spatial_dims: 2 for ``(B, C, X, Y)``, 3 for ``(B, C, X, Y, Z)``.

    Raises:
        ValueError: the block is not defined for these channels or this rank.
    """

    kind: ClassVar[Kind]
    ranks: ClassVar[tuple[int, ...]] = (2, 3)
    formula: ClassVar[str]
    source: ClassVar[str]
    extension: ClassVar[str] = ""

    def __init__(self, channels: int, spatial_dims: int) -> None:
        super().__init__()
        if spatial_dims not in self.ranks:
            raise ValueError(f"spatial_dims: {spatial_dims} is not one of {list(self.ranks)}, for which this block is defined")
        self.channels = at_least_one("channels", channels)
        self.spatial_dims = spatial_dims
        self.spatial_axes = tuple(range(2, 2 + spatial_dims))

    def gate(self, x: Tensor) -> Tensor:
        """Return the factor by which ``x`` is multiplied, ``(B, C or 1, *spatial or ones)``."""
        raise NotImplementedError

    def forward(self, x: Tensor) -> Tensor:
        """Return ``x`` times its gate, ``(B, C, *spatial)``, in the number format of ``x``."""
        return x * self.gate(x).to(x.dtype)


def at_least_one(key: str, value: int) -> int:
    """Return ``value``; raise ValueError where it is not a whole number of at least 1."""
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise ValueError(f"{key}: {value!r} must be a whole number of at least 1")
    return value


def hidden_width(channels: int, reduction: int, min_hidden: int) -> int:
    """Return the width of the hidden layer, ``max(min_hidden, channels // reduction)``.

    The lower bound keeps the first stages of a U-Net usable: with 8 channels and a reduction of 16 the quotient is 0.
    """
    return max(at_least_one("min_hidden", min_hidden), channels // at_least_one("reduction", reduction))


def wide(dtype: torch.dtype) -> torch.dtype:
    """Return the number format in which sums over a whole map of ``dtype`` are formed: never narrower than float32."""
    return torch.float32 if dtype in (torch.float16, torch.bfloat16) else dtype
