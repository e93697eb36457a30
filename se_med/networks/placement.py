"""From the attention part of the configuration to gates: which site, stage and unit, how many channels."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from math import prod
from typing import Any

from se_med.attention import Gate, attention_class, create_attention
from se_med.config.attention import AnyGate, AttentionConfig, Placed, Squeezed
from se_med.config.network import NetworkConfig
from se_med.errors import ConfigError
from se_med.networks.dependence import constant_problem, is_constant, is_undone, undone_problem
from se_med.networks.layers import NormFactory
from se_med.networks.seat import Seat
from se_med.networks.unit import is_projected
from se_med.networks.units import UNITS

UNIT_SITES = ("encoder", "bottleneck", "decoder")
"""The sites made of units: gates can stand inside these, and a block of kind ``normalisation`` replaces their norms."""

GateKey = tuple[str, int] | tuple[str, int, int]
"""Site and stage of a gate, and the number of its unit where it stands inside one."""


def site_channels(features: Sequence[int]) -> dict[str, dict[int, int]]:
    """Return the channels of the map at every site and stage of a U-Net with these ``features``."""
    last = len(features) - 1
    shallow = dict(enumerate(features[:last]))
    return {
        "encoder": shallow,
        "skip": shallow,
        "bottleneck": {last: features[last]},
        "upsample": shallow,
        "concat": {stage: 2 * width for stage, width in shallow.items()},
        "decoder": shallow,
        "head": {0: features[0]},
    }


def sites_of(block: str) -> tuple[str, ...]:
    """Return the sites at which ``block`` can stand."""
    kind = attention_class(block).kind
    if kind == "skip":
        return ("skip",)
    return UNIT_SITES if kind == "normalisation" else tuple(AttentionConfig.model_fields)


def seat_of(gate: AnyGate | None) -> Seat | None:
    """Return where in its units a configured gate stands; None for one that stands after them, and for none."""
    if not isinstance(gate, Placed) or gate.placement == "stage":
        return None
    return Seat(gate.placement, gate.squeeze_from if isinstance(gate, Squeezed) else None)


def place_gates(attention: AttentionConfig, network: NetworkConfig, in_channels: int = 1) -> dict[GateKey, Gate]:
    """Make the gates that the configuration asks for; blocks that replace a norm are left to ``replaced_norms``.

    Args:
        attention: the block of each site.
        network: its features and strides must be filled in.
        in_channels: channels of the image.

    Returns:
        The gates by site and stage, those inside units by site, stage and unit.

    Raises:
        ConfigError: a block at a site or a place in a unit where it cannot stand, a stage that the site does not have, options
            that the block refuses, or a gate that would be the same for every image. All are listed.
    """
    placed: dict[GateKey, Gate] = {}
    problems: list[str] = []
    for site, channels in site_channels(network.features or ()).items():
        gate = getattr(attention, site)
        if gate is None:
            continue
        wanted = tuple(channels) if gate.stages is None else gate.stages
        seat = seat_of(gate)
        problem = _problem(site, gate.block, wanted, list(channels)) or _seat_problem(site, seat, network)
        if problem:
            problems.append(problem)
            continue
        if attention_class(gate.block).kind == "normalisation":
            continue
        try:
            for stage in wanted:
                if seat is None:
                    options = {**gate.options(), **_signal(gate.block, stage, network)}
                    placed[site, stage] = create_attention(gate.block, channels[stage], network.rank, **options)
                else:
                    for unit, block in enumerate(_unit_gates(site, stage, gate, seat, network, in_channels)):
                        placed[site, stage, unit] = block
        except ValueError as error:
            problems.append(f"attention.{site}: {error}")
    if problems:
        raise ConfigError(problems)
    return placed


def unit_seats(attention: AttentionConfig) -> dict[str, Seat]:
    """Return, by site, where in its units the gates stand; sites without such gates are left out."""
    seats = {site: seat_of(getattr(attention, site)) for site in UNIT_SITES}
    return {site: seat for site, seat in seats.items() if seat is not None}


def replaced_norms(attention: AttentionConfig, network: NetworkConfig) -> dict[tuple[str, int], NormFactory]:
    """Return, by site and stage, what makes the norms of the units where a block of kind ``normalisation`` replaces them."""
    norms: dict[tuple[str, int], NormFactory] = {}
    for site in UNIT_SITES:
        gate = getattr(attention, site)
        if gate is not None and attention_class(gate.block).kind == "normalisation":
            make = partial(create_attention, gate.block, spatial_dims=network.rank, **gate.options())
            stages = site_channels(network.features or ())[site]
            norms.update({(site, stage): make for stage in stages if gate.stages is None or stage in gate.stages})
    return norms


def per_stage(units: int | tuple[int, ...], stages: int) -> tuple[int, ...]:
    """Return the number of units of each stage, of which the configuration may give one for all."""
    return units if isinstance(units, tuple) else (units,) * stages


def stage_input(site: str, stage: int, network: NetworkConfig, in_channels: int) -> int:
    """Return the channels that enter the first unit of a stage."""
    features = network.features or ()
    if site == "decoder":
        return 2 * features[stage]
    return features[stage - 1] if stage else in_channels * prod(network.stem or ())


def _unit_gates(site: str, stage: int, gate: AnyGate, seat: Seat, network: NetworkConfig, in_channels: int) -> list[Gate]:
    features, unit = network.features or (), UNITS[network.unit]
    encoder = site != "decoder"
    count = per_stage(network.encoder_units if encoder else network.decoder_units, len(features) - (not encoder))[stage]
    out, entering = features[stage], stage_input(site, stage, network, in_channels)
    stride = (network.strides or ())[stage - 1] if encoder and stage else (1,) * network.rank
    blocks: list[Gate] = []
    for index in range(count):
        enters = out if index else entering
        width = {"pre": enters, "conv3": unit.inner_width(network, out)}.get(seat.placement, out)
        block = create_attention(gate.block, width, network.rank, **gate.options())
        projected = index == 0 and is_projected(entering, out, stride)
        if is_constant(block, seat, network, projected):
            raise ValueError(constant_problem(gate.block, block, seat, network, stage))
        if is_undone(block, seat, network, index == 0):
            raise ValueError(undone_problem(gate.block, network, stage))
        blocks.append(block)
    return blocks


def _problem(site: str, block: str, wanted: Sequence[int], stages: list[int]) -> str:
    if site not in sites_of(block):
        return f"attention.{site}.block: {block} cannot stand here; its sites are {', '.join(sites_of(block))}"
    missing = [stage for stage in wanted if stage not in stages]
    if missing:
        span = f"stage {stages[0]} only" if len(stages) == 1 else f"stages {stages[0]} to {stages[-1]}"
        return f"attention.{site}.stages: stage {missing[0]} does not exist; this site has {span}"
    return ""


def _seat_problem(site: str, seat: Seat | None, network: NetworkConfig) -> str:
    if seat is None:
        return ""
    if site not in UNIT_SITES:
        return f"attention.{site}.placement: {seat.placement} is inside a unit, of which this site has none; choose stage"
    placements = UNITS[network.unit].placements
    if seat.placement not in placements:
        having = [name for name, unit in UNITS.items() if seat.placement in unit.placements]
        return (
            f"attention.{site}.placement: {seat.placement} does not exist in units of kind {network.unit}; choose "
            f"{', '.join(('stage', *placements))}, or network.unit: {' or '.join(having)}"
        )
    maps = placements[seat.placement]
    if seat.squeeze_from is not None and seat.squeeze_from not in maps:
        choice = f"choose {' or '.join(maps)}, or leave it out" if maps else "leave it out"
        return (
            f"attention.{site}.squeeze_from: with placement {seat.placement} in units of kind {network.unit} there is no "
            f"{seat.squeeze_from}; {choice}"
        )
    return ""


def _signal(block: str, stage: int, network: NetworkConfig) -> dict[str, Any]:
    features, strides = network.features or (), network.strides or ()
    signal = attention_class(block).signal
    if signal == "coarse":
        return {"signal_channels": features[stage + 1], "stride": strides[stage]}
    return {"signal_channels": features[stage]} if signal == "fine" else {}
