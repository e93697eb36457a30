"""From a configuration to a network with its initial weights."""

from __future__ import annotations

import torch

from se_med.config.attention import AttentionConfig
from se_med.config.network import NetworkConfig
from se_med.networks.initialise import initialise
from se_med.networks.placement import place_gates, replaced_norms, unit_seats
from se_med.networks.unet import UNet


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
        ValueError: features, strides, kernels or stem are not filled in.
    """
    # The constructors of torch's layers draw weights that are replaced right away: the caller's random state stays as it was.
    with torch.random.fork_rng(devices=[]):
        gates, norms = place_gates(attention, network, in_channels), replaced_norms(attention, network)
        unet = UNet(network, in_channels, num_classes, gates, norms, unit_seats(attention))
    initialise(unet, seed)
    return unet


def count_parameters(network: NetworkConfig, attention: AttentionConfig, in_channels: int, num_classes: int) -> int:
    """Count the learned numbers of the network that `build_network` would make, without making it.

    Raises:
        ConfigError: as for `build_network`.
    """
    with torch.device("meta"):
        gates, norms = place_gates(attention, network, in_channels), replaced_norms(attention, network)
        unet = UNet(network, in_channels, num_classes, gates, norms, unit_seats(attention))
    return sum(parameter.numel() for parameter in unet.parameters())
