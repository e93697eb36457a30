"""The plan: every setting that depends on the data set, decided once and used by training and inference alike."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from se_med.config.base import Part


class Normalisation(Part):
    """How the intensities of one channel are scaled.

    `zscore`: (x - mean) / std of the volume itself. `ct`: x clipped to `clip`, then (x - mean) / std of the data set's
    foreground.
    """

    method: Literal["zscore", "ct"] = Field(description="Per volume, or by the data set's foreground.")
    clip: tuple[float, float] | None = Field(None, description="Lowest and highest intensity kept (ct).")
    mean: float | None = Field(None, description="Foreground mean of the data set (ct).")
    std: float | None = Field(None, description="Foreground standard deviation of the data set (ct).")


class Plan(Part):
    """Every setting that depends on the data set. Stored as `plan.json`; inference needs this and the weights."""

    version: Literal[1] = Field(1, description="Version of this file's format.")
    spatial_dims: Literal[2, 3] = Field(description="Rank of the network.")
    slice_axis: Literal[0, 1, 2] | None = Field(description="Axis (RAS) across which a 2D network takes slices; null in 3D.")
    channels: tuple[str, ...] = Field(description="Name of each input channel.")
    labels: dict[str, int] = Field(description="Name and value of each structure, in class order: class k + 1 is entry k.")
    spacing: tuple[float, float, float] = Field(description="Spacing in mm (RAS) of the prepared volumes.")
    normalisation: tuple[Normalisation, ...] = Field(description="One entry per channel.")
    patch: tuple[int, ...] = Field(description="Patch and window size in voxels, per axis of the network.")
    batch_size: int = Field(description="Patches per step.")
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
    median_shape: tuple[int, int, int] = Field(description="Median shape at the planned spacing, in voxels.")
    cases: int = Field(description="Number of cases the plan was made from.")
    reasons: dict[str, str] = Field(default_factory=dict, description="Why each setting is what it is, one line each.")

    @property
    def num_classes(self) -> int:
        """Number of network outputs: the structures and the background."""
        return len(self.labels) + 1

    @property
    def label_values(self) -> tuple[int, ...]:
        """The label value of each class, background first."""
        return (0, *self.labels.values())
