"""What a layout is: how it is recognised and how its cases are read."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from se_med.data.case import Case
from se_med.data.layouts.description import Description


@dataclass(frozen=True)
class Layout:
    """One way in which folders hold a data set.

    Attributes:
        name: what `data.layout` calls it.
        looks_for: what the folder must hold, for messages.
        detect: tells from names alone whether a folder has this layout.
        read: returns the labelled cases, in any order and without groups; raises DataError listing every problem.
    """

    name: str
    looks_for: str
    detect: Callable[[Path, Description], bool]
    read: Callable[[Path, Description], list[Case]]
