"""The inception unit: parallel branches, concatenated."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import ClassVar

import torch
from torch import Tensor, nn

from se_med.attention import Gate
from se_med.config.network import NetworkConfig
from se_med.networks.layers import (
    AVERAGE_POOLS,
    MAXIMUM_POOLS,
    NormFactory,
    make_activation,
    make_convolution,
    make_dropout,
)
from se_med.networks.plain import PlainUnit
from se_med.networks.seat import Masks, Seat
from se_med.networks.unit import FOLLOWING_NORM, Unit, keeps_norm


class InceptionUnit(Unit):
    """Four branches side by side (Szegedy et al. 2014, arXiv 1409.4842), with two 3x3 in place of a 5x5 (arXiv 1512.00567).

    - ``branch1``: 1x1, a quarter of the channels;
    - ``branch2``: 1x1, 3x3, what the other branches leave: about half;
    - ``branch3``: 1x1, 3x3, 3x3, an eighth;
    - ``branch4``: maximum over 3x3, 1x1, an eighth.

    The shares are those of the article's module 3a. "3x3" stands for the stage's kernel. In a strided unit ``branch1`` averages
    over the stride first, ``branch2`` and ``branch3`` have it in their first 3x3, ``branch4`` in its maximum. Convolutions inside
    a branch have norm and activation of their own; the last ones of all branches share those that follow the concatenation. A
    gate weighs the concatenation after its activation (``standard``), as in SE-Inception (Hu et al. 2018, arXiv 1709.01507).
    Arguments as for PlainUnit.

    Raises:
        ValueError: fewer than four output channels.
    """

    placements: ClassVar = {"standard": FOLLOWING_NORM["activation"]}
    ends_in: ClassVar = "standard"

    def __init__(
        self,
        network: NetworkConfig,
        norm: NormFactory,
        channels_in: int,
        channels_out: int,
        kernel: Sequence[int],
        stride: Sequence[int],
        seat: Seat | None = None,
    ) -> None:
        super().__init__(seat)
        if channels_out < 4:
            raise ValueError(f"features: {channels_out} channels are too few for the 4 branches of unit inception")
        rank, unity = network.rank, (1,) * network.rank
        quarter, eighth = channels_out // 4, max(1, channels_out // 8)
        half = channels_out - quarter - 2 * eighth
        before_half, before_eighth = max(1, 3 * half // 4), max(1, eighth // 2)
        last = norm(channels_out)
        inner = partial(PlainUnit, network.model_copy(update={"dropout": 0.0}), norm)
        bare = partial(make_convolution, network, norm=last)
        pool = AVERAGE_POOLS[rank](tuple(stride)) if any(step > 1 for step in stride) else nn.Identity()
        maximum = MAXIMUM_POOLS[rank](tuple(kernel), tuple(stride), tuple(size // 2 for size in kernel))
        self.branch1 = nn.Sequential(pool, bare(channels_in, quarter, unity, unity))
        self.branch2 = nn.Sequential(inner(channels_in, before_half, unity, unity), bare(before_half, half, kernel, stride))
        self.branch3 = nn.Sequential(
            inner(channels_in, before_eighth, unity, unity),
            inner(before_eighth, eighth, kernel, stride),
            bare(eighth, eighth, kernel, unity),
        )
        self.branch4 = nn.Sequential(maximum, bare(channels_in, eighth, unity, unity))
        self.norm = last
        self.activation = make_activation(network, inplace=not keeps_norm(seat))
        self.dropout = make_dropout(network)

    def forward(self, x: Tensor, gate: Gate | None = None, masks: Masks | None = None) -> Tensor:
        """Map ``(B, channels_in, *spatial)`` to ``(B, channels_out, *spatial / stride)``."""
        joined = torch.cat((self.branch1(x), self.branch2(x), self.branch3(x), self.branch4(x)), 1)
        y: Tensor = self.dropout(self.normalised("standard", joined, self.norm, self.activation, gate, masks))
        return y
