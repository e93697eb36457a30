"""Reads `dataset.json`: labels, channels and modality, as the Medical Segmentation Decathlon and nnU-Net write them.

The file comes with the data, so it is not trusted: its size, its types and every path in it are checked.
"""

from __future__ import annotations

import json
import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from se_med.data.case import Modality
from se_med.errors import DataError

FILE_NAME = "dataset.json"
MAX_BYTES = 50_000_000
MR_WORDS = ("mr", "t1", "t2", "flair", "dwi", "adc", "swi", "dixon")


@dataclass(frozen=True)
class Description:
    """What `dataset.json` says; empty where there is no such file.

    Attributes:
        path: the file, for messages.
        content: the JSON object.
    """

    path: Path
    content: dict[str, Any] = field(default_factory=dict)

    def labels(self, ignore_label: int | None = None) -> dict[str, int] | None:
        """Return name and value of each structure, sorted by value, background left out; None where not declared.

        Both `{"1": "liver"}` (Decathlon) and `{"liver": 1}` (nnU-Net) are read.

        Args:
            ignore_label: value of voxels without a reference, which is no structure, whatever its name.

        Raises:
            DataError: the labels have neither form, repeat a name or a value, or declare `ignore` (nnU-Net's name of voxels
                without a reference) with another value.
        """
        entries = self.content.get("labels")
        if entries is None:
            return None
        if not isinstance(entries, dict) or not entries:
            raise self.error(f"labels: {entries!r} is not a mapping of names and values")
        if all(isinstance(name, str) and key.isdecimal() for key, name in entries.items()):
            pairs = [(name, int(value)) for value, name in entries.items()]
        elif all(isinstance(value, int) and not isinstance(value, bool) and value >= 0 for value in entries.values()):
            pairs = list(entries.items())
        else:
            raise self.error(
                'labels: write {"1": "name"} or {"name": 1}, or set data.labels; regions of several values are not read'
            )
        structures = sorted(((name, value) for name, value in pairs if value not in (0, ignore_label)), key=lambda pair: pair[1])
        for name, value in structures:
            if name == "ignore":
                raise self.error(f"labels: {value} is 'ignore' (voxels without a reference); set data.ignore_label: {value}")
        if len({name for name, _ in structures}) != len(structures) or len({value for _, value in structures}) != len(structures):
            raise self.error("labels: a name or a value occurs twice")
        if not structures:
            raise self.error("labels: there is no structure beside the background")
        return dict(structures)

    def channels(self) -> tuple[str, ...]:
        """Return the declared name of each channel, in order; () where none are declared.

        Raises:
            DataError: the channels are not text numbered 0, 1, ...
        """
        for key in ("channel_names", "modality"):
            entry = self.content.get(key)
            if isinstance(entry, str):
                return (entry,)
            if isinstance(entry, list) and entry and all(isinstance(name, str) for name in entry):
                return tuple(entry)
            if isinstance(entry, dict) and entry:
                numbers = [str(number) for number in range(len(entry))]
                if sorted(entry) != sorted(numbers) or not all(isinstance(name, str) for name in entry.values()):
                    raise self.error(f'{key}: {entry!r} must number the channels {{"0": "name", "1": "name", ...}}')
                return tuple(entry[number] for number in numbers)
            if entry:
                raise self.error(f"{key}: {entry!r} is neither a mapping, a list nor a name")
        return ()

    def inside(self, entry: Any) -> Path:
        """Return a path that the file names, made absolute.

        Args:
            entry: path relative to the folder of `dataset.json`.

        Raises:
            DataError: not text, or it leaves the folder.
        """
        if not isinstance(entry, str) or not entry.strip() or "\0" in entry:
            raise self.error(f"{entry!r} is not a path")
        # Compared as written, not resolved: a user's own symbolic link to the images is fine.
        relative = Path(os.path.normpath(entry))
        if relative.is_absolute() or os.pardir in relative.parts:
            raise self.error(f"the path {entry!r} leaves the folder of the data set")
        return self.path.parent / relative

    def error(self, message: str) -> DataError:
        """Return an error that names the file."""
        return DataError(f"{self.path}: {message}")


def read_description(root: Path) -> Description:
    """Read `dataset.json` of a folder.

    Raises:
        DataError: the file is there but is not a JSON object, is too large, or repeats a key.
    """
    path = root / FILE_NAME
    if not path.is_file():
        return Description(path)
    try:
        if path.stat().st_size > MAX_BYTES:
            raise DataError(f"{path}: larger than {MAX_BYTES // 1_000_000} MB, which no description of a data set is")
        content = json.loads(path.read_text(encoding="utf-8-sig"), object_pairs_hook=_unique)
    except (OSError, ValueError, RecursionError) as error:
        raise DataError(f"{path}: not readable as JSON: {error or type(error).__name__}") from None
    if not isinstance(content, dict):
        raise DataError(f"{path}: must hold a JSON object, not {type(content).__name__}")
    return Description(path, content)


def channel_modality(name: str) -> Modality:
    """Tell from a channel's name ("CT", "MRI", "cine-MR", "T1w", "FLAIR", ...) what it is."""
    words = "".join(letter if letter.isalnum() else " " for letter in name.lower()).split()
    if "ct" in words or "cect" in words or "ncct" in words:
        return "ct"
    return "mr" if any(word.startswith(MR_WORDS) for word in words) else "other"


def common_modality(channels: tuple[str, ...]) -> Modality:
    """Return the modality of all channels where they share one, else "other"."""
    found = {channel_modality(name) for name in channels}
    return found.pop() if len(found) == 1 else "other"


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    content = dict(pairs)
    if len(content) != len(pairs):
        names = [name for name, _ in pairs]
        repeated = sorted({name for name in names if names.count(name) > 1})
        raise ValueError(f"the key {repeated[0]!r} occurs twice")
    return content
