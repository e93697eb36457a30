"""The layers a unit is made of, chosen by name: convolutions, normalisations and activations in 2D and 3D."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from se_med.attention import Gate
from se_med.config.network import NetworkConfig
from se_med.fused.convolution import Conv2d, Conv3d

CONVOLUTIONS: dict[int, Callable[..., nn.Module]] = {2: Conv2d, 3: Conv3d}
TRANSPOSED: dict[int, Callable[..., nn.Module]] = {2: nn.ConvTranspose2d, 3: nn.ConvTranspose3d}
AVERAGE_POOLS: dict[int, Callable[..., nn.Module]] = {2: nn.AvgPool2d, 3: nn.AvgPool3d}
MAXIMUM_POOLS: dict[int, Callable[..., nn.Module]] = {2: nn.MaxPool2d, 3: nn.MaxPool3d}
DROPOUTS: dict[int, Callable[..., nn.Module]] = {2: nn.Dropout2d, 3: nn.Dropout3d}
BATCH_NORMS: dict[int, Callable[..., nn.Module]] = {2: nn.BatchNorm2d, 3: nn.BatchNorm3d}

NormFactory = Callable[[int], nn.Module]
"""What makes a normalisation for a number of channels."""

LEAKY_SLOPE = 0.01
"""Slope of the leaky ReLU on negative values, as in nnU-Net."""


class InstanceNorm(nn.GroupNorm):
    """Instance normalisation with weight and bias, in any rank: each channel of each sample on its own.

    It is computed as a group norm with one channel per group, which is the same formula. A stack of convolution, norm and
    activation trains on the CPU in up to 35 % less time than with ``torch.nn.InstanceNorm3d``, in contiguous memory; in
    channels-last memory inference takes a third less time, while training becomes slower.
    """

    def __init__(self, channels: int) -> None:
        super().__init__(channels, channels)

    def forward(self, x: Tensor) -> Tensor:
        """Normalise ``(B, C, *spatial)``."""
        # torch.group_norm is what nn.GroupNorm calls after a size check that needs another batch element.
        return torch.group_norm(x, self.num_groups, self.weight, self.bias, self.eps)


def make_norm(network: NetworkConfig, channels: int) -> nn.Module:
    """Return the network's normalisation for maps with ``channels`` channels."""
    if network.norm == "instance":
        return InstanceNorm(channels)
    if network.norm == "batch":
        return BATCH_NORMS[network.rank](channels)
    return nn.GroupNorm(norm_groups(network, channels), channels)


def norm_groups(network: NetworkConfig, channels: int) -> int:
    """Return the number of groups of norm ``group``: the largest divisor of ``channels`` up to ``norm_groups``."""
    return largest_divisor(channels, network.norm_groups)


def largest_divisor(number: int, most: int) -> int:
    """Return the largest divisor of ``number`` that is not above ``most``."""
    return max(divisor for divisor in range(1, min(most, number) + 1) if number % divisor == 0)


def make_activation(network: NetworkConfig, inplace: bool = True) -> nn.Module:
    """Return a new activation of the network's kind, working in place where torch can and ``inplace`` allows it."""
    if network.activation == "leaky_relu":
        return nn.LeakyReLU(LEAKY_SLOPE, inplace=inplace)
    if network.activation == "relu":
        return nn.ReLU(inplace=inplace)
    return nn.ELU(inplace=inplace) if network.activation == "elu" else nn.GELU()


def make_convolution(
    network: NetworkConfig,
    channels_in: int,
    channels_out: int,
    kernel: Sequence[int],
    stride: Sequence[int],
    norm: nn.Module,
    groups: int = 1,
) -> nn.Module:
    """Return a padded convolution, without bias where ``norm`` is a plain normalisation: it subtracts any constant again."""
    return CONVOLUTIONS[network.rank](
        channels_in,
        channels_out,
        tuple(kernel),
        stride=tuple(stride),
        padding=tuple(size // 2 for size in kernel),
        groups=groups,
        bias=isinstance(norm, Gate),
    )


def make_dropout(network: NetworkConfig) -> nn.Module:
    """Return the dropout of whole channels that ends every unit."""
    return DROPOUTS[network.rank](network.dropout) if network.dropout > 0 else nn.Identity()
