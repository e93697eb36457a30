"""The units that the stages of the U-Net are stacked from: plain and residual.

A normalisation follows its convolution, and the activation follows the normalisation. Where an attention block takes the place
of the normalisation (SE-Norm), it follows the activation instead, as its authors have it (Iantsen et al. 2021).
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from itertools import pairwise

from torch import Tensor, nn

from se_med.attention import Gate
from se_med.config.network import NetworkConfig
from se_med.networks.layers import AVERAGE_POOLS, CONVOLUTIONS, DROPOUTS, NormFactory, make_activation, make_norm


class PlainUnit(nn.Module):
    """Convolution, normalisation, activation, as in nnU-Net's plain U-Net (Isensee et al. 2021).

    Args:
        network: kind of activation, spatial rank and dropout.
        norm: makes the normalisation for a number of channels.
        channels_in: channels of the input.
        channels_out: channels of the output.
        kernel: kernel size per axis, odd.
        stride: stride of the convolution per axis.
    """

    def __init__(
        self,
        network: NetworkConfig,
        norm: NormFactory,
        channels_in: int,
        channels_out: int,
        kernel: Sequence[int],
        stride: Sequence[int],
    ) -> None:
        super().__init__()
        last = norm(channels_out)
        self.conv = _convolution(network, channels_in, channels_out, kernel, stride, last)
        self.norm = last
        self.activation = make_activation(network)
        self.dropout = _dropout(network)

    def forward(self, x: Tensor) -> Tensor:
        """Map ``(B, channels_in, *spatial)`` to ``(B, channels_out, *spatial / stride)``."""
        y: Tensor = self.dropout(_normalise(self.conv(x), self.norm, self.activation))
        return y


class ResidualUnit(nn.Module):
    """Two convolutions with a shortcut (He et al. 2015, arXiv 1512.03385): act(shortcut(x) + norm(conv(act(norm(conv(x)))))).

    Where resolution or channels change, the shortcut averages over the stride and projects by a 1x1 convolution with norm
    (ResNet-D, He et al. 2018, arXiv 1812.01187), as in nnU-Net's residual encoder. With SE-Norm both branches activate before
    they normalise and nothing follows the sum. Arguments as for PlainUnit.
    """

    def __init__(
        self,
        network: NetworkConfig,
        norm: NormFactory,
        channels_in: int,
        channels_out: int,
        kernel: Sequence[int],
        stride: Sequence[int],
    ) -> None:
        super().__init__()
        first, second = norm(channels_out), norm(channels_out)
        self.conv1 = _convolution(network, channels_in, channels_out, kernel, stride, first)
        self.norm1 = first
        self.activation1 = make_activation(network)
        self.conv2 = _convolution(network, channels_out, channels_out, kernel, (1,) * network.spatial_dims, second)
        self.norm2 = second
        self.activation2 = make_activation(network)
        self.dropout = _dropout(network)
        self.shortcut = _shortcut(network, norm, channels_in, channels_out, stride)

    def forward(self, x: Tensor) -> Tensor:
        """Map ``(B, channels_in, *spatial)`` to ``(B, channels_out, *spatial / stride)``."""
        residual = self.conv2(_normalise(self.conv1(x), self.norm1, self.activation1))
        if isinstance(self.norm2, Gate):
            y = self.norm2(self.activation2(residual)) + self.shortcut(x)
        else:
            y = self.activation2(self.norm2(residual) + self.shortcut(x))
        dropped: Tensor = self.dropout(y)
        return dropped


UNITS: dict[str, type[PlainUnit] | type[ResidualUnit]] = {"plain": PlainUnit, "residual": ResidualUnit}


def make_stage(
    network: NetworkConfig,
    norm: NormFactory | None,
    channels_in: int,
    channels_out: int,
    kernel: Sequence[int],
    stride: Sequence[int],
    units: int,
) -> nn.Sequential:
    """Return ``units`` units in a row, the first of which changes channels and resolution.

    Args:
        network: kind of unit, norm and activation, spatial rank and dropout.
        norm: makes the normalisations; None for the network's own.
        channels_in: channels of the input.
        channels_out: channels of the output.
        kernel: kernel size per axis.
        stride: stride of the first unit per axis.
        units: number of units.
    """
    unit, unity = UNITS[network.unit], (1,) * network.spatial_dims
    make = norm or partial(make_norm, network)
    channels = (channels_in, *(channels_out,) * units)
    return nn.Sequential(
        *(unit(network, make, a, b, kernel, stride if index == 0 else unity) for index, (a, b) in enumerate(pairwise(channels)))
    )


def _normalise(x: Tensor, norm: nn.Module, activation: nn.Module) -> Tensor:
    y: Tensor = norm(activation(x)) if isinstance(norm, Gate) else activation(norm(x))
    return y


def _convolution(
    network: NetworkConfig, channels_in: int, channels_out: int, kernel: Sequence[int], stride: Sequence[int], norm: nn.Module
) -> nn.Module:
    # No bias where a norm follows directly: it subtracts the mean, and with it any constant.
    return CONVOLUTIONS[network.spatial_dims](
        channels_in,
        channels_out,
        tuple(kernel),
        stride=tuple(stride),
        padding=tuple(size // 2 for size in kernel),
        bias=isinstance(norm, Gate),
    )


def _shortcut(network: NetworkConfig, norm: NormFactory, channels_in: int, channels_out: int, stride: Sequence[int]) -> nn.Module:
    path = nn.Sequential()
    strided = any(step > 1 for step in stride)
    if strided:
        path.add_module("pool", AVERAGE_POOLS[network.spatial_dims](tuple(stride)))
    if strided or channels_in != channels_out:
        last = norm(channels_out)
        unity = (1,) * network.spatial_dims
        path.add_module("conv", _convolution(network, channels_in, channels_out, unity, unity, last))
        if isinstance(last, Gate):
            path.add_module("activation", make_activation(network))
        path.add_module("norm", last)
    return path


def _dropout(network: NetworkConfig) -> nn.Module:
    return DROPOUTS[network.spatial_dims](network.dropout) if network.dropout > 0 else nn.Identity()
