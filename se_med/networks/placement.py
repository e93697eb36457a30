"""From the attention part of the configuration to gates: which site, which stage, how many channels."""

from __future__ import annotations

from collections.abc import Sequence

from se_med.attention import Gate, create_attention
from se_med.config.attention import AttentionConfig
from se_med.errors import ConfigError


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


def place_gates(attention: AttentionConfig, features: Sequence[int], spatial_dims: int) -> dict[tuple[str, int], Gate]:
    """Make the gates that the configuration asks for.

    Args:
        attention: the block of each site.
        features: channels of each stage.
        spatial_dims: 2 or 3.

    Returns:
        The gates by site and stage.

    Raises:
        ConfigError: a stage that the site does not have, or a block that cannot be made for it. All are listed.
    """
    placed: dict[tuple[str, int], Gate] = {}
    problems: list[str] = []
    for site, channels in site_channels(features).items():
        gate = getattr(attention, site)
        if gate is None:
            continue
        wanted = tuple(channels) if gate.stages is None else gate.stages
        missing = [stage for stage in wanted if stage not in channels]
        if missing:
            problems.append(
                f"attention.{site}.stages: stage {missing[0]} does not exist; with {len(features)} features "
                f"this site has {_span(list(channels))}"
            )
            continue
        try:
            for stage in wanted:
                placed[site, stage] = create_attention(gate.block, channels[stage], spatial_dims, **gate.options())
        except ValueError as error:
            problems.append(f"attention.{site}: {error}")
    if problems:
        raise ConfigError(problems)
    return placed


def _span(stages: list[int]) -> str:
    return f"stage {stages[0]} only" if len(stages) == 1 else f"stages {stages[0]} to {stages[-1]}"
