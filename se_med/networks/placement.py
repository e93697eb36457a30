"""From the attention part of the configuration to gates: which site, which stage, how many channels."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

from se_med.attention import Gate, attention_class, create_attention
from se_med.config.attention import AttentionConfig
from se_med.config.network import NetworkConfig
from se_med.errors import ConfigError
from se_med.networks.layers import NormFactory

NORM_SITES = ("encoder", "bottleneck", "decoder")
"""The sites made of units, at which a block of kind ``normalisation`` replaces the norms."""


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
    return NORM_SITES if kind == "normalisation" else tuple(AttentionConfig.model_fields)


def place_gates(attention: AttentionConfig, network: NetworkConfig) -> dict[tuple[str, int], Gate]:
    """Make the gates that the configuration asks for; blocks that replace a norm are left to ``replaced_norms``.

    Args:
        attention: the block of each site.
        network: its features and strides must be filled in.

    Returns:
        The gates by site and stage.

    Raises:
        ConfigError: a block at a site where it cannot stand, a stage that the site does not have, or options that the block
            refuses. All are listed.
    """
    placed: dict[tuple[str, int], Gate] = {}
    problems: list[str] = []
    for site, channels in site_channels(network.features or ()).items():
        gate = getattr(attention, site)
        if gate is None:
            continue
        wanted = tuple(channels) if gate.stages is None else gate.stages
        problem = _problem(site, gate.block, wanted, list(channels))
        if problem:
            problems.append(problem)
            continue
        if attention_class(gate.block).kind == "normalisation":
            continue
        try:
            for stage in wanted:
                options = {**gate.options(), **_signal(gate.block, stage, network)}
                placed[site, stage] = create_attention(gate.block, channels[stage], network.spatial_dims, **options)
        except ValueError as error:
            problems.append(f"attention.{site}: {error}")
    if problems:
        raise ConfigError(problems)
    return placed


def replaced_norms(attention: AttentionConfig, network: NetworkConfig) -> dict[tuple[str, int], NormFactory]:
    """Return, by site and stage, what makes the norms of the units where a block of kind ``normalisation`` replaces them."""
    norms: dict[tuple[str, int], NormFactory] = {}
    for site in NORM_SITES:
        gate = getattr(attention, site)
        if gate is not None and attention_class(gate.block).kind == "normalisation":
            make = partial(create_attention, gate.block, spatial_dims=network.spatial_dims, **gate.options())
            stages = site_channels(network.features or ())[site]
            norms.update({(site, stage): make for stage in stages if gate.stages is None or stage in gate.stages})
    return norms


def _problem(site: str, block: str, wanted: Sequence[int], stages: list[int]) -> str:
    if site not in sites_of(block):
        return f"attention.{site}.block: {block} cannot stand here; its sites are {', '.join(sites_of(block))}"
    missing = [stage for stage in wanted if stage not in stages]
    if missing:
        span = f"stage {stages[0]} only" if len(stages) == 1 else f"stages {stages[0]} to {stages[-1]}"
        return f"attention.{site}.stages: stage {missing[0]} does not exist; this site has {span}"
    return ""


def _signal(block: str, stage: int, network: NetworkConfig) -> dict[str, Any]:
    features, strides = network.features or (), network.strides or ()
    signal = attention_class(block).signal
    if signal == "coarse":
        return {"signal_channels": features[stage + 1], "stride": strides[stage]}
    return {"signal_channels": features[stage]} if signal == "fine" else {}
