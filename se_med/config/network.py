"""The U-Net: stages, units, normalisation, stem and deep supervision. Its attention is a part of its own."""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import Field, PositiveInt, model_validator

from se_med.config.base import Part

PerAxis = tuple[PositiveInt, ...]
"""One value per spatial axis of the network: two in 2D, three in 3D."""


Units = Annotated[int, Field(gt=0, le=64)]
"""Units of one stage."""


class NetworkConfig(Part):
    """The U-Net. Stage 0 has the highest resolution; the last stage is the bottleneck."""

    spatial_dims: Literal[2, 3] | None = Field(
        None, description="3 for volumes, 2 for slices of volumes and for 2D images. Default: planned (2 for 2D images, else 3)."
    )
    unit: Literal["plain", "residual", "residual_preact", "bottleneck", "resnext", "inception"] = Field(
        "plain",
        description="What stages are stacked from: `plain`, convolution-norm-activation; `residual`, two of these with a "
        "shortcut; `residual_preact`, the same with norm and activation before each convolution; `bottleneck`, 1x1, 3x3 and 1x1 "
        "with a shortcut; `resnext`, the same with a grouped 3x3; `inception`, four parallel branches.",
    )
    groups: PositiveInt = Field(
        8, description="Groups of the 3x3 convolution of unit `resnext` (reduced to a divisor of its width)."
    )
    norm: Literal["instance", "batch", "group"] = Field("instance", description="Normalisation after every convolution.")
    norm_groups: PositiveInt = Field(8, description="Number of groups of norm `group` (reduced to a divisor of the channels).")
    activation: Literal["leaky_relu", "relu", "elu", "gelu"] = Field("leaky_relu", description="Non-linearity after every norm.")
    features: tuple[PositiveInt, ...] | None = Field(
        None, min_length=2, max_length=16, description="Channels of each stage, from high to low resolution. Default: planned."
    )
    strides: tuple[PerAxis, ...] | None = Field(
        None, description="Downsampling between stages, per axis; one entry fewer than features. Default: planned."
    )
    kernels: tuple[PerAxis, ...] | None = Field(None, description="Kernel size of each stage, per axis. Default: planned.")
    encoder_units: Units | tuple[Units, ...] = Field(
        2, description="Units per encoder stage (bottleneck included): one number, or one per stage."
    )
    decoder_units: Units | tuple[Units, ...] = Field(
        2, description="Units per decoder stage: one number, or one per stage from high to low resolution."
    )
    stem: PerAxis | None = Field(
        None,
        description="Space-to-depth stem: each block of this many voxels per axis (powers of two) becomes channels, and the head "
        "turns them back. [1, 1, 1] is no stem. Default: planned.",
    )
    deep_supervision: tuple[float, ...] | None = Field(
        None,
        description="Loss weights of the decoder stages from high to low resolution, e.g. [1, 0.5, 0.25]; null trains on the "
        "full resolution alone.",
    )
    dropout: float = Field(0.0, ge=0, lt=1, description="Probability of dropping a whole channel after each unit while training.")

    @property
    def rank(self) -> Literal[2, 3]:
        """Number of spatial axes of the network; 3 where that is still to be planned."""
        return 3 if self.spatial_dims is None else self.spatial_dims

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        dims = self.rank
        stages = len(self.features) if self.features is not None else None
        planned = self.spatial_dims is None  # then the plan checks, when it knows
        for key in ("strides", "kernels"):
            for entry in getattr(self, key) or ():
                if len(entry) != dims and not (planned and len(entry) == 2):
                    raise ValueError(f"{key}: {list(entry)} has {len(entry)} values, a {dims}D network needs {dims}")
        if self.kernels is not None and any(size % 2 == 0 for kernel in self.kernels for size in kernel):
            raise ValueError("kernels: sizes must be odd")
        if self.stem is not None:
            if len(self.stem) != dims and not (planned and len(self.stem) == 2):
                raise ValueError(f"stem: {list(self.stem)} has {len(self.stem)} values, a {dims}D network needs {dims}")
            if any(size & (size - 1) for size in self.stem):
                raise ValueError(f"stem: {list(self.stem)} has a value that is not a power of two")
        if self.unit == "inception" and min(self.features or (4,)) < 4:
            raise ValueError("features: the 4 branches of unit inception need at least 4 channels in every stage")
        if stages is not None:
            for key, expected in (
                ("strides", stages - 1),
                ("kernels", stages),
                ("encoder_units", stages),
                ("decoder_units", stages - 1),
            ):
                value = getattr(self, key)
                if isinstance(value, tuple) and len(value) != expected:
                    raise ValueError(f"{key}: {len(value)} entries, {stages} features need {expected}")
            if self.deep_supervision is not None and not 1 <= len(self.deep_supervision) <= stages - 1:
                raise ValueError(
                    f"deep_supervision: {len(self.deep_supervision)} weights, {stages} features allow 1 to {stages - 1}"
                )
        if self.deep_supervision is not None and (min(self.deep_supervision, default=0) < 0 or sum(self.deep_supervision) <= 0):
            raise ValueError("deep_supervision: weights must not be negative and must not all be 0")
        return self
