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


class Blended(Gate):
    """Options of blocks that can start as the identity."""

    identity_start: bool = Field(
        False, description="Blend the block in by a learned scalar that starts at 0: the network starts as if it had no block."
    )


class Excitation(Blended):
    """Options of blocks with a hidden layer."""

    reduction: PositiveInt = Field(4, description="Hidden width is max(min_hidden, channels // reduction).")
    min_hidden: PositiveInt = Field(8, description="Smallest hidden width.")


class ChannelGate(Excitation):
    """Squeeze-and-excitation over channels, cSE (Hu et al. 2018, arXiv 1709.01507)."""

    block: Literal["cse"]
    hidden: PositiveInt | None = Field(None, description="Hidden width, in place of reduction and min_hidden.")
    squeeze: Literal["avg", "max", "std", "avg+max"] = Field("avg", description="What a channel is squeezed to.")
    gate_function: Literal["sigmoid", "hard_sigmoid", "tanh", "relu", "2sigmoid"] = Field(
        "sigmoid", description="Function that turns the excitation into a gate."
    )
    bias: bool = Field(True, description="Biases in both layers of the excitation.")


class SpatialGate(Blended):
    """Spatial excitation, sSE (Roy et al. 2018, arXiv 1803.02579)."""

    block: Literal["sse"]


class ConcurrentGate(Excitation):
    """Concurrent channel and spatial excitation, scSE (Roy et al. 2018, arXiv 1803.02579 and 1808.08127)."""

    block: Literal["scse"]
    aggregation: Literal["max", "add", "multiply", "gate_multiply", "concat"] = Field(
        "max",
        description="How both parts meet: `max` of both outputs (TMI 2019), `add` (MICCAI 2018), `multiply` the outputs, "
        "`gate_multiply` the gates, or `concat` with a 1x1 projection.",
    )


class ProjectExcite(Excitation):
    """Project & Excite (Rickmann et al. 2019, arXiv 1906.04649)."""

    block: Literal["pe"]


class EfficientChannelGate(Blended):
    """Efficient channel attention, ECA (Wang et al. 2020, arXiv 1910.03151)."""

    block: Literal["eca"]
    kernel: PositiveInt | None = Field(None, description="Odd kernel length along the channels. Default: from their number.")


class ConvolutionalGate(Excitation):
    """Convolutional block attention module, CBAM (Woo et al. 2018, arXiv 1807.06521)."""

    block: Literal["cbam"]
    kernel: PositiveInt | None = Field(None, description="Odd kernel size of the spatial part. Default: 7 in 2D, 3 in 3D.")


class GatherExcite(Excitation):
    """Gather-excite (Hu et al. 2018, arXiv 1810.12348)."""

    block: Literal["gather_excite"]
    variant: Literal["theta-", "theta", "theta+"] = Field(
        "theta-", description="`theta-` averages, `theta` gathers by depthwise convolutions, `theta+` adds an excitation."
    )
    extent: NonNegativeInt = Field(0, description="Neighbourhood, a power of two; 0 is the whole map (theta- only).")


class GlobalContext(Excitation):
    """Global context (Cao et al. 2019, arXiv 1904.11492)."""

    block: Literal["global_context"]
    fusion: Literal["add", "scale"] = Field("add", description="Add the context to every voxel, or scale the channels by it.")


class SENorm(Gate):
    """Squeeze-and-excitation normalisation (Iantsen et al. 2021, arXiv 2102.10446); replaces the norms of its stages."""

    block: Literal["se_norm"]
    reduction: PositiveInt = Field(4, description="Hidden width is max(min_hidden, channels // reduction).")
    min_hidden: PositiveInt = Field(8, description="Smallest hidden width.")


class AttentionGate(Blended):
    """Attention gate with the coarse decoder features as signal (Oktay et al. 2018, arXiv 1804.03999); skip only."""

    block: Literal["attention_gate"]
    hidden: PositiveInt | None = Field(None, description="Channels in which skip and signal meet. Default: half the skip's.")


class FineAttentionGate(Blended):
    """Attention gate with the upsampled decoder features as signal, as in MONAI; skip only."""

    block: Literal["fine_attention_gate"]
    hidden: PositiveInt | None = Field(None, description="Channels in which skip and signal meet. Default: half the skip's.")


class StaticGate(Blended):
    """Control: one learned weight per channel, the same for every image."""

    block: Literal["static"]


class NoSqueeze(Excitation):
    """Control: the layers of cse at every voxel, without pooling."""

    block: Literal["no_squeeze"]


class ShuffledGate(Excitation):
    """Control: while training, each case is weighed by the gates of another; at inference by the mean gate."""

    block: Literal["shuffled"]


class MeanGate(Excitation):
    """Control: trained as cse, at inference every image gets the mean gate of training."""

    block: Literal["mean"]


AnyGate = Annotated[
    ChannelGate
    | SpatialGate
    | ConcurrentGate
    | ProjectExcite
    | EfficientChannelGate
    | ConvolutionalGate
    | GatherExcite
    | GlobalContext
    | SENorm
    | AttentionGate
    | FineAttentionGate
    | StaticGate
    | NoSqueeze
    | ShuffledGate
    | MeanGate,
    Field(discriminator="block"),
]


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
