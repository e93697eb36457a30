"""What a data set is to the rest of se-med: cases with their files, declared labels and channels."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from se_med.errors import DataError

Modality = Literal["ct", "mr", "other"]


@dataclass(frozen=True)
class Case:
    """One subject's image and label files.

    Attributes:
        name: the name of the case, unique in its data set; without folder, suffix and channel number.
        images: one file per channel, or one file with all channels (3D: one channel; 4D: channels on the last axis).
        label: the reference segmentation; None where there is none.
        group: the patient (or site) that the case belongs to; cases of one group stay in one fold. None: a group of its own.
    """

    name: str
    images: tuple[Path, ...]
    label: Path | None
    group: str | None = None


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
    """

    cases: tuple[Case, ...]
    labels: dict[str, int] | None
    channels: tuple[str, ...]
    modality: Modality
    layout: str
    root: Path
    ignore_label: int | None = None

    def case(self, name: str) -> Case:
        """Return the case of that name.

        Raises:
            DataError: no case has that name.
        """
        for case in self.cases:
            if case.name == name:
                return case
        raise DataError(f"{self.root}: no case is named {name!r}")


def refuse(where: Path, problems: Sequence[str]) -> None:
    """Raise one error that lists every problem; do nothing where there is none.

    Args:
        where: folder or file that the problems belong to.
        problems: one line each, naming the file or case.

    Raises:
        DataError: there is at least one problem.
    """
    if len(problems) == 1:
        raise DataError(f"{where}: {problems[0]}")
    if problems:
        raise DataError(f"{where}: {len(problems)} problems\n" + "\n".join(f"  {problem}" for problem in problems))
