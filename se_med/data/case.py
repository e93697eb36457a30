"""What a data set is to the rest of se-med: cases with their files, declared labels and channels."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from se_med.data.structures import Structures, structures_of
from se_med.errors import DataError

Modality = Literal["ct", "mr", "other"]

_collected: ContextVar[list[str] | None] = ContextVar("collected", default=None)


@dataclass(frozen=True)
class Case:
    """One subject's image and label files.

    Attributes:
        name: the name of the case, unique in its data set; without folder, suffix and channel number.
        images: one file per channel, or one file with all channels (3D: one channel; 4D: channels on the last axis).
        label: the reference segmentation; None where there is none.
        group: the patient (or site) that the case belongs to; cases of one group stay in one fold. None: a group of its own.
        fold: the fold that holds the case out, where the data set says so for all its cases; else None.
        covariates: what else the data set says about the case, as text: age, sex, scanner.
    """

    name: str
    images: tuple[Path, ...]
    label: Path | None
    group: str | None = None
    fold: int | None = None
    covariates: Mapping[str, str] = field(default_factory=dict, hash=False)


@dataclass(frozen=True)
class Dataset:
    """All labelled cases of one folder, sorted by name.

    Attributes:
        cases: the cases, sorted by name.
        labels: name and value of each structure, background (0) left out, in class order. None: not declared, so the
            values found in the label files are the structures.
        channels: declared name of each channel; () where nothing declares them, and then `Plan.channels` has them.
        modality: what the declared channels are: "ct" or "mr" where all are, else "other".
        layout: name of the layout that was read.
        root: folder of the data set.
        ignore_label: label value of voxels without a reference; None where there is none.
        values: every label value of each structure, where that is not just the one in `labels`.
        regions: the structures are regions, which may share values.
        background_values: label values that count as background, beside 0.
    """

    cases: tuple[Case, ...]
    labels: dict[str, int] | None
    channels: tuple[str, ...]
    modality: Modality
    layout: str
    root: Path
    ignore_label: int | None = None
    values: dict[str, tuple[int, ...]] | None = None
    regions: bool = False
    background_values: tuple[int, ...] = ()

    @property
    def structures(self) -> Structures | None:
        """The declared structures; None where nothing declares them."""
        if self.values is not None:
            return Structures(self.values, self.regions)
        return None if self.labels is None else structures_of(self.labels)

    def case(self, name: str) -> Case:
        """Return the case of that name.

        Raises:
            DataError: no case has that name.
        """
        for case in self.cases:
            if case.name == name:
                return case
        raise DataError(f"{self.root}: no case is named {name!r}")


@contextmanager
def collecting() -> Iterator[list[str]]:
    """Collect what `refuse` would raise while the block runs, so that who reads a folder goes on with what is right in it.

    Yields:
        A list that fills with one line per problem.
    """
    problems: list[str] = []
    token = _collected.set(problems)
    try:
        yield problems
    finally:
        _collected.reset(token)


def refuse(where: Path, problems: Sequence[str]) -> None:
    """Raise one error that lists every problem; do nothing where there is none, or where they are being collected.

    Callers go on with what is left where problems are collected.

    Args:
        where: folder or file that the problems belong to.
        problems: one line each, naming the file or case.

    Raises:
        DataError: there is at least one problem.
    """
    collected = _collected.get()
    if collected is not None:
        collected += [f"{where}: {problem}" for problem in problems]
        return
    if len(problems) == 1:
        raise DataError(f"{where}: {problems[0]}")
    if problems:
        raise DataError(f"{where}: {len(problems)} problems\n" + "\n".join(f"  {problem}" for problem in problems))
