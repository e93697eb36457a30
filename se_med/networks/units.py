"""The units that the stages of the U-Net are stacked from: plain and residual."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

from torch import Tensor, nn

from se_med.config.network import NetworkConfig
from se_med.networks.layers import AVERAGE_POOLS, CONVOLUTIONS, DROPOUTS, make_activation, make_norm


class PlainUnit(nn.Module):
    """Convolution, normalisation, activation, as in nnU-Net's plain U-Net (Isensee et al. 2021).

    Args:
        network: kind of norm and activation, spatial rank and dropout.
        channels_in: channels of the input.
        channels_out: channels of the output.
        kernel: kernel size per axis, odd.
        stride: stride of the convolution per axis.
    """

    def __init__(
        self, network: NetworkConfig, channels_in: int, channels_out: int, kernel: Sequence[int], stride: Sequence[int]
    ) -> None:
        super().__init__()
        self.conv = _convolution(network, channels_in, channels_out, kernel, stride)
        self.norm = make_norm(network, channels_out)
        self.activation = make_activation(network)
        self.dropout = _dropout(network)

    def forward(self, x: Tensor) -> Tensor:
        """Map ``(B, channels_in, *spatial)`` to ``(B, channels_out, *spatial / stride)``."""
        y: Tensor = self.dropout(self.activation(self.norm(self.conv(x))))
        return y


class ResidualUnit(nn.Module):
    """Two convolutions with a shortcut (He et al. 2015, arXiv 1512.03385): act(shortcut(x) + norm(conv(act(norm(conv(x)))))).

    Where resolution or channels change, the shortcut averages over the stride and projects by a 1x1 convolution with norm
    (ResNet-D, He et al. 2018, arXiv 1812.01187), as in nnU-Net's residual encoder. Arguments as for PlainUnit.
    """

    def __init__(
        self, network: NetworkConfig, channels_in: int, channels_out: int, kernel: Sequence[int], stride: Sequence[int]
    ) -> None:
        super().__init__()
        self.conv1 = _convolution(network, channels_in, channels_out, kernel, stride)
        self.norm1 = make_norm(network, channels_out)
        self.activation1 = make_activation(network)
        self.conv2 = _convolution(network, channels_out, channels_out, kernel, (1,) * network.spatial_dims)
        self.norm2 = make_norm(network, channels_out)
        self.activation2 = make_activation(network)
        self.dropout = _dropout(network)
        self.shortcut = _shortcut(network, channels_in, channels_out, stride)

    def forward(self, x: Tensor) -> Tensor:
        """Map ``(B, channels_in, *spatial)`` to ``(B, channels_out, *spatial / stride)``."""
        residual = self.norm2(self.conv2(self.activation1(self.norm1(self.conv1(x)))))
        y: Tensor = self.dropout(self.activation2(residual + self.shortcut(x)))
        return y


UNITS: dict[str, type[PlainUnit] | type[ResidualUnit]] = {"plain": PlainUnit, "residual": ResidualUnit}


def make_stage(
    network: NetworkConfig, channels_in: int, channels_out: int, kernel: Sequence[int], stride: Sequence[int], units: int
) -> nn.Sequential:
    """Return ``units`` units in a row, the first of which changes channels and resolution."""
    unit = UNITS[network.unit]
    unity = (1,) * network.spatial_dims
    channels = (channels_in, *(channels_out,) * units)
    return nn.Sequential(
        *(unit(network, a, b, kernel, stride if index == 0 else unity) for index, (a, b) in enumerate(pairwise(channels)))
    )


def _convolution(
    network: NetworkConfig, channels_in: int, channels_out: int, kernel: Sequence[int], stride: Sequence[int]
) -> nn.Module:
    # No bias: the norm that follows subtracts the mean, and with it any constant.
    padding = tuple(size // 2 for size in kernel)
    return CONVOLUTIONS[network.spatial_dims](
        channels_in,
        channels_out,
        tuple(kernel),
        tuple(stride),
        padding,
        bias=False,
    )


def _shortcut(network: NetworkConfig, channels_in: int, channels_out: int, stride: Sequence[int]) -> nn.Module:
    path = nn.Sequential()
    if any(step > 1 for step in stride):
        path.add_module("pool", AVERAGE_POOLS[network.spatial_dims](tuple(stride)))
    if channels_in != channels_out or any(step > 1 for step in stride):
        path.add_module("conv", CONVOLUTIONS[network.spatial_dims](channels_in, channels_out, 1, bias=False))
        path.add_module("norm", make_norm(network, channels_out))
    return path


def _dropout(network: NetworkConfig) -> nn.Module:
    return DROPOUTS[network.spatial_dims](network.dropout) if network.dropout > 0 else nn.Identity()
