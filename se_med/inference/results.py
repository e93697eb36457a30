"""The result of one case: whether there is one already, how it is made, and the files that it consists of.

A result is a label file with a JSON file of the same stem, its sidecar. Maps that are asked for lie in folders beside, so that
the folder of results holds label files alone. The sidecar holds a key of everything that the result follows from, and the
digest of each file. A result is the wanted one when the key is, and whole when the digests are; so neither a killed process nor
two that write to one folder can leave a result that is taken for what it is not.
"""

from __future__ import annotations

import hashlib
import json
import shutil
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch

import se_med
from se_med.data.structures import label_record
from se_med.errors import ImageError, SeMedError
from se_med.inference.cases import InputCase
from se_med.inference.outputs import LABELS_ALONE, Outputs, write_outputs
from se_med.inference.predictor import Predictor
from se_med.inference.segmentation import Segmentation
from se_med.io.atomic import flush_folder, temporary_path, write_json
from se_med.io.filebytes import named_faults, regular_size
from se_med.io.images import stored_files, write_label
from se_med.io.textfile import read_text

SIDECAR_VERSION = 2
_WITHOUT_EFFECT = {"window_batch"}
"""Settings of inference that change how a result is computed, but not the result."""

Status = Literal["done", "skipped", "failed", "set aside"]


@dataclass(frozen=True)
class CaseResult:
    """What became of one case.

    Attributes:
        name: the case's name.
        status: `done`; `skipped`: its result was there already; `failed`; `set aside`: its worker process died in each attempt.
        output: the label file; without a result, the one it would have been.
        message: why it failed, or what is odd about a skipped one; one line, empty where there is nothing to say.
        seconds: time that the case took.
    """

    name: str
    status: Status
    output: Path
    message: str = ""
    seconds: float = 0.0


def predict_case(predictor: Predictor, case: InputCase, outputs: Outputs = LABELS_ALONE, overwrite: bool = False) -> CaseResult:
    """Segment one case and write its result, unless the same result is there already.

    A result of other inputs, another model or other settings is replaced. A label file that no sidecar tells about was not made
    here and stays, unless `overwrite`. The label file appears last: a case with a label file is complete.

    Args:
        predictor: the model.
        case: one of `find_cases`; the folder of its output exists.
        outputs: what to write beside the labels.
        overwrite: segment again what has a result already.

    Returns:
        What became of it; errors of files, of the network and of memory are told there.
    """
    start = time.perf_counter()
    try:
        if not overwrite:
            found = find_result(predictor, case, outputs)
            if found is not None:
                return found
        _check_channels(case, len(predictor.plan.channels))
        key = result_key(predictor, case)
        source = case.files[0] if len(case.files) == 1 else case.files
        segmentation = predictor.predict(source, probabilities=outputs.probabilities, uncertainty=outputs.uncertainty)
        _write(predictor, case, segmentation, outputs, key, time.perf_counter() - start)
    except (SeMedError, OSError, MemoryError, torch.OutOfMemoryError) as error:
        message = str(error) or type(error).__name__
        if not isinstance(error, ImageError):  # those name their file
            message = f"{case.files[0]}: {message}"
        return CaseResult(case.name, "failed", case.output, " ".join(message.splitlines()), time.perf_counter() - start)
    return CaseResult(case.name, "done", case.output, "", time.perf_counter() - start)


def find_result(predictor: Predictor, case: InputCase, outputs: Outputs = LABELS_ALONE) -> CaseResult | None:
    """Return the case as skipped when its result is there and whole, or when a label file is there that is not ours.

    The result may have more outputs than are asked for.

    Raises:
        ImageError: an input cannot be read.
        OSError: likewise.
    """
    if not case.output.exists():
        return None
    sidecar = read_sidecar(case.sidecar)
    if sidecar is None:
        odd = "the label file was there, but no sidecar that tells where it is from; use --overwrite to replace it"
        return CaseResult(case.name, "skipped", case.output, odd)
    files, written = sidecar.get("files"), sidecar.get("outputs")
    if not isinstance(files, dict) or not isinstance(written, list) or not {case.output.name} <= files.keys():
        return None
    if not set(outputs.names) <= set(written) or sidecar.get("key") != result_key(predictor, case):
        return None
    for name, digest in files.items():
        path = case.output.parent / name
        if ".." in path.parts or not path.is_file() or _digest(path) != digest:
            return None
    return CaseResult(case.name, "skipped", case.output)


def read_sidecar(path: Path) -> dict[str, Any] | None:
    """Return what a sidecar holds; None when there is none, or another JSON file."""
    try:
        sidecar = json.loads(read_text(path))
    except (OSError, ValueError, RecursionError):
        return None
    return sidecar if isinstance(sidecar, dict) and {"se_med", "model"} <= sidecar.keys() else None


