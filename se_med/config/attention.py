"""Which attention block stands at which site of the U-Net.

Three ways of writing it are accepted: ``attention: null`` (plain U-Net), ``attention: scse`` (that block in every encoder
and decoder stage) and the full form, a mapping from site to block:
``attention: {encoder: {block: cse, reduction: 8, stages: [1, 2]}, decoder: sse}``.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field, NonNegativeInt, PositiveInt, model_validator

from se_med.config.base import Part

SHORTHAND_SITES = ("encoder", "decoder")
"""The sites that ``attention: NAME`` stands for."""


class Gate(Part):
    """Options of every block: the stages it stands in."""

    stages: tuple[NonNegativeInt, ...] | None = Field(
        None, description="Stages of the site that get the block; stage 0 has the highest resolution. Default: all."
    )

    def options(self) -> dict[str, Any]:
        """Return the options that ``create_attention`` takes for this block."""
        return self.model_dump(exclude={"block", "stages"})


class ChannelGate(Gate):
    """Squeeze-and-excitation over channels, cSE (Hu et al. 2018, arXiv 1709.01507)."""

    block: Literal["cse"]
    reduction: PositiveInt = Field(4, description="Hidden width is max(min_hidden, channels // reduction).")
    min_hidden: PositiveInt = Field(8, description="Smallest hidden width.")


class SpatialGate(Gate):
    """Spatial excitation, sSE (Roy et al. 2018, arXiv 1803.02579)."""

    block: Literal["sse"]


class ConcurrentGate(Gate):
    """Concurrent channel and spatial excitation, scSE (Roy et al. 2018, arXiv 1803.02579 and 1808.08127)."""

    block: Literal["scse"]
    reduction: PositiveInt = Field(4, description="Hidden width of the channel part is max(min_hidden, channels // reduction).")
    min_hidden: PositiveInt = Field(8, description="Smallest hidden width of the channel part.")
    aggregation: Literal["max", "add"] = Field("max", description="How both parts meet: `max` (TMI 2019) or `add` (MICCAI 2018).")


AnyGate = Annotated[ChannelGate | SpatialGate | ConcurrentGate, Field(discriminator="block")]


class AttentionConfig(Part):
    """The block at each site of the U-Net; a site left out has none."""

    encoder: AnyGate | None = Field(None, description="After the units of each encoder stage; feeds both skip and next stage.")
    skip: AnyGate | None = Field(None, description="On the skip connection alone.")
    bottleneck: AnyGate | None = Field(None, description="After the units of the last stage.")
    upsample: AnyGate | None = Field(None, description="After the upsampling of each decoder stage.")
    concat: AnyGate | None = Field(None, description="After the concatenation of skip and upsampled features.")
    decoder: AnyGate | None = Field(None, description="After the units of each decoder stage.")
    head: AnyGate | None = Field(None, description="Before the last 1x1 convolution.")

    @classmethod
    def expand(cls, value: Any) -> Any:
        """Write out ``null``, a block's name, and blocks that are given by their name alone."""
        return expand_shorthand(value)

    @model_validator(mode="before")
    @classmethod
    def _written_out(cls, value: Any) -> Any:
        return cls.expand(value)


def expand_shorthand(value: Any) -> Any:
    """Turn ``null``, ``"scse"`` or ``{decoder: "sse"}`` into a mapping from site to a mapping with ``block``."""
    if value is None:
        return {}
    if isinstance(value, str):
        return {site: {"block": value} for site in SHORTHAND_SITES}
    if isinstance(value, dict):
        return {site: {"block": gate} if isinstance(gate, str) else gate for site, gate in value.items()}
    return value
