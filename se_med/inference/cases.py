"""Which cases the inputs of a prediction hold, and where the result of each goes."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from se_med.data.layouts.pairing import CHANNEL_SUFFIX
from se_med.errors import UsageError
from se_med.inference.worklist import list_inputs
from se_med.io.image2d import is_flat
from se_med.io.images import image_stem, label_suffix


@dataclass(frozen=True)
class InputCase:
    """The files of one case to segment.

    Attributes:
        name: the case's name: as a table names it, or the file name without suffix and channel number.
        files: one file per channel, or one file with all channels.
        channels: the channel number of each file; () where the names have none.
        output: path of the label file to write; its sidecar has the same stem.
    """

    name: str
    files: tuple[Path, ...]
    channels: tuple[int, ...]
    output: Path

    @property
    def sidecar(self) -> Path:
        """Path of the JSON file beside the label file."""
        return self.output.with_name(f"{self.name}.json")


def find_cases(inputs: Iterable[str | Path], output: str | Path, channels: int) -> list[InputCase]:
    """Find the cases in files, folders, patterns and tables, and where each result goes. No image is opened, nothing written.

    With several channels, files `name_0000`, `name_0001`, ... are one case; a file without such a number holds all channels.
    With one channel every file is a case, and `_0000` is dropped from the names only where all files have it. Numbers of 2D
    images are channels only where all channels of the case are there: they often count frames. A 2D image gives a PNG.

    Args:
        inputs: what `se_med.inference.worklist.list_inputs` takes.
        output: folder of the results.
        channels: number of channels of the network.

    Returns:
        The cases, sorted by name.

    Raises:
        UsageError: an input does not exist or is no image, there are none, two would have the same result, or a result would
            replace an input.
    """
    entries, folder = [Path(entry) for entry in inputs], Path(output)
    files, listed = list_inputs(entries)
    if not files and not listed:
        raise UsageError("no input given; name images, a folder of images, or a table that lists them")
    grouped: dict[str, list[tuple[int | None, Path]]] = {}
    for path, match in _numbered(files, channels).items():
        name, channel = (match["case"], int(match["channel"])) if match else (image_stem(path), None)
        grouped.setdefault(name, []).append((channel, path))
    cases = {name: _input_case(name, grouped[name], folder) for name in sorted(grouped)}
    for entry in listed:
        if entry.name in cases:
            first = cases[entry.name].files[0]
            raise UsageError(f"{entry.table}: case {entry.name!r} again, after {first}; give every case a name of its own")
        numbers = tuple(range(len(entry.files))) if len(entry.files) > 1 else ()
        result = folder / f"{entry.name}{label_suffix(entry.files[0])}"
        cases[entry.name] = InputCase(entry.name, entry.files, numbers, result)
    found = [cases[name] for name in sorted(cases)]
    _refuse_overwriting(entries, folder, found)
    return found


def take_shard(cases: Sequence[InputCase], shard: str) -> list[InputCase]:
    """Return every n-th case, for one of n commands that share the work.

    Args:
        cases: all cases, in the same order for every command.
        shard: `i/n`, with i from 1 to n.

    Raises:
        UsageError: `shard` is not of this form.
    """
    match = re.fullmatch(r"([0-9]{1,9})/([0-9]{1,9})", shard)
    number, count = (int(part) for part in match.groups()) if match else (0, 0)
    if not 1 <= number <= count:
        raise UsageError(f"shard {shard}: not of the form i/n with i from 1 to n; give 1/4, 2/4, 3/4 and 4/4 to four commands")
    return list(cases[number - 1 :: count])


def _numbered(files: list[Path], channels: int) -> dict[Path, re.Match[str] | None]:
    """Match the channel number in each name; None where there is none, or where it is part of the case's name."""
    matches = {path: CHANNEL_SUFFIX.match(image_stem(path)) for path in files}
    if channels == 1 and not all(match is not None and match["channel"] == "0000" for match in matches.values()):
        return dict.fromkeys(matches)
    numbers: dict[str, list[int]] = {}
    for path, match in matches.items():
        if match is not None and is_flat(path):
            numbers.setdefault(match["case"], []).append(int(match["channel"]))
    whole = {name for name, found in numbers.items() if sorted(found) == list(range(channels))}
    return {
        path: None if match is not None and is_flat(path) and match["case"] not in whole else match
        for path, match in matches.items()
    }


def _input_case(name: str, found: list[tuple[int | None, Path]], output: Path) -> InputCase:
    channels = sorted(channel for channel, _ in found if channel is not None)
    if len(set(channels)) != len(found) and len(found) > 1:
        named = " and ".join(str(path) for _, path in found[:3])
        remedy = "keep one, rename them, or list them in a CSV with columns case and image"
        raise UsageError(f"{named} are all case {name!r} and would have one result; {remedy}")
    files = tuple(path for _, path in sorted(found, key=lambda entry: entry[0] or 0))
    return InputCase(name, files, tuple(channels), output / f"{name}{label_suffix(files[0])}")


def _refuse_overwriting(inputs: Sequence[Path], output: Path, cases: Sequence[InputCase]) -> None:
    if output.exists() and not output.is_dir():
        raise UsageError(f"{output}: is a file; name a folder for the results")
    for entry in inputs:
        if entry.is_dir() and entry.resolve() == output.resolve():
            raise UsageError(f"{output}: is the input folder too; name another folder for the results")
    files = {os.path.realpath(path) for case in cases for path in case.files}  # where links form a circle, resolve raises
    for case in cases:
        if os.path.realpath(case.output) in files:
            raise UsageError(f"{case.output}: the result would replace this input; name another folder for the results")
