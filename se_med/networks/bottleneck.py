"""The residual units of three convolutions, of which the first and the last are 1x1: bottleneck and ResNeXt."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

from torch import Tensor

from se_med.attention import Gate
from se_med.config.network import NetworkConfig
from se_med.networks.layers import NormFactory, largest_divisor, make_activation, make_convolution, make_dropout
from se_med.networks.seat import Masks, Seat
from se_med.networks.unit import FOLLOWING_NORM, Unit, keeps_norm, make_shortcut


class BottleneckUnit(Unit):
    """Convolutions 1x1, 3x3 and 1x1, each with norm, and a shortcut (He et al. 2015, arXiv 1512.03385).

    The first two have a quarter of the unit's channels. The stride is that of the 3x3 convolution, as in torchvision; the
    article's own code has it in the first. Gates stand as in ResidualUnit, or after the activation of the 3x3 convolution
    (``conv3``, SE_3x3 in arXiv 1709.01507v4), where they are cheaper. "3x3" stands for the stage's kernel. Arguments as for
    PlainUnit.
    """

    placements: ClassVar = {
        "standard": FOLLOWING_NORM["norm"],
        "pre": (),
        "post": (),
        "identity": FOLLOWING_NORM["norm"],
        "conv3": FOLLOWING_NORM["activation"],
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
        width, unity = self.inner_width(network, channels_out), (1,) * network.rank
        first, second, third = norm(width), norm(width), norm(channels_out)
        self.conv1 = make_convolution(network, channels_in, width, unity, unity, first)
        self.norm1 = first
        self.activation1 = make_activation(network)
        self.conv2 = make_convolution(network, width, width, kernel, stride, second, self.groups(network, width))
        self.norm2 = second
        self.activation2 = make_activation(network, inplace=not keeps_norm(seat))
        self.conv3 = make_convolution(network, width, channels_out, unity, unity, third)
        self.norm3 = third
        self.activation3 = make_activation(network)
        self.dropout = make_dropout(network)
        self.shortcut = make_shortcut(network, norm, channels_in, channels_out, stride)

    @classmethod
    def inner_width(cls, network: NetworkConfig, channels_out: int) -> int:
        """Return the number of channels of the 3x3 convolution: a quarter of ``channels_out``."""
        return max(1, channels_out // 4)

    @classmethod
    def groups(cls, network: NetworkConfig, width: int) -> int:
        """Return the number of groups of the 3x3 convolution with ``width`` channels: 1."""
        return 1

    def forward(self, x: Tensor, gate: Gate | None = None, masks: Masks | None = None) -> Tensor:
        """Map ``(B, channels_in, *spatial)`` to ``(B, channels_out, *spatial / stride)``."""
        narrow = self.normalised("", self.conv1(self.gated("pre", x, gate, masks)), self.norm1, self.activation1)
        narrow = self.normalised("conv3", self.conv2(narrow), self.norm2, self.activation2, gate, masks)
        residual = self.conv3(narrow)
        kept = self.bypassed(x, self.shortcut, gate, masks)
        if isinstance(self.norm3, Gate):
            y = self.normalised("", residual, self.norm3, self.activation3) + kept
        else:
            y = self.activation3(self.normalised("standard", residual, self.norm3, None, gate, masks) + kept)
        dropped: Tensor = self.dropout(self.gated("post", y, gate, masks))
        return dropped


class ResNeXtUnit(BottleneckUnit):
    """A bottleneck of twice the width with a grouped 3x3 convolution (Xie et al. 2017, arXiv 1611.05431).

    The 1x1 and the grouped convolutions have half of the unit's channels, as in ResNeXt-50 32x4d; ``network.groups`` is the
    cardinality. Arguments as for PlainUnit.
    """

    @classmethod
    def inner_width(cls, network: NetworkConfig, channels_out: int) -> int:
        """Return the number of channels of the grouped convolution: half of ``channels_out``."""
        return max(1, channels_out // 2)

    @classmethod
    def groups(cls, network: NetworkConfig, width: int) -> int:
        """Return the largest number of groups up to ``network.groups`` into which ``width`` can be divided."""
        return largest_divisor(width, network.groups)
