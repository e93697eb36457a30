"""The base class of every attention block, and what the blocks share: argument checks and number formats."""

from __future__ import annotations

from collections.abc import Callable
from typing import ClassVar, Literal

import torch
from torch import Tensor, nn

from se_med.fused.norm import AnyGating

Kind = Literal["channel", "spatial", "both", "normalisation", "skip", "control"]
"""What a block weighs: channels, voxels, both; or what it stands for: a normalisation, a skip connection, a control."""

CONVOLUTIONS: dict[int, Callable[..., nn.Conv2d | nn.Conv3d]] = {2: nn.Conv2d, 3: nn.Conv3d}
BATCH_NORMS: dict[int, Callable[..., nn.Module]] = {2: nn.BatchNorm2d, 3: nn.BatchNorm3d}


class Gate(nn.Module):
    """An attention block: a module from ``(B, C, *spatial)`` to ``(B, C, *spatial)``, in 2D and 3D.

    A block knows nothing of the network around it. What placement, explanation and documentation need to know about a block
    is data on its class. A new block defines ``weigh``; one that does more than multiply defines ``forward`` as well.

    Attributes:
        kind: what the block weighs.
        ranks: the spatial ranks it is defined for.
        formula: the block in one line.
        source: authors, year and arXiv id.
        extension: what goes beyond the authors' own definition; empty where nothing does.
        signal: the second input of a ``skip`` block: ``coarse`` features of the decoder stage below, or the same ``fine``,
            after upsampling; empty for all other blocks.
        strength: with ``identity_start`` a learned scalar that starts at 0, otherwise None.

    Args:
        channels: number of channels C of the input.
        spatial_dims: 2 for ``(B, C, X, Y)``, 3 for ``(B, C, X, Y, Z)``.
        identity_start: blend the block in by ``strength``: output x + strength (y - x). At the start the output is x, bit for
            bit (the idea of ReZero, Bachlechner et al. 2020, arXiv 2003.04887).

    Raises:
        ValueError: the block is not defined for these channels or this rank.
    """

    kind: ClassVar[Kind]
    ranks: ClassVar[tuple[int, ...]] = (2, 3)
    formula: ClassVar[str]
    source: ClassVar[str]
    extension: ClassVar[str] = ""
    signal: ClassVar[Literal["", "coarse", "fine"]] = ""

    def __init__(self, channels: int, spatial_dims: int, identity_start: bool = False) -> None:
        super().__init__()
        if spatial_dims not in self.ranks:
            raise ValueError(f"spatial_dims: {spatial_dims} is not one of {list(self.ranks)}, for which this block is defined")
        self.channels = at_least_one("channels", channels)
        self.spatial_dims = spatial_dims
        self.spatial_axes = tuple(range(2, 2 + spatial_dims))
        self.strength = nn.Parameter(torch.zeros(1)) if identity_start else None

    @property
    def moments_only(self) -> bool:
        """Whether weights of channels come from their means or standard deviations alone, which an instance norm fixes."""
        return False

    @property
    def uniform(self) -> bool:
        """Whether all voxels of a channel get the same weight."""
        return self.kind == "channel"

    def gating(self) -> AnyGating | None:
        """Return the block in the terms of the fused kernels; None for one that they do not know."""
        return None

    def weigh(self, x: Tensor) -> Tensor:
        """Return what the block's formula multiplies ``x`` by, ``(B, C or 1, *spatial or ones)``."""
        raise NotImplementedError

    def gate(self, x: Tensor) -> Tensor:
        """Return the factor on ``x``, the blend of ``identity_start`` included, ``(B, C or 1, *spatial or ones)``."""
        return self.blended(self.weigh(x))

    def blended(self, weight: Tensor) -> Tensor:
        """Return the factor ``weight``, or with ``identity_start`` 1 + strength (weight - 1)."""
        return weight if self.strength is None else 1 + self.strength.to(weight.dtype) * (weight - 1)

    def forward(self, x: Tensor) -> Tensor:
        """Return ``x`` times its gate, ``(B, C, *spatial)``, in the number format of ``x``."""
        return x * self.gate(x).to(x.dtype)

    def blend(self, x: Tensor, y: Tensor) -> Tensor:
        """Return the block's output ``y``, or with ``identity_start`` x + strength (y - x)."""
        return y if self.strength is None else torch.lerp(x, y, self.strength.to(x.dtype))


def at_least_one(key: str, value: int) -> int:
    """Return ``value``; raise ValueError where it is not a whole number of at least 1."""
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise ValueError(f"{key}: {value!r} must be a whole number of at least 1")
    return value


def one_of(key: str, value: str, known: tuple[str, ...]) -> str:
    """Return ``value``; raise ValueError where it is not one of ``known``."""
    if value not in known:
        raise ValueError(f"{key}: {value!r} is not one of {', '.join(map(repr, known))}")
    return value


def hidden_width(channels: int, reduction: int, min_hidden: int) -> int:
    """Return the width of the hidden layer, ``max(min_hidden, channels // reduction)``.

    The lower bound keeps the first stages of a U-Net usable: with 8 channels and a reduction of 16 the quotient is 0.
    """
    return max(at_least_one("min_hidden", min_hidden), channels // at_least_one("reduction", reduction))


def wide(dtype: torch.dtype) -> torch.dtype:
    """Return the number format in which sums over a whole map of ``dtype`` are formed: never narrower than float32."""
    return torch.float32 if dtype in (torch.float16, torch.bfloat16) else dtype


def outside_autocast(function: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
    """Call ``function`` on channel descriptors in their own number format.

    The gates of a trained network vary between cases by a few thousandths, below the resolution of bfloat16; their small
    products stay wide where autocast narrows everything else.
    """
    if not torch.is_autocast_enabled(x.device.type):
        return function(x)
    with torch.autocast(x.device.type, enabled=False):
        return function(x)
