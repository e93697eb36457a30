"""Means over cases, with the counts of missed, spurious, absent and missing structures beside them; tables, CSV and JSON."""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import fmean
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.table import Table

from se_med.evaluation.metrics import StructureScore
from se_med.io.atomic import write_json, write_text

SCHEMA_VERSION = 1

CONVENTIONS = {
    "dice": "2|P∩R| / (|P|+|R|); 0 where one of both is empty",
    "hd95": "mm; larger of the two directed 95th percentiles of surface distances; image diagonal where one is empty",
    "nsd": "share of both surfaces' voxels within the tolerance of the other surface; 0 where one is empty",
    "absent": "empty in prediction and reference: enters no mean",
    "mean": "mean over structures of the means over cases",
    "case_mean_dice": "mean over cases of the mean Dice over the structures of the case",
}
"""What the numbers mean; stored with every summary, because other tools have other conventions."""

CSV_COLUMNS = (
    *("case", "structure", "status", "dice", "hd95", "nsd", "volume_error_ml", "prediction_ml", "reference_ml"),
    *("max_spacing_mm", "prediction_missing"),
)


@dataclass(frozen=True)
class StructureSummary:
    """Scores of one structure over all cases.

    Attributes:
        structure: name of the structure.
        dice: mean over the counted cases; None where there is none.
        hd95: likewise, in mm; None too where surfaces were not scored.
        nsd: likewise.
        volume_error_ml: mean of prediction minus reference over the counted cases, in ml.
        counted: cases that enter the means: those where the structure is in the prediction, in the reference or in both.
        missed: counted cases in which the prediction lacks it, missing predictions included.
        spurious: counted cases in which the reference lacks it.
        absent: cases that lack it in both; not counted.
        missing: cases without any prediction.
    """

    structure: str
    dice: float | None
    hd95: float | None
    nsd: float | None
    volume_error_ml: float | None
    counted: int
    missed: int
    spurious: int
    absent: int
    missing: int


@dataclass(frozen=True)
class Summary:
    """Scores of a set of cases.

    `mean_dice`, `mean_hd95` and `mean_nsd` are means over the structures of the means over cases: each structure has the same
    weight, however many cases have it. `case_mean_dice` gives each case the same weight instead.

    Attributes:
        scores: the scores of each case and structure.
        structures: one entry per structure, in the order of the labels.
        tolerance: tolerance of the NSD in mm.
        coarse: names of the cases whose voxels are longer than the tolerance along an axis. Their NSD says little: a surface that
            is one voxel off is either all right or all wrong.
    """

    scores: tuple[StructureScore, ...]
    structures: tuple[StructureSummary, ...]
    tolerance: float
    coarse: tuple[str, ...]

    @property
    def dice(self) -> dict[str, float | None]:
        """Mean Dice of each structure."""
        return {entry.structure: entry.dice for entry in self.structures}

    @property
    def mean_dice(self) -> float | None:
        """Mean over structures of their mean Dice; None where no structure was counted."""
        return _mean([entry.dice for entry in self.structures])

    @property
    def mean_hd95(self) -> float | None:
        """Mean over structures of their mean HD95, in mm."""
        return _mean([entry.hd95 for entry in self.structures])

    @property
    def mean_nsd(self) -> float | None:
        """Mean over structures of their mean NSD."""
        return _mean([entry.nsd for entry in self.structures])

    @property
    def case_mean_dice(self) -> float | None:
        """Mean over cases of the mean Dice over the case's counted structures."""
        cases: dict[str, list[float | None]] = {}
        for score in self.scores:
            cases.setdefault(score.case, []).append(score.dice)
        return _mean([_mean(values) for values in cases.values()])

    @property
    def cases(self) -> int:
        """Number of cases."""
        return len({score.case for score in self.scores})

    @property
    def warnings(self) -> tuple[str, ...]:
        """What a reader of the numbers should know, one line each."""
        if not self.coarse or all(score.nsd is None for score in self.scores):
            return ()
        longest = max(score.max_spacing_mm for score in self.scores)
        return (
            f"the NSD tolerance of {self.tolerance:g} mm is below the voxel size (up to {longest:g} mm) of {len(self.coarse)} of "
            f"{self.cases} cases, so their NSD says little; choose a tolerance of at least one voxel",
        )

    def to_dict(self) -> dict[str, Any]:
        """Return everything as JSON-able data; `version` changes when the meaning of a key does."""
        return {
            "version": SCHEMA_VERSION,
            "cases": self.cases,
            "tolerance_mm": self.tolerance,
            "mean_dice": self.mean_dice,
            "mean_hd95": self.mean_hd95,
            "mean_nsd": self.mean_nsd,
            "case_mean_dice": self.case_mean_dice,
            "structures": [asdict(entry) for entry in self.structures],
            "scores": [_row(score) for score in self.scores],
            "coarse": list(self.coarse),
            "warnings": list(self.warnings),
            "conventions": CONVENTIONS,
        }

    def write(self, cases_csv: Path, summary_json: Path) -> None:
        """Write the scores of every case as CSV, and everything as JSON.

        Raises:
            RunError: a file cannot be written.
        """
        write_csv(cases_csv, self.scores)
        write_json(summary_json, self.to_dict())

    def table(self) -> Table:
        """Return means and counts of each structure, and their mean, as a table."""
        table = _compact(f"{self.cases} cases", "structure")
        counts = ["counted", "missed", "spurious", "absent"]
        if any(entry.missing for entry in self.structures):
            counts.append("missing")
        for name in (*_score_headers(self.tolerance), *counts):
            table.add_column(name, justify="right", no_wrap=True)
        for entry in self.structures:
            table.add_row(
                entry.structure,
                *_cells(entry.dice, entry.hd95, entry.nsd, entry.volume_error_ml),
                *(str(getattr(entry, name)) for name in counts),
                end_section=entry is self.structures[-1],
            )
        table.add_row("mean", *_cells(self.mean_dice, self.mean_hd95, self.mean_nsd, None), style="bold")
        return table

    def case_table(self) -> Table:
        """Return the scores of each case and structure as a table."""
        table = _compact("scores of each case", "case", "structure", "status")
        for name in _score_headers(self.tolerance):
            table.add_column(name, justify="right", no_wrap=True)
        for score in self.scores:
            status = "no prediction" if score.prediction_missing else "" if score.status == "present" else score.status
            error = None if score.status == "absent" else score.volume_error_ml
            table.add_row(score.case, score.structure, status, *_cells(score.dice, score.hd95, score.nsd, error))
        return table


