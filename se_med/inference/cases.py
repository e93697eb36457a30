"""Many files through one predictor: which cases the inputs hold, where each result goes, what was done with it."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import torch

import se_med
from se_med.data.layouts.pairing import CHANNEL_SUFFIX, list_images
from se_med.errors import DataError, ImageError, RunError, SeMedError, UsageError
from se_med.inference.predictor import Predictor, Segmentation
from se_med.io.atomic import sweep_temporaries, write_json
from se_med.io.image2d import is_flat
from se_med.io.images import IMAGE_SUFFIXES, image_stem, label_suffix, write_label

SIDECAR_VERSION = 1


@dataclass(frozen=True)
class InputCase:
    """The files of one case to segment.

    Attributes:
        name: the case's name: the file name without suffix and channel number.
        files: one file per channel, or one file with all channels.
        channels: the channel number in the name of each file; () where the names have none.
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


@dataclass(frozen=True)
class CaseResult:
    """What became of one case.

    Attributes:
        name: the case's name.
        status: "done", "skipped" (its result was there already) or "failed".
        output: the label file; for a failed case, the one it would have been.
        message: why it failed, or what is odd about a skipped one; one line, empty where there is nothing to say.
        seconds: time that the case took.
        volumes: volume of each structure in ml (of a 2D image, in thousands of pixels); empty unless done.
    """

    name: str
    status: Literal["done", "skipped", "failed"]
    output: Path
    message: str = ""
    seconds: float = 0.0
    volumes: dict[str, float] = field(default_factory=dict)


def find_cases(inputs: Iterable[str | Path], output: str | Path, channels: int) -> list[InputCase]:
    """Find the cases in files and folders, and where each result goes. Nothing is opened or written.

    With several channels, files `name_0000`, `name_0001`, ... are one case; a file without such a number holds all channels.
    With one channel every file is a case, and `_0000` is dropped from the names only where all files have it. Numbers of 2D
    images are channels only where all channels of the case are there: they often count frames. A 2D image gives a PNG.

    Args:
        inputs: files, or folders whose volumes and 2D images are taken (not those of subfolders).
        output: folder of the results.
        channels: number of channels of the network.

    Returns:
        The cases, sorted by name.

    Raises:
        UsageError: an input does not exist or is no image, there are none, two would have the same result, or a result would
            replace an input.
    """
    entries, folder = [Path(entry) for entry in inputs], Path(output)
    files = {path.resolve(): path for entry in entries for path in _images(entry)}
    if not files:
        raise UsageError("no input given; name an image or a folder of images")
    grouped: dict[str, list[tuple[int | None, Path]]] = {}
    for path, match in _numbered(list(files.values()), channels).items():
        name, channel = (match["case"], int(match["channel"])) if match else (image_stem(path), None)
        grouped.setdefault(name, []).append((channel, path))
    cases = [_input_case(name, grouped[name], folder) for name in sorted(grouped)]
    _refuse_overwriting(entries, folder, cases, set(files))
    return cases


def predict_cases(predictor: Predictor, cases: Iterable[InputCase], overwrite: bool = False) -> Iterator[CaseResult]:
    """Segment cases one by one and write each result with a JSON sidecar.

    A case that fails is reported and the rest go on. Results that are there already stay as they are unless `overwrite`. Every
    file appears whole or not at all, the label file last: a case with a label file is complete.

    Args:
        predictor: the model.
        cases: what `find_cases` found for the model's number of channels.
        overwrite: segment again what has a result already.

    Yields:
        What became of each case, as soon as it is known.

    Raises:
        RunError: the folder of the results cannot be made.
    """
    cases = list(cases)
    for folder in {case.output.parent for case in cases}:
        _make_folder(folder)
    for case in cases:
        if case.output.exists() and not overwrite:
            yield CaseResult(case.name, "skipped", case.output, _difference(case.sidecar, predictor.digest))
            continue
        start = time.perf_counter()
        try:
            _check_channels(case, len(predictor.plan.channels))
            segmentation = predictor.predict(case.files)
            case.output.unlink(missing_ok=True)  # never an old label file beside a new sidecar
            write_json(case.sidecar, _sidecar(predictor, case, segmentation, time.perf_counter() - start))
            write_label(case.output, segmentation.labels, segmentation.native)
        except (SeMedError, OSError, MemoryError, torch.OutOfMemoryError) as error:
            message = str(error) or type(error).__name__
            if not isinstance(error, ImageError):  # those name their file
                message = f"{case.files[0]}: {message}"
            yield CaseResult(case.name, "failed", case.output, message, time.perf_counter() - start)
        else:
            yield CaseResult(case.name, "done", case.output, "", time.perf_counter() - start, segmentation.volumes)


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


