"""Which attention block stands at which site of the U-Net.

Three ways of writing it are accepted: ``attention: null`` (plain U-Net), ``attention: scse`` (that block in every encoder
and decoder stage) and the full form, a mapping from site to block:
``attention: {encoder: {block: cse, reduction: 8, stages: [1, 2]}, decoder: sse}``. A block stands after the units of its stage,
or with ``placement`` inside every one of them.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal, Self

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
        return self.model_dump(exclude={"block", "stages", "placement", "squeeze_from"})


class Blended(Gate):
    """Options of blocks that can start as the identity."""

    identity_start: bool = Field(
        False, description="Blend the block in by a learned scalar that starts at 0: the network starts as if it had no block."
    )


class Placed(Blended):
    """Options of blocks that can stand inside units."""

    placement: Literal["stage", "standard", "pre", "post", "identity", "conv3"] = Field(
        "stage",
        description="Where in the stages of encoder, bottleneck or decoder: `stage`, once, after the units; or in every unit. "
        "`standard`: in a residual unit at the end of the residual branch, in others after the last activation. Residual units: "
        "`pre` on the branch's input, `identity` on the shortcut, `post` after the sum. Units bottleneck and resnext: `conv3` "
        "after the 3x3 convolution.",
    )


class Squeezed(Placed):
    """Options of blocks that can squeeze another map than the one that they weigh."""

    squeeze_from: Literal["pre_norm", "post_norm", "post_act"] | None = Field(
        None,
        description="With a placement in the units: squeeze the output of the convolution before the weighed map, of its norm, "
        "or of its activation. Default: the weighed map itself.",
    )

    @model_validator(mode="after")
    def _inside_units(self) -> Self:
        if self.squeeze_from is not None and self.placement in ("stage", "pre", "post"):
            raise ValueError(
                f"squeeze_from: with placement {self.placement} the weighed map itself is squeezed; leave squeeze_from out, or "
                "choose placement standard, identity or conv3"
            )
        return self


class Excitation(Placed):
    """Options of blocks with a hidden layer."""

    reduction: PositiveInt = Field(4, description="Hidden width is max(min_hidden, channels // reduction).")
    min_hidden: PositiveInt = Field(8, description="Smallest hidden width.")


class ChannelGate(Excitation, Squeezed):
    """Squeeze-and-excitation over channels, cSE (Hu et al. 2018, arXiv 1709.01507)."""

    block: Literal["cse"]
    hidden: PositiveInt | None = Field(None, description="Hidden width, in place of reduction and min_hidden.")
    squeeze: Literal["avg", "max", "std", "avg+max"] = Field("avg", description="What a channel is squeezed to.")
    gate_function: Literal["sigmoid", "hard_sigmoid", "tanh", "relu", "2sigmoid"] = Field(
        "sigmoid", description="Function that turns the excitation into a gate."
    )
    bias: bool = Field(True, description="Biases in both layers of the excitation.")


class SpatialGate(Placed):
    """Spatial excitation, sSE (Roy et al. 2018, arXiv 1803.02579)."""

    block: Literal["sse"]


class ConcurrentGate(Excitation, Squeezed):
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


class EfficientChannelGate(Squeezed):
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


class StaticGate(Placed):
    """Control: one learned weight per channel, the same for every image."""

    block: Literal["static"]


class NoSqueeze(Excitation):
    """Control: the layers of cse at every voxel, without pooling."""

    block: Literal["no_squeeze"]


class ShuffledGate(Excitation, Squeezed):
    """Control: while training, each case is weighed by the gates of another; at inference by the mean gate."""

    block: Literal["shuffled"]


class MeanGate(Excitation, Squeezed):
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

    encoder: AnyGate | None = Field(None, description="In each encoder stage, see placement; feeds both skip and next stage.")
    skip: AnyGate | None = Field(None, description="On the skip connection alone.")
    bottleneck: AnyGate | None = Field(None, description="In the last stage, see placement.")
    upsample: AnyGate | None = Field(None, description="After the upsampling of each decoder stage.")
    concat: AnyGate | None = Field(None, description="After the concatenation of skip and upsampled features.")
    decoder: AnyGate | None = Field(None, description="In each decoder stage, see placement.")
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