def summarise(scores: Sequence[StructureScore], *, tolerance: float) -> Summary:
    """Make the means over cases of each structure, and count what is missed, spurious, absent and missing.

    Args:
        scores: scores of any number of cases.
        tolerance: the tolerance in mm with which their NSD was computed.
    """
    structures: dict[str, list[StructureScore]] = {}
    for score in scores:
        structures.setdefault(score.structure, []).append(score)
    coarse = dict.fromkeys(score.case for score in scores if score.max_spacing_mm > tolerance * (1 + 1e-3))
    return Summary(
        scores=tuple(scores),
        structures=tuple(_summarise_structure(name, entries) for name, entries in structures.items()),
        tolerance=tolerance,
        coarse=tuple(coarse),
    )


def write_csv(path: Path, scores: Sequence[StructureScore]) -> None:
    """Write one row per case and structure, atomically; what has no value stays empty.

    Raises:
        RunError: the file cannot be written.
    """
    text = io.StringIO()
    writer = csv.DictWriter(text, CSV_COLUMNS, lineterminator="\n")
    writer.writeheader()
    writer.writerows(_row(score) for score in scores)
    write_text(path, text.getvalue())


def _summarise_structure(name: str, scores: Sequence[StructureScore]) -> StructureSummary:
    counted = [score for score in scores if score.status != "absent"]

    def count(condition: Callable[[StructureScore], bool]) -> int:
        return sum(condition(score) for score in scores)

    return StructureSummary(
        structure=name,
        dice=_mean([score.dice for score in counted]),
        hd95=_mean([score.hd95 for score in counted]),
        nsd=_mean([score.nsd for score in counted]),
        volume_error_ml=_mean([score.volume_error_ml for score in counted]),
        counted=len(counted),
        missed=count(lambda score: score.status == "missed"),
        spurious=count(lambda score: score.status == "spurious"),
        absent=count(lambda score: score.status == "absent"),
        missing=count(lambda score: score.prediction_missing),
    )


def _mean(values: Sequence[float | None]) -> float | None:
    present = [value for value in values if value is not None]
    return fmean(present) if present else None


def _row(score: StructureScore) -> dict[str, Any]:
    return {column: getattr(score, column) for column in CSV_COLUMNS}


def _compact(title: str, *columns: str) -> Table:
    """Return a table that fits into 80 characters; where names are long they wrap, numbers never do."""
    table = Table(*columns, title=title, title_justify="left", title_style="bold", box=SIMPLE_HEAD, pad_edge=False, padding=0)
    for column in table.columns:
        column.overflow = "fold"
    return table


def _score_headers(tolerance: float) -> tuple[str, ...]:
    return "Dice", "HD95\nmm", f"NSD\n{tolerance:g} mm", "volume\nerror\nml"


def _cells(dice: float | None, hd95: float | None, nsd: float | None, volume_error: float | None) -> list[str]:
    formats = ((dice, ".4f"), (hd95, ".2f"), (nsd, ".4f"), (volume_error, "+.3f"))
    return ["-" if value is None else format(value, layout) for value, layout in formats]
