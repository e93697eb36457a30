"""The residual units of two convolutions, with the activation at their end or at their start."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

from torch import Tensor, nn

from se_med.attention import Gate
from se_med.config.network import NetworkConfig
from se_med.networks.layers import NormFactory, make_activation, make_convolution, make_dropout
from se_med.networks.seat import Masks, Seat
from se_med.networks.unit import FOLLOWING_NORM, Unit, make_shortcut


class ResidualUnit(Unit):
    """Two convolutions with a shortcut (He et al. 2015, arXiv 1512.03385): act(shortcut(x) + norm(conv(act(norm(conv(x)))))).

    With F the residual branch up to its last norm, gates stand as in figure 5 of Hu et al. (arXiv 1709.01507v4):

    - ``standard``: act(shortcut(x) + gate(F(x)));
    - ``pre``: act(shortcut(x) + F(gate(x)));
    - ``post``: gate(act(shortcut(x) + F(x)));
    - ``identity``: act(gate(shortcut(x)) + F(x)).

    The shortcut is that of ``make_shortcut``. With SE-Norm both branches activate before they normalise and nothing follows the
    sum. Arguments as for PlainUnit.
    """

    placements: ClassVar = {
        "standard": FOLLOWING_NORM["norm"],
        "pre": (),
        "post": (),
        "identity": FOLLOWING_NORM["norm"],
    }

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
        first, second = norm(channels_out), norm(channels_out)
        self.conv1 = make_convolution(network, channels_in, channels_out, kernel, stride, first)
        self.norm1 = first
        self.activation1 = make_activation(network)
        self.conv2 = make_convolution(network, channels_out, channels_out, kernel, (1,) * network.rank, second)
        self.norm2 = second
        self.activation2 = make_activation(network)
        self.dropout = make_dropout(network)
        self.shortcut = make_shortcut(network, norm, channels_in, channels_out, stride)

    def forward(self, x: Tensor, gate: Gate | None = None, masks: Masks | None = None) -> Tensor:
        """Map ``(B, channels_in, *spatial)`` to ``(B, channels_out, *spatial / stride)``."""
        entering = self.gated("pre", x, gate, masks)
        residual = self.conv2(self.normalised("", self.conv1(entering), self.norm1, self.activation1))
        kept = self.bypassed(x, self.shortcut, gate, masks)
        if isinstance(self.norm2, Gate):
            y = self.normalised("", residual, self.norm2, self.activation2) + kept
        else:
            y = self.activation2(self.normalised("standard", residual, self.norm2, None, gate, masks) + kept)
        dropped: Tensor = self.dropout(self.gated("post", y, gate, masks))
        return dropped


class PreactivatedUnit(Unit):
    """Two convolutions, each behind its norm and activation, with a shortcut (He et al. 2016, arXiv 1603.05027).

    That is shortcut(x) + conv(act(norm(conv(act(norm(x)))))). As in the appendix of the article the first unit of a stage has no
    norm and activation before its first convolution, since its input is an image or activated already, and the last one is
    followed by a norm and an activation, so that what leaves a stage is the same kind of map as with other units. The shortcut is
    that of ``make_shortcut``, without norm. Gates stand as in ResidualUnit, with F the residual branch, which ends in a
    convolution, and ``post`` after the norm and activation of a last unit.

    Args:
        network: see PlainUnit, as for all that follow here.
        norm: see PlainUnit.
        channels_in: see PlainUnit.
        channels_out: see PlainUnit.
        kernel: see PlainUnit.
        stride: see PlainUnit.
        seat: see PlainUnit.
        first: whether this is the first unit of its stage.
        last: whether this is the last unit of its stage.
    """

    placements: ClassVar = {"standard": (), "pre": (), "post": (), "identity": ()}

    def __init__(
        self,
        network: NetworkConfig,
        norm: NormFactory,
        channels_in: int,
        channels_out: int,
        kernel: Sequence[int],
        stride: Sequence[int],
        seat: Seat | None = None,
        first: bool = True,
        last: bool = True,
    ) -> None:
        super().__init__(seat)
        second = norm(channels_out)
        # Its input is needed for the shortcut as well: behind an activation in place, ahead of an SE-Norm, it would be lost.
        self.norm1 = nn.Identity() if first else norm(channels_in)
        self.activation1 = nn.Identity() if first else make_activation(network, inplace=not isinstance(self.norm1, Gate))
        self.conv1 = make_convolution(network, channels_in, channels_out, kernel, stride, second)
        self.norm2 = second
        self.activation2 = make_activation(network)
        self.conv2 = make_convolution(network, channels_out, channels_out, kernel, (1,) * network.rank, second)
        self.norm3 = norm(channels_out) if last else nn.Identity()
        self.activation3 = make_activation(network) if last else nn.Identity()
        self.dropout = make_dropout(network)
        self.shortcut = make_shortcut(network, None, channels_in, channels_out, stride)

    def forward(self, x: Tensor, gate: Gate | None = None, masks: Masks | None = None) -> Tensor:
        """Map ``(B, channels_in, *spatial)`` to ``(B, channels_out, *spatial / stride)``."""
        entering = self.normalised("", self.gated("pre", x, gate, masks), self.norm1, self.activation1)
        residual = self.conv2(self.normalised("", self.conv1(entering), self.norm2, self.activation2))
        y = self.gated("standard", residual, gate, masks) + self.bypassed(x, self.shortcut, gate, masks)
        y = self.normalised("", y, self.norm3, self.activation3)
        dropped: Tensor = self.dropout(self.gated("post", y, gate, masks))
        return dropped
