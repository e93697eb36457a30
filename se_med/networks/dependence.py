"""Whether a gate inside a unit can depend on the image, and whether it can have an effect: both can be lost to a norm.

An instance norm gives each channel of each image the same mean and deviation, its own bias and weight. What is squeezed to a mean
or a deviation right behind it is the same number for every image, and so is the gate. A group norm with one channel per group is
the same. The other way round, such a norm right behind a gate takes a weight per channel out again.
"""

from __future__ import annotations

from se_med.attention import Gate
from se_med.attention.squeezing import SqueezingGate
from se_med.config.network import NetworkConfig
from se_med.networks.layers import norm_groups
from se_med.networks.seat import Seat
from se_med.networks.units import UNITS


def norms_channels_apart(network: NetworkConfig, channels: int) -> bool:
    """Return whether the network's norm of ``channels`` channels normalises each channel of each image on its own."""
    return network.norm == "instance" or (network.norm == "group" and norm_groups(network, channels) == channels)


def is_constant(gate: Gate, seat: Seat, network: NetworkConfig, projected: bool) -> bool:
    """Return whether the gate would be the same for every image.

    Args:
        gate: the block.
        seat: where it stands.
        network: kind of unit and norm.
        projected: whether the shortcut of the unit is a convolution with norm; matters to ``identity`` alone.
    """
    maps = UNITS[network.unit].placements[seat.placement]
    if not maps or not gate.moments_only or not norms_channels_apart(network, gate.channels):
        return False
    return (seat.squeeze_from or maps[-1]) == "post_norm" and (projected or seat.placement != "identity")


def is_undone(gate: Gate, seat: Seat, network: NetworkConfig, first: bool) -> bool:
    """Return whether a norm right behind the gate would take its weights out again.

    Args:
        gate: the block.
        seat: where it stands.
        network: kind of unit and norm.
        first: whether the unit is the first of its stage.
    """
    leads_to_norm = network.unit == "residual_preact" and seat.placement == "pre" and not first
    return leads_to_norm and gate.uniform and norms_channels_apart(network, gate.channels)


def constant_problem(block: str, gate: Gate, seat: Seat, network: NetworkConfig, stage: int) -> str:
    """Return the line that refuses a constant gate and says what to choose instead."""
    remedies = ["squeeze_from: pre_norm"] if isinstance(gate, SqueezingGate) else []
    remedies += ["squeeze: max", "placement: stage"] if block == "cse" else ["placement: stage"]
    where = "a projected shortcut" if seat.placement == "identity" else "a convolution"
    return (
        f"{block} squeezes the mean or deviation of {where} behind {_norm(network)}, which is the same for every image "
        f"(stage {stage}); choose {', '.join(remedies)} or {_other_norm(network)}"
    )


def undone_problem(block: str, network: NetworkConfig, stage: int) -> str:
    """Return the line that refuses a gate without effect and says what to choose instead."""
    return (
        f"{block} weighs whole channels right before {_norm(network)}, which takes the weights out again (stage {stage}); "
        f"choose placement: standard, placement: identity or {_other_norm(network)}"
    )


def _norm(network: NetworkConfig) -> str:
    return "an instance norm" if network.norm == "instance" else "a group norm with one channel per group"


def _other_norm(network: NetworkConfig) -> str:
    return "network.norm: batch" if network.norm == "instance" else "fewer groups (network.norm_groups)"
