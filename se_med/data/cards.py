"""Cards of public data sets: what a data set is, who made it, under which terms, and where its archive is.

A card is a YAML file in `datasets/`, installed as `se_med/cards`.
"""

from __future__ import annotations

import difflib
import importlib.resources
from typing import Literal

import yaml
from pydantic import Field, HttpUrl, PositiveFloat, PositiveInt, ValidationError, field_validator

from se_med.config.base import Part
from se_med.errors import ConfigError, UsageError

_NAME = r"^[A-Za-z0-9][A-Za-z0-9._-]{0,99}$"


class Archive(Part):
    """The file to download and how to know that it is the right one."""

    urls: tuple[HttpUrl, ...] = Field(min_length=1, description="Where the archive is (http or https), best source first.")
    checksum: str = Field(
        pattern=r"^(md5:[0-9a-f]{32}|sha256:[0-9a-f]{64})$", description="Digest of the archive, `md5:...` or `sha256:...`."
    )
    folder: str = Field(pattern=_NAME, description="Top folder inside the archive that holds the data set.")
    unpacked_limit: PositiveInt = Field(description="Bytes the archive may have, packed or unpacked; more is refused.")


class Card(Part):
    """A public data set in one page."""

    name: str = Field(pattern=_NAME, description="Name on the command line, and of the folder that is made.")
    title: str = Field(description="Full name.")
    description: str = Field(description="What the images show, of whom, and who drew the labels.")
    task: str = Field(description="What is to be segmented, and what makes it hard.")
    homepage: HttpUrl = Field(description="The makers' page.")
    licence: str = Field(description="SPDX identifier of the licence.")
    licence_url: HttpUrl = Field(description="Text of the licence.")
    provider: str = Field(description="Where the images were taken.")
    citations: tuple[str, ...] = Field(min_length=1, description="Papers to cite when the data are used.")
    archive: Archive = Field(description="The file to download.")
    layout: Literal["msd", "folders"] = Field(description="How the files are arranged.")
    modality: Literal["ct", "mr", "other"] = Field(description="How intensities are to be normalised.")
    channels: tuple[str, ...] = Field(min_length=1, description="Name of each image channel.")
    labels: dict[str, PositiveInt] = Field(min_length=1, description="Name and value of every structure.")
    cases: PositiveInt = Field(description="Number of labelled cases.")
    spacing: tuple[PositiveFloat, PositiveFloat, PositiveFloat] = Field(description="Median spacing in mm.")

    @field_validator("labels")
    @classmethod
    def _distinct(cls, labels: dict[str, int]) -> dict[str, int]:
        if len(set(labels.values())) < len(labels):
            raise ValueError("two structures have the same value")
        return labels


def list_cards() -> tuple[str, ...]:
    """Names of the data sets that have a card, in alphabetical order."""
    folder = importlib.resources.files("se_med") / "cards"
    return tuple(sorted(entry.name.removesuffix(".yaml") for entry in folder.iterdir() if entry.name.endswith(".yaml")))


def read_card(name: str) -> Card:
    """Read the card of a data set.

    Raises:
        UsageError: there is no card of that name.
        ConfigError: the card has errors.
    """
    known = list_cards()
    if name not in known:
        close = difflib.get_close_matches(name, known, n=1)
        hint = f"did you mean {close[0]!r}?" if close else f"known: {', '.join(known)}"
        raise UsageError(f"data set {name!r}: no such card; {hint}")
    text = (importlib.resources.files("se_med") / "cards" / f"{name}.yaml").read_text(encoding="utf-8")
    return parse_card(text, f"{name}.yaml")


def parse_card(text: str, source: str) -> Card:
    """Check the text of a card.

    Args:
        text: YAML.
        source: file name, for messages.

    Raises:
        ConfigError: with every problem of the card.
    """
    try:
        return Card.model_validate(yaml.safe_load(text))
    except yaml.YAMLError as error:
        raise ConfigError([f"{source}: no YAML: {' '.join(str(error).split())}"]) from None
    except ValidationError as error:
        problems = [f"{source}: {'.'.join(map(str, item['loc'])) or 'card'}: {item['msg']}" for item in error.errors()]
        raise ConfigError(problems) from None