def result_key(predictor: Predictor, case: InputCase) -> str:
    """Return the sha256 over what a result follows from: the bytes of its inputs, the model, and the settings of inference.

    Raises:
        ImageError: an input cannot be read.
        OSError: likewise.
    """
    files = [_digest(path) for file in case.files for path in stored_files(file)]
    content = {"version": SIDECAR_VERSION, "input": files, "model": predictor.digest, "settings": settings_of(predictor)}
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def settings_of(predictor: Predictor) -> dict[str, Any]:
    """Return the settings of inference as they are used, without those that leave the result as it is."""
    settings = predictor.config.inference.model_dump(mode="json", exclude=_WITHOUT_EFFECT)
    for name, values in (
        ("test_time_flips", [list(member.flips) for member in predictor.members]),
        ("test_time_shifts", [len(member.shifts) for member in predictor.members]),
        ("test_time_rotation", [max((turn.degrees for turn in member.rotations), default=0.0) for member in predictor.members]),
        ("precision", [member.precision for member in predictor.members]),
    ):
        settings[name] = values[0] if all(value == values[0] for value in values) else values
    # Not in the settings of inference, and left out where it does nothing, so that results of before stay as they are.
    splines = [any(turn.cubic for turn in member.rotations) for member in predictor.members]
    return settings | ({"test_time_splines": splines} if any(splines) else {})


def _check_channels(case: InputCase, channels: int) -> None:
    # One file without a number holds all channels; preparation counts them.
    if case.channels and case.channels != tuple(range(channels)):
        raise ImageError(f"{case.files[0]}: case {case.name!r} has channel files {list(case.channels)}, the model has {channels}")


def _write(predictor: Predictor, case: InputCase, segmentation: Segmentation, outputs: Outputs, key: str, seconds: float) -> None:
    """Write the files of a result under temporary names, and give them their names when all are there."""
    folder, results = temporary_path(case.output), case.output.parent
    folder.mkdir()
    try:
        write_label(folder / case.output.name, segmentation.labels, segmentation.native)
        write_outputs(folder, case.name, segmentation, outputs)
        paths = sorted(path for path in folder.rglob("*") if path.is_file())
        files = {path.relative_to(folder).as_posix(): _digest(path) for path in paths}
        told = {"label": case.output.name, "key": key, "outputs": outputs.names, "files": files}
        sidecar = folder / case.sidecar.name
        write_json(sidecar, told | _sidecar(predictor, case, segmentation, outputs, seconds))
        # From here on nothing takes room any more, so a full disk leaves the old result as it was.
        case.output.unlink(missing_ok=True)  # never an old label file beside a new sidecar
        sidecar.replace(case.sidecar)
        for name in sorted(files, key=lambda name: name == case.output.name):  # the label file last
            (results / name).parent.mkdir(exist_ok=True)
            (folder / name).replace(results / name)
        flush_folder(results)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _sidecar(
    predictor: Predictor, case: InputCase, segmentation: Segmentation, outputs: Outputs, seconds: float
) -> dict[str, Any]:
    native = segmentation.native
    maps = {"probability_maps": list(segmentation.outputs)} if outputs.probabilities else {}
    runs = [member.config.name for member in predictor.members]
    return {
        "version": SIDECAR_VERSION,
        "se_med": se_med.__version__,
        "run": runs[0] if len(runs) == 1 else runs,
        "model": predictor.digest,
        "input": [path.name for path in case.files],
        "input_sha256": native.digest,
        "shape": list(native.shape),
        "spacing_mm": None if native.flat else [round(value, 6) for value in native.spacing],
        **label_record(predictor.plan.structures, predictor.plan.background_values),
        **_measures(segmentation, outputs.intensities),
        **maps,
        "device": predictor.device.type,
        "settings": settings_of(predictor),
        "seconds": round(seconds, 3),
    }


def _measures(segmentation: Segmentation, intensities: bool) -> dict[str, Any]:
    """Return what is measured of each structure, by name."""
    if segmentation.native.flat:  # the size of a pixel is not known; volumes are in thousands of them
        measures: dict[str, Any] = {"areas_pixels": {name: round(1000 * volume) for name, volume in segmentation.volumes.items()}}
    else:
        measures = {"volumes_ml": {name: round(volume, 6) for name, volume in segmentation.volumes.items()}}
    if intensities:
        rows = segmentation.table()
        measures["intensity_means"] = {row.name: row.means for row in rows}
        measures["intensity_deviations"] = {row.name: row.deviations for row in rows}
    return measures


def _digest(path: Path) -> str:
    with named_faults(path):
        regular_size(path)  # opening a pipe would wait for ever
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
