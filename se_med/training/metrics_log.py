"""The table of a run's course: one row per epoch, kept whole on disk and cut back when a run resumes."""

from __future__ import annotations

import csv
import io
from pathlib import Path

from se_med.errors import RunError
from se_med.io.atomic import write_text
from se_med.io.textfile import read_text

Row = dict[str, str | int | float]


class MetricsLog:
    """Rows of ``metrics.csv``. Columns that a row lacks stay empty.

    Args:
        path: the file; rows of an earlier part of the run are read from it.
        last_step: rows after this step are dropped, since the run goes on from there.
    """

    def __init__(self, path: Path, last_step: int) -> None:
        self.path = path
        self.rows: list[Row] = []
        if last_step > 0 and path.exists():
            try:
                rows = list(csv.DictReader(io.StringIO(read_text(path), newline="")))
                self.rows = [dict(row) for row in rows if int(row["step"]) <= last_step]
            except (OSError, ValueError, KeyError, TypeError, csv.Error) as error:
                raise RunError(f"{path}: is not the table of a run ({error}); remove it to go on without its rows") from None

    def append(self, row: Row) -> None:
        """Add a row and write the table; a row of the same step replaces the one there."""
        self.rows = [known for known in self.rows if int(known["step"]) != int(row["step"])]
        self.rows.append(row)
        columns = list(dict.fromkeys(column for known in self.rows for column in known))
        text = io.StringIO()
        writer = csv.DictWriter(text, columns, lineterminator="\n")
        writer.writeheader()
        writer.writerows(self.rows)
        write_text(self.path, text.getvalue())
