"""Reads `dataset.json`: labels, channels and modality, as the Medical Segmentation Decathlon and nnU-Net write them.

The file comes with the data, so it is not trusted: its size, its types and every path in it are checked.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from se_med.config.labels import refuse_regions, refuse_values
from se_med.data.case import Modality
from se_med.data.structures import Structures, regions_of, structures_of
from se_med.errors import DataError
from se_med.io.images import IMAGE_SUFFIXES, image_suffix
from se_med.io.textfile import read_text

FILE_NAME = "dataset.json"
MAX_BYTES = 50_000_000
_NUMBER = re.compile(r"[0-9]{1,18}")
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

    def structures(self, ignore_label: int | None = None, background_values: Sequence[int] = ()) -> Structures | None:
        """Return the structures, sorted by value, background left out; None where not declared.

        Both `{"1": "liver"}` (Decathlon) and `{"liver": 1}` (nnU-Net) are read, and nnU-Net's regions: where an entry is a list
        of values all are regions, and `regions_class_order` has the value that predictions write for each.

        Args:
            ignore_label: value of voxels without a reference, which is no structure, whatever its name.
            background_values: values that are no structures either.

        Raises:
            DataError: the labels have no such form, repeat a name or a value, or declare `ignore` (nnU-Net's name of voxels
                without a reference) with another value.
        """
        entries = self.content.get("labels")
        if entries is None:
            return None
        if not isinstance(entries, dict) or not entries:
            raise self.error(f"labels: {entries!r} is not a mapping of names and values")
        if all(isinstance(name, str) and _NUMBER.fullmatch(key) for key, name in entries.items()):
            pairs = [(name, int(value)) for value, name in entries.items()]
        elif all(isinstance(value, int) and not isinstance(value, bool) and value >= 0 for value in entries.values()):
            pairs = list(entries.items())
        elif any(isinstance(value, list) for value in entries.values()):
            return self._regions(entries, ignore_label, background_values)
        else:
            raise self.error('labels: write {"1": "name"}, {"name": 1} or {"name": [1, 2]}, or set data.labels')
        dropped = (0, ignore_label, *background_values)
        structures = sorted(((name, value) for name, value in pairs if value not in dropped), key=lambda pair: pair[1])
        for name, value in structures:
            if name == "ignore":
                raise self.error(f"labels: {value} is 'ignore' (voxels without a reference); set data.ignore_label: {value}")
        if len({name for name, _ in structures}) != len(structures) or len({value for _, value in structures}) != len(structures):
            raise self.error("labels: a name or a value occurs twice")
        if not structures:
            raise self.error("labels: there is no structure beside the background")
        return structures_of(dict(structures))

    def _regions(self, entries: dict[str, Any], ignore_label: int | None, background_values: Sequence[int]) -> Structures:
        regions: dict[str, tuple[int, ...]] = {}
        for name, entry in entries.items():
            values = entry if isinstance(entry, list) else [entry]
            if not values or any(isinstance(value, bool) or not isinstance(value, int) or value < 0 for value in values):
                raise self.error(f"labels: {name}: {entry!r} is neither a label value nor a list of them")
            if values in ([0], [ignore_label]):
                continue
            if name == "ignore":
                raise self.error(
                    f"labels: {values[0]} is 'ignore' (voxels without a reference); set data.ignore_label: {values[0]}"
                )
            if 0 in values:
                raise self.error(f"labels: {name}: {values} has the background (0) in a region")
            regions[name] = tuple(values)
        order = self.content.get("regions_class_order")
        if not regions:
            raise self.error("labels: there is no structure beside the background")
        numbers = isinstance(order, list) and len(order) == len(regions) and all(type(value) is int for value in order)
        if order is not None and not numbers:
            raise self.error(f"regions_class_order: {order!r} must give one value for each region: {', '.join(regions)}")
        written = None if order is None else dict(zip(regions, order, strict=True))
        try:
            refuse_regions(regions, written)
            refuse_values(regions, background_values, ignore_label)
        except ValueError as error:
            raise self.error(f"{error}".replace("region_values", "regions_class_order")) from None
        return regions_of(regions, written)

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
            raise self.error(
                f"the path {entry!r} leaves the folder of the data set; list files elsewhere in a table (data.table)"
            )
        return self.path.parent / relative

    def image(self, entry: Any) -> Path:
        """Return the path of an image that the file names, made absolute.

        Raises:
            DataError: not text, no image, or it leaves the folder or does not exist.
        """
        path = self.inside(entry)
        if not image_suffix(path):
            raise self.error(f"{path.name} is not an image ({', '.join(IMAGE_SUFFIXES)})")
        if not path.is_file():
            raise self.error(f"the file {path} does not exist")
        return path

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
        content = json.loads(read_text(path, MAX_BYTES, "utf-8-sig"), object_pairs_hook=_unique)
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
