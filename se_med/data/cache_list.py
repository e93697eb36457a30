"""What a cache holds, and clearing it: never what a living process uses or writes."""

from __future__ import annotations

import re
import shutil
import time
from collections.abc import Iterable
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path

from se_med.data.cache_use import taking_away, used_entries
from se_med.data.manifest import MANIFEST, USED, read_manifest
from se_med.io.atomic import sweep_temporaries, temporary_path

_ENTRY = re.compile(r"[0-9a-f]{32}")
UNUSABLE = "(unusable)"
"""Instead of the name of a data set, where an entry is damaged or of another version; training never uses it."""


@dataclass(frozen=True)
class Entry:
    """One prepared case.

    Attributes:
        folder: where it is.
        case: name of the case when it was prepared.
        dataset: name of its data set, or `UNUSABLE`.
        size: bytes on disk.
        prepared: when it was prepared, in seconds since 1970.
        used: when it was used last.
        in_use: whether a living process uses it.
    """

    folder: Path
    case: str
    dataset: str
    size: int
    prepared: float
    used: float
    in_use: bool


@dataclass(frozen=True)
class Holding:
    """The entries of one data set, with the sums of their sizes and the extremes of their times."""

    dataset: str
    cases: int
    size: int
    prepared: float
    used: float
    in_use: int


def list_entries(folder: Path) -> list[Entry]:
    """Return the entries of a cache, by data set and case; none where there is no such folder."""
    if not folder.is_dir():
        return []
    busy = used_entries(folder)
    found = [_entry(path, busy) for path in folder.iterdir() if _ENTRY.fullmatch(path.name) and path.is_dir()]
    return sorted((entry for entry in found if entry is not None), key=lambda entry: (entry.dataset, entry.case, entry.folder))


def sum_up(entries: Iterable[Entry]) -> list[Holding]:
    """Return one line per data set."""
    groups: dict[str, list[Entry]] = {}
    for entry in entries:
        groups.setdefault(entry.dataset, []).append(entry)
    return [
        Holding(
            name,
            len(group),
            sum(entry.size for entry in group),
            min(entry.prepared for entry in group),
            max(entry.used for entry in group),
            sum(entry.in_use for entry in group),
        )
        for name, group in groups.items()
    ]


def choose_entries(entries: Iterable[Entry], dataset: str = "*", days: float = 0.0) -> list[Entry]:
    """Return the entries of the data sets that a pattern matches, which nobody has used for a number of days."""
    now = time.time()
    return [entry for entry in entries if fnmatchcase(entry.dataset, dataset) and now - entry.used >= days * 86400]


def clear_entries(folder: Path, entries: Iterable[Entry]) -> list[Entry]:
    """Remove entries, and what killed processes left half written; returns those that were removed.

    Entries that a process uses by now stay, whatever they were when they were listed.
    """
    removed, moved = [], []
    with taking_away(folder):
        busy = used_entries(folder)
        for entry in entries:
            if entry.folder.name in busy:
                continue
            away = temporary_path(entry.folder)
            try:
                entry.folder.rename(away)
            except FileNotFoundError:  # somebody else was faster
                continue
            moved.append(away)
            removed.append(entry)
    for away in moved:
        shutil.rmtree(away, ignore_errors=True)
    sweep_temporaries(folder)
    return removed


def _entry(path: Path, busy: set[str]) -> Entry | None:
    try:
        files = [file.stat() for file in path.iterdir()]
        manifest = read_manifest(path)
        prepared = (path / MANIFEST).stat().st_mtime if manifest is not None else path.stat().st_mtime
        used = (path / USED).stat().st_mtime if (path / USED).exists() else prepared
    except FileNotFoundError:  # cleared in between
        return None
    name, dataset = (path.name, UNUSABLE) if manifest is None else (manifest.name, manifest.dataset)
    return Entry(path, name, dataset, sum(file.st_size for file in files), prepared, used, path.name in busy)
