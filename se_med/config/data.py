"""Where the cases are, what their labels mean, and how they are split and prepared."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import BeforeValidator, Field, NonNegativeInt, PositiveFloat, PositiveInt, field_validator, model_validator

from se_med.config.base import Part


def _not_a_flag(value: object) -> object:
    if isinstance(value, bool):  # True == 1: a list of flags, one per axis, would pass for a list of axes
        raise ValueError(f"{str(value).lower()} is not an axis; name the axes as 0, 1 and 2")
    return value


Axis = Annotated[Literal[0, 1, 2], BeforeValidator(_not_a_flag)]
"""A spatial axis of the prepared volume, in RAS order: 0 left-right, 1 posterior-anterior, 2 inferior-superior."""


class DataConfig(Part):
    """Where the cases are, what their labels mean, and how they are split and prepared."""

    root: Path | None = Field(None, description="Folder of the data set. A relative path is relative to the file that names it.")
    layout: Literal["auto", "msd", "folders"] = Field(
        "auto",
        description="How the folder is arranged: `msd` (dataset.json with imagesTr/labelsTr), `folders` (an image and a label "
        "folder with equal file names), or `auto` to detect it.",
    )
    labels: dict[str, PositiveInt] | None = Field(
        None,
        min_length=1,
        description="Name and value of every structure, background (0) left out. Default: from dataset.json, else the values "
        "found.",
    )
    modality: Literal["auto", "ct", "mr", "other"] = Field(
        "auto",
        description="Chooses the normalisation: `ct` clips to foreground percentiles and scales by the data set, everything else "
        "is z-scored per volume and channel. `auto` reads dataset.json.",
    )
    folds: int = Field(5, ge=2, description="Number of cross-validation folds made when no split file is given.")
    fold: NonNegativeInt = Field(0, description="The fold whose cases are held out for validation.")
    fold_seed: NonNegativeInt = Field(0, description="Seed of the shuffle that makes the folds.")
    split: Path | None = Field(
        None, description="JSON file with the folds: a list of {train: [case, ...], validation: [case, ...]}."
    )
    group: str | None = Field(
        None,
        description="Regular expression whose match in the case name is the patient (or site): cases of one group stay in one "
        "fold.",
    )
    spacing: tuple[PositiveFloat, PositiveFloat, PositiveFloat] | None = Field(
        None, description="Voxel spacing in mm (RAS axes) that every volume is resampled to. Default: planned (the median)."
    )
    slice_axis: Axis | None = Field(
        None, description="2D networks only: the axis (RAS) across which slices are taken. Default: planned (largest spacing)."
    )
    cache: Path | None = Field(None, description="Folder of the prepared volumes. Default: the user's cache folder.")

    @field_validator("group")
    @classmethod
    def _group_compiles(cls, value: str | None) -> str | None:
        if value is not None:
            try:
                re.compile(value)
            except (re.error, RecursionError, OverflowError) as error:
                raise ValueError(f"{value!r} is not a regular expression: {error}") from None
        return value

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if self.split is None and self.fold >= self.folds:
            raise ValueError(f"fold: {self.fold} does not exist with folds: {self.folds} (the first fold is 0)")
        if self.labels is not None and len(set(self.labels.values())) != len(self.labels):
            raise ValueError("labels: two labels have the same value")
        return self
