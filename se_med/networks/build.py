"""From a configuration to a network with its initial weights."""

from __future__ import annotations

import math
import os

import torch

from se_med.config.attention import AttentionConfig
from se_med.config.network import NetworkConfig
from se_med.errors import UsageError
from se_med.fused.kernels import library, memory_format
from se_med.networks.initialise import initialise
from se_med.networks.placement import place_gates, replaced_norms, unit_seats
from se_med.networks.unet import UNet

MANY = 10**8
"""Weights from which on it is worth counting them before they are made."""
VAST = 10**12
"""Weights from which on counting is not worth the time."""


def build_network(network: NetworkConfig, attention: AttentionConfig, in_channels: int, num_classes: int, seed: int) -> UNet:
    """Build a U-Net with its gates and initial weights, on the CPU in float32 and in training mode.

    Args:
        network: the configuration, with features, strides, kernels and stem filled in.
        attention: the block of each site.
        in_channels: channels of the image.
        num_classes: classes, background included.
        seed: with the name of a parameter it alone decides the parameter's initial values.

    Raises:
        ConfigError: a gate at a site, stage or place in a unit where it cannot stand, with options that its block refuses, or
            one that would be the same for every image.
        UsageError: the weights alone take more memory than the machine has.
        ValueError: features, strides, kernels or stem are not filled in.
    """
    refuse_vast(network, attention, in_channels, num_classes)
    # The constructors of torch's layers draw weights that are replaced right away: the caller's random state stays as it was.
    with torch.random.fork_rng(devices=[]):
        gates, norms = place_gates(attention, network, in_channels), replaced_norms(attention, network)
        unet = UNet(network, in_channels, num_classes, gates, norms, unit_seats(attention))
    initialise(unet, seed)
    if library() is not None:
        _lay_out_as_maps(unet, network.rank)
    return unet


def _lay_out_as_maps(unet: UNet, rank: int) -> None:
    """Put the weights of convolutions into channels-last memory, as their maps are: else they are reordered at every call."""
    for parameter in unet.parameters():
        if parameter.ndim == rank + 2:
            parameter.data = parameter.data.contiguous(memory_format=memory_format(rank))


def refuse_vast(network: NetworkConfig, attention: AttentionConfig, in_channels: int, num_classes: int) -> None:
    """Refuse what no machine can hold before it is allocated: a few letters of a configuration can ask for terabytes.

    Raises:
        UsageError: the weights alone take more memory than the machine has.
        ConfigError: as for `build_network`, where the weights are so many that they have to be counted.
    """
    features, kernels, stem = network.features or (), network.kernels or (), network.stem or ()
    widest, largest = max(features, default=1), max((math.prod(kernel) for kernel in kernels), default=1)
    blocks = math.prod(stem) * (in_channels + num_classes) * widest * largest
    guess = len(features) * widest**2 * largest + blocks  # of one unit in each stage
    if guess < MANY:
        return
    parameters = guess if guess > VAST else count_parameters(network, attention, in_channels, num_classes)
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") if hasattr(os, "sysconf") else math.inf
    if 4 * parameters > memory:
        raise UsageError(
            f"network: {parameters:.2g} weights take {4e-9 * parameters:.3g} GB, the machine has {1e-9 * memory:.3g} GB; use "
            "fewer features, or smaller kernels or a smaller stem"
        )


def count_parameters(network: NetworkConfig, attention: AttentionConfig, in_channels: int, num_classes: int) -> int:
    """Count the learned numbers of the network that `build_network` would make, without making it.

    Raises:
        ConfigError: as for `build_network`.
    """
    with torch.device("meta"):
        gates, norms = place_gates(attention, network, in_channels), replaced_norms(attention, network)
        unet = UNet(network, in_channels, num_classes, gates, norms, unit_seats(attention))
    return sum(parameter.numel() for parameter in unet.parameters())
