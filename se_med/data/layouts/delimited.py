"""Reads delimited text tables (.csv, .tsv) strictly: a header, rows of its length, nothing guessed."""

from __future__ import annotations

import csv
import io
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

from se_med.data.case import refuse
from se_med.errors import DataError
from se_med.io.textfile import read_text

MAX_BYTES = 50_000_000
SUFFIXES = (".csv", ".tsv")


@dataclass(frozen=True)
class Table:
    """A table of text.

    Attributes:
        path: the file, for messages.
        columns: names of the columns, in order.
        rows: number of the line and text by column of each row; blanks around the text are taken off.
    """

    path: Path
    columns: tuple[str, ...]
    rows: tuple[tuple[int, dict[str, str]], ...]


def read_table(path: Path) -> Table:
    """Read a table: `.tsv` is separated by tabs, `.csv` by commas, or by semicolons where its header has these alone.

    Raises:
        DataError: no such file, no text, too large, no header, a column twice, or rows of another length; all of them are listed.
    """
    if path.suffix.lower() not in SUFFIXES:
        raise DataError(f"{path}: is no table; name it {' or '.join(SUFFIXES)}")
    try:
        text = read_text(path, MAX_BYTES, "utf-8-sig")
    except FileNotFoundError:
        raise DataError(f"{path}: no such file; check data.table") from None
    except (OSError, ValueError) as error:
        raise DataError(
            f"{path}: cannot be read as text: {getattr(error, 'strerror', None) or error}; save it as UTF-8"
        ) from None
    first = text.partition("\n")[0]
    semicolons = ";" in first and "," not in first
    delimiter = "\t" if path.suffix.lower() == ".tsv" else ";" if semicolons else ","
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True)
    try:
        lines = [(reader.line_num, [field.strip() for field in fields]) for fields in reader]
    except csv.Error as error:
        raise DataError(f"{path}: line {reader.line_num}: {error}; save the table again") from None
    lines = [(number, fields) for number, fields in lines if any(fields)]
    if not lines:
        raise DataError(f"{path}: the table is empty")
    columns = tuple(lines[0][1])
    unnamed = "" in columns
    repeated = sorted(name for name, count in Counter(columns).items() if count > 1)
    if unnamed or repeated:
        raise DataError(f"{path}: " + ("a column has no name" if unnamed else f"the column {repeated[0]!r} occurs twice"))
    refuse(
        path,
        [
            f"line {number}: {len(fields)} fields, the header has {len(columns)}"
            for number, fields in lines[1:]
            if len(fields) != len(columns)
        ],
    )
    rows = [(number, dict(zip(columns, fields, strict=True))) for number, fields in lines[1:] if len(fields) == len(columns)]
    return Table(path, columns, tuple(rows))
