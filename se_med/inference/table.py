"""`predictions.csv`: one line per case of a folder of results, whichever commands made them."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from se_med.inference.results import CaseResult, read_sidecar
from se_med.io.atomic import write_text
from se_med.io.textfile import read_text

TABLE = "predictions.csv"
_MEASURES = {"volumes_ml": "ml", "areas_pixels": "pixels", "intensity_means": "mean", "intensity_deviations": "sd"}
_COLUMNS = ("case", "status", "seconds", "file", "reason")


def write_table(folder: Path, results: Iterable[CaseResult]) -> Path:
    """Write what became of the cases: those of `results`, and those that other commands left in the folder.

    Columns are case, status (done, skipped, failed, set aside), seconds, file, reason, and for each structure its volume in
    ml (`liver_ml`) or, of 2D images, its area (`liver_pixels`); where they were asked for, also mean and standard deviation of
    the image within it (`liver_mean`, `liver_sd`; with several channels `liver_mean_0`, ...). Results are told by their
    sidecars. Failures of earlier commands, whose cases have no result since, are taken over from the table that is there.

    Args:
        folder: the folder of the results.
        results: what became of the cases of this command.

    Returns:
        The path of the table.

    Raises:
        RunError: it cannot be written.
    """
    path = folder / TABLE
    rows = {row["case"]: row for row in _earlier_failures(path)}
    for sidecar in sorted(folder.glob("*.json")):
        row = _row(sidecar)
        if row is not None:
            rows[row["case"]] = row
    for result in results:
        row = rows.get(result.name, {}) if result.status in ("done", "skipped") else {}
        told = {"case": result.name, "status": result.status, "file": result.output.name, "reason": result.message}
        rows[result.name] = row | told | ({} if result.status == "skipped" else {"seconds": f"{result.seconds:.3f}"})
    measures = sorted({column for row in rows.values() for column in row} - set(_COLUMNS))
    text = io.StringIO(newline="")
    writer = csv.DictWriter(text, [*_COLUMNS, *measures], restval="", lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows[name] for name in sorted(rows))
    write_text(path, text.getvalue())
    return path


def _row(path: Path) -> dict[str, Any] | None:
    sidecar = read_sidecar(path)
    if sidecar is None:
        return None
    label = str(sidecar.get("label", ""))
    if not label or not (path.parent / Path(label).name).is_file():
        return None
    row = {"case": path.stem, "status": "done", "seconds": sidecar.get("seconds", ""), "file": label}
    for measure, unit in _MEASURES.items():
        values = sidecar.get(measure)
        for name, value in values.items() if isinstance(values, dict) else ():
            row |= _cells(f"{name}_{unit}", value)
    return row


def _cells(column: str, value: Any) -> dict[str, Any]:
    """Return a column per channel where there are several."""
    if not isinstance(value, list):
        return {column: "" if value is None else value}
    return {column if len(value) == 1 else f"{column}_{index}": f"{one:.6g}" for index, one in enumerate(value)}


def _earlier_failures(path: Path) -> list[dict[str, str]]:
    try:
        rows = list(csv.DictReader(read_text(path).splitlines()))
    except (OSError, UnicodeDecodeError, csv.Error):
        return []
    kept = [row for row in rows if row.get("case") and row.get("status") in ("failed", "set aside")]
    return [{column: row.get(column) or "" for column in _COLUMNS} for row in kept]
