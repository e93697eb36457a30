"""Where the cases are, what their labels mean, and how they are split and prepared."""

from __future__ import annotations

import re
from pathlib import Path, PurePosixPath
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
        "folder with equal file names, or files named by image_files and label_files), or `auto` to detect it.",
    )
    image_files: str | None = Field(
        None,
        description="Pattern of the image files below root, where names or folders are of another kind, e.g. `images/*.jpg`: "
        "what `*` stands for is the name of the case. Goes with label_files.",
    )
    label_files: str | None = Field(
        None,
        description="Pattern of the label files, e.g. `manual/*_mask.png`. An image and a label are a case where `*` stands for "
        "the same text; files that match this pattern are no images.",
    )
    labels: dict[str, PositiveInt] | None = Field(
        None,
        min_length=1,
        description="Name and value of every structure, background (0) left out. Default: from dataset.json, else the values "
        "found.",
    )
    ignore_label: PositiveInt | None = Field(
        None,
        description="Label value of voxels that have no reference. It is no structure: such voxels enter no loss, no choice of "
        "patches and no score.",
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
    selection: float | None = Field(
        None,
        gt=0,
        lt=1,
        description="Share of the training cases, by whole groups, that is set aside: validations during training score these, "
        "and the fold's held-out cases are scored once, at the end. A split file may list them as `selection` instead. Default: "
        "none are set aside, and every validation scores the held-out cases.",
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
    empty_slices: float | None = Field(
        None,
        ge=0,
        le=1,
        description="2D networks on volumes only: share of slices without any structure among the patches that are not centred "
        "on one (see training.foreground). 0 takes only slices that show a structure. Default: slices as they come.",
    )
    cache: Path | None = Field(None, description="Folder of the prepared volumes. Default: the user's cache folder.")

    @field_validator("image_files", "label_files")
    @classmethod
    def _is_a_pattern(cls, value: str | None) -> str | None:
        if value is not None:
            path = PurePosixPath(value)
            if value.count("*") != 1 or any(mark in value for mark in "?[]\\"):
                raise ValueError(f"{value!r} must hold one `*`, which stands for the name of the case, and no other wildcard")
            if path.is_absolute() or ".." in path.parts:
                raise ValueError(f"{value!r} must be below root: neither absolute nor with `..`")
        return value

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
        if (self.image_files is None) != (self.label_files is None):
            raise ValueError("image_files: goes together with label_files; give both or none")
        if self.image_files is not None and self.image_files == self.label_files:
            raise ValueError(f"image_files: {self.image_files!r} is the pattern of the labels too")
        if self.image_files is not None and self.layout == "msd":
            raise ValueError("image_files: the files of layout msd are named in dataset.json; remove it, or set layout: folders")
        if self.split is None and self.fold >= self.folds:
            raise ValueError(f"fold: {self.fold} does not exist with folds: {self.folds} (the first fold is 0)")
        if self.labels is not None and len(set(self.labels.values())) != len(self.labels):
            raise ValueError("labels: two labels have the same value")
        if self.labels is not None and self.ignore_label in self.labels.values():
            name = next(name for name, value in self.labels.items() if value == self.ignore_label)
            raise ValueError(f"ignore_label: {self.ignore_label} is the value of structure {name}; remove one of them")
        return self
