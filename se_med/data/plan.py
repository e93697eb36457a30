"""The plan: every setting that depends on the data set, decided once and used by training and inference alike."""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import Field, PositiveInt, model_validator

from se_med.config.base import Part
from se_med.config.data import Spacing
from se_med.data.structures import Structures, structures_of

LabelValue = Annotated[int, Field(ge=1, lt=2**63)]
"""Value of a structure in label maps."""


class Normalisation(Part):
    """How the intensities of one channel are scaled.

    `zscore`: (x - mean) / std of the volume itself. `ct`: x clipped to `clip`, then (x - mean) / std of the data set's
    foreground.
    """

    method: Literal["zscore", "ct"] = Field(description="Per volume, or by the data set's foreground.")
    clip: tuple[float, float] | None = Field(None, description="Lowest and highest intensity kept (ct).")
    mean: float | None = Field(None, description="Foreground mean of the data set (ct).")
    std: float | None = Field(None, description="Foreground standard deviation of the data set (ct).")

    @model_validator(mode="after")
    def _whole(self) -> Self:
        if self.method == "ct" and (self.clip is None or self.mean is None or self.std is None):
            raise ValueError("ct needs clip, mean and std")
        return self


class Estimate(Part):
    """What a run by this plan takes, on the machine that planned it. Nothing depends on it."""

    device: str = Field(description="Processor or GPU that was planned for, and its threads.")
    memory_mb: float = Field(description="Largest memory of the training process, or of its GPU, in MB (10^6 bytes).")
    memory_measured: bool = Field(description="Whether the memory was measured in the trial, not estimated from the network.")
    cache_mb: float = Field(description="Prepared cases on disk in MB.")
    minutes: float | None = Field(None, description="Budget of the run in minutes; null where its steps are set.")
    seconds_per_step: float | None = Field(None, description="Time of one step in the trial; null without a trial.")
    steps: int | None = Field(None, description="Steps that fit into the minutes, or that are set; null where not known.")


class Plan(Part):
    """Every setting that depends on the data set. Stored as `plan.json`; inference needs this and the weights."""

    version: Literal[1] = Field(1, description="Version of this file's format.")
    spatial_dims: Literal[2, 3] = Field(description="Rank of the network.")
    slice_axis: Literal[0, 1, 2] | None = Field(description="Axis (RAS) across which a 2D network takes slices; null in 3D.")
    channels: tuple[str, ...] = Field(description="Name of each input channel.")
    labels: dict[str, LabelValue] = Field(
        description="Name of each structure and the value that predictions write for it, in the order of the network's outputs."
    )
    spacing: tuple[Spacing, Spacing, Spacing] = Field(description="Spacing in mm (RAS) of the prepared volumes.")
    normalisation: tuple[Normalisation, ...] = Field(description="One entry per channel.")
    patch: tuple[PositiveInt, ...] = Field(description="Patch and window size in voxels, per axis of the network.")
    batch_size: PositiveInt = Field(description="Patches per step.")
    features: tuple[int, ...] = Field(description="Channels of each stage.")
    strides: tuple[tuple[int, ...], ...] = Field(description="Downsampling between stages, per axis.")
    kernels: tuple[tuple[int, ...], ...] = Field(description="Kernel size of each stage, per axis.")
    stem: tuple[int, ...] = Field(description="Space-to-depth factor per axis; all 1 is no stem.")
    flip_axes: tuple[int, ...] = Field(description="Axes (RAS) that may be flipped.")
    class_weights: tuple[float, ...] | None = Field(
        None, description="Weight of each class in the loss, background first; null weighs all alike."
    )
    flat: bool = Field(False, description="Planned from 2D images, whose spacing is one pixel.")
    ignore_label: int | None = Field(None, description="Label value of voxels without a reference; null where there are none.")
    values: dict[str, tuple[int, ...]] | None = Field(
        None, description="Every label value of each structure, where that is not just the one in `labels`, which comes first."
    )
    regions: bool = Field(
        False, description="The structures are regions, which may share values: one sigmoid output each, none for the background."
    )
    background_values: tuple[int, ...] = Field((), description="Label values that count as background, beside 0.")
    median_shape: tuple[int, int, int] = Field(description="Median shape at the planned spacing, in voxels.")
    cases: int = Field(description="Number of cases the plan was made from.")
    reasons: dict[str, str] = Field(default_factory=dict, description="Why each setting is what it is, one line each.")
    estimate: Estimate | None = Field(None, description="What a run takes; null where it was not asked for.")

    @model_validator(mode="after")
    def _fits_together(self) -> Self:
        if (self.slice_axis is None) != (self.spatial_dims == 3):
            raise ValueError(f"slice_axis {self.slice_axis} does not go with spatial_dims {self.spatial_dims}")
        if len(self.patch) != self.spatial_dims:
            raise ValueError(f"patch has {len(self.patch)} values, spatial_dims is {self.spatial_dims}")
        if len(self.normalisation) != len(self.channels):
            raise ValueError(f"{len(self.normalisation)} normalisations for {len(self.channels)} channels")
        return self

    @property
    def num_classes(self) -> int:
        """Number of network outputs: the structures and the background, or the regions alone."""
        return len(self.labels) + (not self.regions)

    @property
    def structures(self) -> Structures:
        """The structures with all their label values."""
        return structures_of(self.labels) if self.values is None else Structures(self.values, self.regions)

    @property
    def label_values(self) -> tuple[int, ...]:
        """The label value that predictions write for each class of prepared labels, background first."""
        return (0, *(group[0] for group in self.structures.classes))
