"""A table with a row for each case, wherever its files are.

Columns: `case` (default: the name of the image), `image`, or `image_<channel>` for one file per channel, `label`, `group`, `fold`
(from 0: the fold that holds the case out). Every other column is kept as a covariate of the case. Paths are relative to
`data.root`. A table that the user names (`data.table`) may point anywhere; `cases.csv` that came with the data only below its
own folder.
"""

from __future__ import annotations

import logging
import os
from pathlib import Path

from se_med.data.case import Case, refuse
from se_med.data.layouts.delimited import Table, read_table
from se_med.data.layouts.layout import Found, Layout, Source
from se_med.errors import DataError
from se_med.io.images import IMAGE_SUFFIXES, image_stem, image_suffix

log = logging.getLogger(__name__)

FILE_NAMES = ("cases.csv", "cases.tsv")
PREFIX = "image_"
_OWN = ("case", "image", "label", "group", "fold")


def detect(source: Source) -> bool:
    """Tell whether a table is named, or `cases.csv` or `cases.tsv` lies in the folder."""
    return _path(source) is not None


def read(source: Source) -> Found:
    """Return the cases of the table; rows without a label are left out, which is logged.

    Raises:
        DataError: the table cannot be read, lacks a column, or names files that do not exist; every problem is listed.
    """
    path = _path(source)
    if path is None:
        raise DataError(f"{source.root}: no {' or '.join(FILE_NAMES)}; name the table in data.table")
    table = read_table(path)
    columns = _image_columns(table, source.data.channels)
    if "label" not in table.columns:
        raise DataError(f"{path}: no column label; the columns are {', '.join(table.columns)}")
    root = source.root if source.data.table is not None else None
    cases: dict[str, Case] = {}
    problems: list[str] = []
    unlabelled = 0
    for number, row in table.rows:
        if not row["label"]:
            unlabelled += 1
            continue
        faults, case = _read_row(row, columns, table, root)
        if case is not None and case.name in cases:
            faults.append(f"a second case named {case.name!r}")
        problems += [f"line {number}: {fault}" for fault in faults]
        if case is not None and not faults:
            cases[case.name] = case
    problems = problems or _fold_problems(cases)
    refuse(path, problems)
    if unlabelled:
        log.warning("%s: %d of %d rows have no label and are left out", path, unlabelled, len(table.rows))
    names = tuple(name.removeprefix(PREFIX) for name in columns) if columns != ("image",) else ()
    return Found(list(cases.values()), names)


def _path(source: Source) -> Path | None:
    if source.data.table is not None:
        return source.data.table
    return next((source.root / name for name in FILE_NAMES if (source.root / name).is_file()), None)


def _image_columns(table: Table, wanted: tuple[str, ...] | None) -> tuple[str, ...]:
    """Return the columns of the channels, in order."""
    found = tuple(name for name in table.columns if name.startswith(PREFIX) and name != PREFIX)
    if "image" in table.columns and found:
        raise DataError(f"{table.path}: has a column image and {found[0]}; keep image, or one column for each channel")
    if "image" in table.columns:
        return ("image",)
    if not found:
        raise DataError(f"{table.path}: no column image or image_<channel>; the columns are {', '.join(table.columns)}")
    if wanted is None:
        return found
    missing = [name for name in wanted if f"{PREFIX}{name}" not in found]
    if missing:
        raise DataError(f"{table.path}: no column {PREFIX}{missing[0]}, which data.channels names; there are {', '.join(found)}")
    return tuple(f"{PREFIX}{name}" for name in wanted)


def _read_row(row: dict[str, str], columns: tuple[str, ...], table: Table, root: Path | None) -> tuple[list[str], Case | None]:
    """Return what is wrong with a row, and its case.

    Args:
        row: text by column.
        columns: the columns of the channels.
        table: the table.
        root: folder of relative paths, which may point anywhere; None: paths stay below the folder of the table.
    """
    faults = [f"{name} is empty" for name in columns if not row[name]]
    if faults:
        return faults, None
    files = []
    for column in (*columns, "label"):
        text = row[column]
        path = Path(os.path.normpath(text)) if "\0" not in text else None
        if path is None or (root is None and (path.is_absolute() or os.pardir in path.parts)):
            faults.append(f"{column}: the path {text!r} leaves the folder of the table; name the table in data.table to allow it")
            continue
        path = (root or table.path.parent) / path
        if not image_suffix(path):
            faults.append(f"{column}: {text!r} is not an image ({', '.join(IMAGE_SUFFIXES)})")
        elif not path.is_file():
            faults.append(f"{column}: the file {path} does not exist")
        files.append(path)
    fold = row.get("fold")
    if fold is not None and not (fold.isascii() and fold.isdecimal() and len(fold) < 5):
        faults.append(f"fold {fold!r} is not the number of a fold; they count from 0")
    if faults:
        return faults, None
    name = row.get("case") or image_stem(files[0])
    covariates = {name: text for name, text in row.items() if name not in (*_OWN, *columns) and not name.startswith(PREFIX)}
    number = None if fold is None else int(fold)
    return [], Case(name, tuple(files[:-1]), files[-1], row.get("group") or None, number, covariates)


def _fold_problems(cases: dict[str, Case]) -> list[str]:
    """Tell whether the folds are not 0, 1, ... to the last, or a group is in two of them."""
    folds = sorted({case.fold for case in cases.values() if case.fold is not None})
    if not folds:
        return []
    problems = []
    if folds != list(range(len(folds))) or len(folds) < 2:
        problems.append(
            f"column fold: the folds are {', '.join(map(str, folds))}; number them 0, 1, ... without a gap, two or more"
        )
    homes: dict[str, Case] = {}
    for case in cases.values():
        if case.group is not None and homes.setdefault(case.group, case).fold != case.fold:
            first = homes[case.group]
            problems.append(
                f"group {case.group!r}: case {first.name!r} is in fold {first.fold}, {case.name!r} in fold {case.fold}"
            )
    return problems


LAYOUT = Layout("table", "cases.csv or cases.tsv with columns image (or image_<channel>) and label", detect, read)
