"""What a layout is: how it is recognised and how its cases are read."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from se_med.config.data import DataConfig
from se_med.data.case import Case
from se_med.data.layouts.description import Description


@dataclass(frozen=True)
class Source:
    """Where a data set is looked for, and what is said about it.

    Attributes:
        root: the folder.
        description: what its `dataset.json` says.
        data: what the user says.
    """

    root: Path
    description: Description
    data: DataConfig


@dataclass(frozen=True)
class Found:
    """What a layout found: the labelled cases, in any order, and the names of the channels where files or columns have them."""

    cases: list[Case]
    channels: tuple[str, ...] = ()


@dataclass(frozen=True)
class Layout:
    """One way in which folders hold a data set.

    Attributes:
        name: what `data.layout` calls it.
        looks_for: what the folder must hold, for messages.
        detect: tells from names alone whether a folder has this layout.
        read: finds the labelled cases; raises DataError listing every problem.
    """

    name: str
    looks_for: str
    detect: Callable[[Source], bool]
    read: Callable[[Source], Found]
