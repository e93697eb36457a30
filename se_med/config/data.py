"""Where the cases are, what their labels mean, and how they are split and prepared."""

from __future__ import annotations

import re
from pathlib import Path, PurePosixPath
from typing import Annotated, Any, Literal, Self

from pydantic import BeforeValidator, Field, NonNegativeInt, PositiveInt, field_validator, model_validator

from se_med.config.base import Part
from se_med.config.labels import Values, refuse_labels, refuse_regions, refuse_values


def _not_a_flag(value: object) -> object:
    if isinstance(value, bool):  # True == 1: a list of flags, one per axis, would pass for a list of axes
        raise ValueError(f"{str(value).lower()} is not an axis; name the axes as 0, 1 and 2")
    return value


Axis = Annotated[Literal[0, 1, 2], BeforeValidator(_not_a_flag)]
"""A spatial axis of the prepared volume, in RAS order: 0 left-right, 1 posterior-anterior, 2 inferior-superior."""


Spacing = Annotated[float, Field(ge=1e-3, le=1e3)]
"""Length of a voxel's edge in mm, within what images may have."""


class DataConfig(Part):
    """Where the cases are, what their labels mean, and how they are split and prepared."""

    root: Path | None = Field(None, description="Folder of the data set. A relative path is relative to the file that names it.")
    layout: Literal["auto", "msd", "nnunet", "folders", "table", "bids"] = Field(
        "auto",
        description="How the folder is arranged: `msd` (dataset.json with imagesTr/labelsTr), `nnunet` (nnU-Net's raw data), "
        "`folders` (an image and a label folder with equal file names, or files named by image_files and label_files), `table` "
        "(a list of cases, see table), `bids` (segmentations as derivatives), or `auto` to detect it.",
    )
    image_files: str | Annotated[tuple[str, ...], Field(min_length=1)] | None = Field(
        None,
        description="Pattern of the image files below root, where names or folders are of another kind, e.g. `images/*.jpg`: "
        "what `*` stands for is the name of the case. A list has one pattern for each channel, e.g. `['*/t1.nii.gz', "
        "'*/t2.nii.gz']`; with several `*` what they stand for is joined, once where it is the same. Goes with label_files.",
    )
    label_files: str | None = Field(
        None,
        description="Pattern of the label files, e.g. `manual/*_mask.png`. An image and a label are a case where `*` stands for "
        "the same text; files that match this pattern are no images.",
    )
    table: Path | None = Field(
        None,
        description="Table of the cases (.csv or .tsv) with columns image (or image_<channel>, one for each channel) and label, "
        "and perhaps case, group, fold and others, which are kept as covariates. Paths in it are relative to root. Default: "
        "cases.csv or cases.tsv in root, if there is one. Its own folder is root where none is named.",
    )
    channels: tuple[str, ...] | None = Field(
        None,
        min_length=1,
        description="Names of the image channels, in order. They choose the columns image_<name> of a table and the suffixes of "
        "bids, e.g. [T1w, FLAIR]; elsewhere they only name what is there. Default: from the files or dataset.json.",
    )
    labels: dict[str, PositiveInt | Values] | None = Field(
        None,
        min_length=1,
        description="Name and value of every structure, background (0) left out. A list of values is merged into one structure, "
        "e.g. `tumour: [3, 4]`; predictions write the first of it. Default: from dataset.json, else the values found.",
    )
    regions: dict[str, PositiveInt | Values] | None = Field(
        None,
        min_length=1,
        description="In place of labels, where structures overlap: name and label values of every region, e.g. `whole_tumour: "
        "[1, 2, 3]`, `tumour_core: [1, 3]`. Each gets an output of its own (sigmoid), and scores of its own.",
    )
    region_values: dict[str, PositiveInt] | None = Field(
        None,
        description="The label value that predictions write for each region, in the order of writing: later ones overwrite "
        "earlier ones. Default: from larger to smaller regions, each with a value that no later one has.",
    )
    background_values: tuple[NonNegativeInt, ...] = Field(
        (), description="Label values that are no structure and count as background, beside 0."
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
    stratify: bool = Field(
        True,
        description="Deal the cases into folds so that each fold has its share of the cases with each structure, small and large "
        "ones alike. false shuffles them. Folds of a split file stay as they are.",
    )
    train_cases: PositiveInt | None = Field(
        None,
        description="Train on this many of the fold's training cases only. Smaller numbers are subsets of larger ones, drawn by "
        "fold_seed, group by group; the held-out cases stay the same. Default: all.",
    )
    plan: Path | None = Field(
        None,
        description="Plan (plan.json) to train by, made by `se-med plan CONFIG -o plan.json` or taken from a run folder, so that "
        "several runs share one. Default: planned from the data.",
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
    spacing: tuple[Spacing, Spacing, Spacing] | None = Field(
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

    @model_validator(mode="before")
    @classmethod
    def _table_gives_root(cls, content: Any) -> Any:
        if isinstance(content, dict) and isinstance(content.get("table"), Path) and content.get("root") is None:
            return content | {"root": content["table"].parent}
        return content

    @field_validator("image_files", "label_files")
    @classmethod
    def _is_a_pattern(cls, value: str | tuple[str, ...] | None) -> str | tuple[str, ...] | None:
        patterns = (value,) if isinstance(value, str) else value or ()
        for pattern in patterns:
            path = PurePosixPath(pattern)
            stars = [part.count("*") for part in path.parts]
            if max(stars, default=0) != 1 or any(mark in pattern for mark in "?[]\\"):
                raise ValueError(
                    f"{pattern!r} must hold `*`, which stands for the name of the case, at most once in each part of the path, "
                    "and no other wildcard"
                )
            if path.is_absolute() or ".." in path.parts:
                raise ValueError(f"{pattern!r} must be below root: neither absolute nor with `..`")
        if len(set(patterns)) != len(patterns):
            raise ValueError("the same pattern stands for two channels")
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
        if self.label_files is not None and self.label_files in (self.image_files, *(self.image_files or ())):
            raise ValueError(f"image_files: {self.label_files!r} is the pattern of the labels too")
        if self.image_files is not None and self.layout not in ("auto", "folders"):
            raise ValueError(f"image_files: layout {self.layout} finds its files itself; remove it, or set layout: folders")
        if self.table is not None and (self.layout not in ("auto", "table") or self.image_files is not None):
            other = "image_files" if self.image_files is not None else f"layout: {self.layout}"
            raise ValueError(f"table: names the files, and so does {other}; remove one of them")
        if isinstance(self.image_files, tuple) and self.channels is not None and len(self.channels) != len(self.image_files):
            raise ValueError(f"channels: {len(self.channels)} names for {len(self.image_files)} patterns in image_files")
        if self.channels is not None and len(set(self.channels)) != len(self.channels):
            raise ValueError("channels: a name occurs twice")
        if self.split is None and self.table is None and self.fold >= self.folds:
            raise ValueError(f"fold: {self.fold} does not exist with folds: {self.folds} (the first fold is 0)")
        return self

    @model_validator(mode="after")
    def _values_mean_one_thing(self) -> Self:
        if self.regions is not None and self.labels is not None:
            raise ValueError("regions: go in place of labels; give one of both")
        if self.regions is not None:
            refuse_regions(self.regions, self.region_values)
        elif self.region_values is not None:
            raise ValueError("region_values: are the values of regions; give regions too")
        elif self.labels is not None:
            refuse_labels(self.labels)
        refuse_values(self.labels or self.regions or {}, self.background_values, self.ignore_label)
        return self
