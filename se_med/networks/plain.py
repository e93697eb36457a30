"""The plain unit: one convolution."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

from torch import Tensor

from se_med.attention import Gate
from se_med.config.network import NetworkConfig
from se_med.networks.layers import NormFactory, make_activation, make_convolution, make_dropout
from se_med.networks.seat import Masks, Seat
from se_med.networks.unit import FOLLOWING_NORM, Unit, keeps_norm


class PlainUnit(Unit):
    """Convolution, normalisation, activation, as in nnU-Net's plain U-Net (Isensee et al. 2021).

    A gate stands after the activation (``standard``), where Hu et al. 2018 (arXiv 1709.01507) put it in networks without
    shortcuts.

    Args:
        network: kind of activation, spatial rank and dropout.
        norm: makes the normalisation for a number of channels.
        channels_in: channels of the input.
        channels_out: channels of the output.
        kernel: kernel size per axis, odd.
        stride: stride of the convolution per axis.
        seat: where the gate stands; None for a unit without.
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
        last = norm(channels_out)
        self.conv = make_convolution(network, channels_in, channels_out, kernel, stride, last)
        self.norm = last
        self.activation = make_activation(network, inplace=not keeps_norm(seat))
        self.dropout = make_dropout(network)

    def forward(self, x: Tensor, gate: Gate | None = None, masks: Masks | None = None) -> Tensor:
        """Map ``(B, channels_in, *spatial)`` to ``(B, channels_out, *spatial / stride)``."""
        y: Tensor = self.dropout(self.normalised("standard", self.conv(x), self.norm, self.activation, gate, masks))
        return y
