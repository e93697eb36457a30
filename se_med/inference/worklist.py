"""What the inputs of a prediction name: images, folders and patterns of them, and tables with a case per line."""

from __future__ import annotations

import csv
import glob
import os
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from se_med.data.layouts.pairing import list_images
from se_med.errors import DataError, UsageError
from se_med.io.images import IMAGE_SUFFIXES, image_stem, image_suffix
from se_med.io.textfile import read_text

TABLE_SUFFIXES = (".csv", ".tsv")
"""File name endings of work lists."""
_IMAGE_COLUMN = re.compile(r"image(?:_(?P<channel>[0-9]{1,4}))?")
_PATTERN = re.compile(r"[*?\[]")


@dataclass(frozen=True)
class Listed:
    """A case of a table.

    Attributes:
        name: its name.
        files: one file per channel, or one file with all channels.
        table: the table, with the line, as in `cases.csv:3`.
    """

    name: str
    files: tuple[Path, ...]
    table: str


def list_inputs(inputs: Iterable[Path]) -> tuple[list[Path], list[Listed]]:
    """Return the images that the inputs name one by one, and the cases of their tables.

    Args:
        inputs: images; folders, of which the images are taken (not those of subfolders); patterns with `*`, `?`, `[...]` and
            `**` (all subfolders), of which the images that match are taken; tables (`read_table`).

    Raises:
        UsageError: an input does not exist, is no image, folder or table, or holds no image; a table cannot be used.
    """
    images: dict[str, Path] = {}
    listed: list[Listed] = []
    for entry in inputs:
        for path in _matches(entry):
            if path.suffix.lower() in TABLE_SUFFIXES and path.is_file():
                listed += read_table(path)
            else:
                images |= {os.path.realpath(image): image for image in _images(path)}
    return list(images.values()), listed


def read_table(path: Path) -> list[Listed]:
    """Read a work list: a table with a line per case, separated by commas, semicolons or tabs.

    Columns are `case` (its name; by default that of its file) and `image`, or `image_0`, `image_1`, ... with one file per
    channel. Files are relative to the folder of the table. Other columns are left alone.

    Raises:
        UsageError: the table cannot be read, has no image columns or no lines, or a line has no image or a name that is no
            file name.
    """
    try:
        lines = read_text(path, encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"{path}: cannot be read: {error}; save it as CSV in UTF-8") from None
    separator = max(",;\t", key=lines[0].count) if lines else ","
    reader = csv.DictReader(lines, delimiter=separator, restval="", skipinitialspace=True)
    columns = _image_columns(path, reader.fieldnames or [])
    cases = [_listed(path, reader.line_num, row, columns) for row in reader if any(filter(None, row.values()))]
    if not cases:
        raise UsageError(f"{path}: lists no case; add a line per case below the names of the columns")
    return cases


def _image_columns(path: Path, names: Iterable[str]) -> list[str]:
    found = {name: match["channel"] for name in names if (match := _IMAGE_COLUMN.fullmatch(name))}
    channels = sorted((int(channel), name) for name, channel in found.items() if channel is not None)
    if channels and [number for number, _ in channels] == list(range(len(channels))) and "image" not in found:
        return [name for _, name in channels]
    if list(found) == ["image"]:
        return ["image"]
    given = f"columns {', '.join(found)}" if found else "no column of images"
    raise UsageError(f"{path}: {given}; name the column image, or image_0, image_1, ... with one file per channel")


def _listed(path: Path, line: int, row: Mapping[str, str], columns: list[str]) -> Listed:
    where = f"{path.name}:{line}"
    cells = [row[column].strip() for column in columns]
    if not all(cells):
        raise UsageError(f"{path}:{line}: no file in column {columns[cells.index('')]}; every case needs one")
    if any("\0" in text for text in (*cells, row.get("case") or "")):
        raise UsageError(f"{path}:{line}: holds a null character, which no file name does; save the table again")
    files = tuple(path.parent / cell for cell in cells)
    name = (row.get("case") or "").strip() or image_stem(files[0])
    if name != Path(name).name or name.startswith("."):
        raise UsageError(f"{path}:{line}: case {name!r} cannot be the name of a file; leave out slashes and leading dots")
    return Listed(name, files, where)


def _matches(entry: Path) -> list[Path]:
    """Return what a pattern stands for; anything else stands for itself."""
    if entry.exists() or not _PATTERN.search(str(entry)):
        return [entry]
    found = [Path(name) for name in sorted(glob.glob(str(entry), recursive=True))]  # noqa: PTH207  (takes absolute patterns)
    matches = [path for path in found if path.is_file() and image_suffix(path)]
    if not matches:
        other = f"; {len(found)} other files and folders match" if found else ""
        raise UsageError(f"{entry}: no image matches this pattern{other}")
    return matches


def _images(entry: Path) -> list[Path]:
    if entry.is_dir():
        if (entry / "config.yaml").is_file() and (entry / "plan.json").is_file():
            raise UsageError(f"{entry}: is a run without weights (model.safetensors); finish its training, or leave it out")
        try:
            return list_images(entry)
        except DataError as error:
            raise UsageError(error.message) from None
    if not entry.exists():
        raise UsageError(f"{entry}: does not exist")
    if not image_suffix(entry):
        endings = " or ".join(IMAGE_SUFFIXES)
        raise UsageError(
            f"{entry}: not an image; name a {endings} file, a folder of them, or a {TABLE_SUFFIXES[0]} that lists them"
        )
    return [entry]
