"""What one study file says: the arms, what they are compared by, and how the runs are spread over processes."""

from __future__ import annotations

import math
import re
from pathlib import Path
from typing import Any, Literal, Self

from pydantic import Field, NonNegativeInt, PositiveFloat, field_validator, model_validator

from se_med.config.base import Part
from se_med.config.experiment import RUN_NAME

MOST_RUNS = 10_000
"""Runs of the largest study; a sweep of a few lines asks for as many as there are atoms."""
CONTROLS = ("wider", "static", "no_squeeze", "shuffled", "mean")
"""What ``control`` may be: a wider plain network, or one of the attention blocks that are controls."""


class StudyConfig(Part):
    """A study: arms x folds x seeds, trained on one plan for one number of steps and compared with one reference."""

    name: str | None = Field(
        None, pattern=RUN_NAME, description="Name of the study and of its folder. Default: the name of the file."
    )
    base: Path = Field(description="Configuration that every arm starts from. A relative path is relative to this file.")
    settings: dict[str, Any] = Field(
        default_factory=dict,
        description="Settings laid over the base for all arms, e.g. `training: {max_minutes: 2}`; keys may be dotted.",
    )
    arms: dict[str, Any] = Field(
        default_factory=dict,
        description="Each arm by name, with the settings laid over the base, e.g. `cse: {attention: cse}`; keys may be dotted. "
        "An arm with `control: NAME, of: ARM` is the control of another arm: `wider`, a plain network widened to the arm's "
        "number of parameters, or `static`, `no_squeeze`, `shuffled`, `mean`, such a gate wherever the arm has one.",
    )
    sweep: dict[str, tuple[Any, ...]] = Field(
        default_factory=dict,
        description="Makes an arm for each value of a dotted key, and for each combination where there are several keys, e.g. "
        "`attention.decoder.reduction: [2, 4, 8, 16]`. The arms are named like `reduction-2`.",
    )
    reference: str = Field(description="Name of the arm that the others are compared with.")
    folds: tuple[NonNegativeInt, ...] = Field((0, 1), min_length=1, description="Folds to hold out, in every arm.")
    seeds: tuple[NonNegativeInt, ...] = Field(
        (0, 1), min_length=1, description="Seeds that every arm is trained with on each fold."
    )
    endpoint: Literal["mean_dice", "mean_nsd", "mean_hd95"] = Field(
        "mean_dice", description="The one score that decides, declared beforehand: the mean over the structures of a case."
    )
    margin: PositiveFloat = Field(
        0.005, description="Difference of the endpoint that would matter, declared beforehand; in mm for mean_hd95."
    )
    require_matched: bool = Field(
        False,
        description="Refuse arms whose batches, or starts of the tensors they share, differ from the reference's. Otherwise such "
        "arms are compared too, and labelled unmatched.",
    )
    budget: Literal["slowest", "reference", "each"] = Field(
        "slowest",
        description="What training.max_minutes of the base means: the time of the `slowest` arm, or of the `reference`, whose "
        "number of steps then all arms make; or of `each` arm, which then make different numbers of steps and are unmatched. "
        "Without meaning where training.steps is set.",
    )
    engine: Literal["local", "dask"] = Field("local", description="Where runs are made: processes of this machine, or Dask.")
    workers: int | None = Field(
        None,
        ge=1,
        le=1024,
        description="Runs that are made at a time. Default: as many as the cores allow with this number of threads.",
    )
    threads: int = Field(1, ge=1, le=1024, description="CPU threads of each run. Two runs of one thread beat one run of two.")
    address: str | None = Field(None, description="Address of a Dask scheduler. Default: Dask starts workers on this machine.")
    output: Path | None = Field(
        None,
        description="Folder of studies: each has a folder of its own in it, and all share the runs in its folder `runs`. "
        "Default: `studies` in the current folder.",
    )

    @field_validator("folds", "seeds")
    @classmethod
    def _distinct(cls, value: tuple[int, ...]) -> tuple[int, ...]:
        if len(set(value)) < len(value):
            raise ValueError(f"{list(value)} names one twice")
        return value

    @field_validator("arms")
    @classmethod
    def _named_like_folders(cls, value: dict[str, Any]) -> dict[str, Any]:
        for name, patch in value.items():
            if re.fullmatch(RUN_NAME, name) is None:
                raise ValueError(f"{name!r} cannot be the name of an arm; use letters, digits, '.', '_' and '-'")
            if patch is not None and not isinstance(patch, dict):
                raise ValueError(f"{name!r}: not a mapping of settings, as in {{attention: cse}}")
        return value

    @field_validator("sweep")
    @classmethod
    def _has_values(cls, value: dict[str, tuple[Any, ...]]) -> dict[str, tuple[Any, ...]]:
        for key, values in value.items():
            if not values:
                raise ValueError(f"{key}: no values; give a list, as in [2, 4, 8]")
        return value

    @model_validator(mode="after")
    def _few_enough(self) -> Self:
        swept = math.prod(len(values) for values in self.sweep.values()) if self.sweep else 0
        runs = (len(self.arms) + swept) * len(self.folds) * len(self.seeds)
        if runs > MOST_RUNS:
            raise ValueError(f"{len(self.arms) + swept} arms x folds x seeds make {runs} runs; at most {MOST_RUNS} are made")
        return self

    @model_validator(mode="after")
    def _something_to_compare(self) -> Self:
        if self.address is not None and self.engine != "dask":
            raise ValueError("address: only the engine dask has one; set engine: dask")
        if not self.arms and not self.sweep:
            raise ValueError("arms: there are none; give two at least, or a sweep")
        return self


def json_schema() -> dict[str, Any]:
    """Return the JSON Schema (draft 2020-12) of a study file: settings of arms are those of a configuration."""
    from se_med.config.schema import json_schema as schema_of_configurations

    study, config = StudyConfig.model_json_schema(), schema_of_configurations()
    settings = {key: value for key, value in config["properties"].items() if key not in ("extends", "name", "seed")}
    patch = {
        "description": "Settings laid over the base; keys may be dotted.",
        "type": ["object", "null"],
        "properties": {
            "control": {"enum": list(CONTROLS), "description": "The control that this arm is."},
            "of": {"type": "string", "description": "The arm that it is a control of."},
            **settings,
        },
        "patternProperties": {r"\.": {}},
        "additionalProperties": False,
        "dependentRequired": {"control": ["of"], "of": ["control"]},
    }
    study["properties"]["arms"]["additionalProperties"] = {"$ref": "#/$defs/Arm"}
    study["properties"]["settings"] = {
        "description": study["properties"]["settings"]["description"],
        "type": "object",
        "properties": settings,
        "patternProperties": {r"\.": {}},
        "additionalProperties": False,
    }
    return {
        "$schema": config["$schema"],
        "title": "se-med study",
        "description": study["description"],
        "type": "object",
        "properties": {"extends": config["properties"]["extends"], **study["properties"]},
        "required": study["required"],
        "additionalProperties": False,
        "$defs": {**config["$defs"], "Arm": patch},
    }