def _images(entry: Path) -> list[Path]:
    if entry.is_dir():
        try:
            return list_images(entry)
        except DataError as error:
            raise UsageError(error.message) from None
    if not entry.exists():
        raise UsageError(f"{entry}: does not exist")
    if not entry.name.lower().endswith(IMAGE_SUFFIXES):
        raise UsageError(f"{entry}: not an image; name a {' or '.join(IMAGE_SUFFIXES)} file, or a folder of them")
    return [entry]


def _input_case(name: str, found: list[tuple[int | None, Path]], output: Path) -> InputCase:
    channels = sorted(channel for channel, _ in found if channel is not None)
    if len(set(channels)) != len(found) and len(found) > 1:
        listed = " and ".join(str(path) for _, path in found)
        raise UsageError(f"{listed} are all case {name!r} and would have one result; keep one, or rename them")
    files = tuple(path for _, path in sorted(found, key=lambda entry: entry[0] or 0))
    return InputCase(name, files, tuple(channels), output / f"{name}{label_suffix(files[0])}")


def _refuse_overwriting(inputs: Sequence[Path], output: Path, cases: Sequence[InputCase], files: set[Path]) -> None:
    if output.exists() and not output.is_dir():
        raise UsageError(f"{output}: is a file; name a folder for the results")
    for entry in inputs:
        if entry.is_dir() and entry.resolve() == output.resolve():
            raise UsageError(f"{output}: is the input folder too; name another folder for the results")
    for case in cases:
        if case.output.resolve() in files:
            raise UsageError(f"{case.output}: the result would replace this input; name another folder for the results")


def _make_folder(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise RunError(f"{folder}: cannot be made: {error.strerror}; name another folder for the results") from None
    sweep_temporaries(folder)


def _check_channels(case: InputCase, channels: int) -> None:
    # One file without a number holds all channels; preparation counts them.
    if case.channels and case.channels != tuple(range(channels)):
        raise ImageError(f"{case.files[0]}: case {case.name!r} has channel files {list(case.channels)}, the model has {channels}")


def _sidecar(predictor: Predictor, case: InputCase, segmentation: Segmentation, seconds: float) -> dict[str, Any]:
    native = segmentation.native
    if native.flat:  # the size of a pixel is not known
        counts = {name: int((segmentation.labels == value).sum()) for name, value in predictor.plan.labels.items()}
        measures: dict[str, Any] = {"areas_pixels": counts}
    else:
        measures = {"volumes_ml": {name: round(value, 6) for name, value in segmentation.volumes.items()}}
    return {
        "version": SIDECAR_VERSION,
        "se_med": se_med.__version__,
        "run": predictor.config.name,
        "model": predictor.digest,
        "input": [path.name for path in case.files],
        "input_sha256": native.digest,
        "shape": list(native.shape),
        "spacing_mm": None if native.flat else [round(value, 6) for value in native.spacing],
        "labels": predictor.plan.labels,
        **measures,
        "device": predictor.device.type,
        "precision": predictor.precision,
        "test_time_flips": list(predictor.flips),
        "test_time_shifts": len(predictor.shifts),
        "seconds": round(seconds, 3),
    }


def _difference(sidecar: Path, digest: str) -> str:
    """Say where an existing result comes from, if not from this model."""
    try:
        model = json.loads(sidecar.read_text(encoding="utf-8")).get("model")
    except (OSError, ValueError, AttributeError):
        return "the result has no readable sidecar, so its model is not known"
    return "" if model == digest else "the result was made by another model; use --overwrite to replace it"
