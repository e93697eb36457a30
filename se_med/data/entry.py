"""One prepared case on disk: a folder with its arrays and, in `case.json`, everything else about it.

An entry is written as a temporary folder beside its final name, flushed, and renamed when it is whole, so that a reader never
meets half of one. Two processes that prepare the same case write the same bytes; the first to rename wins.
"""

from __future__ import annotations

import errno
import hashlib
import math
import os
import shutil
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from se_med.data.case import Case
from se_med.data.checks.reading import pixel_digest
from se_med.data.grids import find_grids
from se_med.data.manifest import MANIFEST, USED, Manifest, read_manifest
from se_med.data.memory import LABEL_BYTES, READ_BYTES, case_geometry
from se_med.data.padding import channel_minimum
from se_med.data.plan import Plan
from se_med.data.preparation import IGNORED, Preparation
from se_med.errors import ImageError, RunError
from se_med.io.atomic import flush_folder, temporary_path
from se_med.io.images import read_images, read_label

FOREGROUND_VOXELS = 5000
"""Largest number of coordinates kept per class for foreground patches."""
RESAMPLED_BYTES = 8
"""Bytes per prepared voxel and channel while a case is resampled, beside the array itself."""
WORKING_BYTES = 200 * 2**20
"""Sampling grids of one slab, and what the libraries take beside them, while a case is resampled."""


@dataclass(frozen=True)
class CaseSize:
    """What a case takes, told by its headers.

    Attributes:
        peak: bytes of memory while it is prepared.
        prepared: bytes on disk when it is.
    """

    peak: int
    prepared: int


def case_size(case: Case, plan: Plan) -> CaseSize:
    """Estimate what preparing a case takes from its headers alone; 0 where one cannot be read, which reading will tell."""
    native = case_geometry(case)
    if native is None:
        return CaseSize(0, 0)
    try:
        grids = find_grids(native, plan.spacing)
    except ImageError:
        return CaseSize(0, 0)
    voxels = math.prod(grids.shape)
    arrays = voxels * (4 * native.channels + 1)
    peak = math.prod(native.shape) * (READ_BYTES * native.channels + LABEL_BYTES) + arrays
    if grids.resampled:
        peak += voxels * RESAMPLED_BYTES * native.channels + WORKING_BYTES
    return CaseSize(peak, arrays)


def write_entry(entry: Path, case: Case, preparation: Preparation, sources: tuple[str, ...], dataset: str) -> Manifest:
    """Prepare a case and write its entry; one that is damaged is replaced.

    Args:
        entry: the folder to make.
        case: a case with a label.
        preparation: how to prepare it.
        sources: digest of each of its files.
        dataset: name of the data set.

    Raises:
        ImageError: the case cannot be used.
        RunError: the folder cannot be written.
    """
    if case.label is None:
        raise ValueError("a case without label has no cache entry")
    image = read_images(case.images)
    pixels = pixel_digest(image.array)
    prepared = preparation.forward(image)
    del image
    label = preparation.forward_label(read_label(case.label), like=prepared)
    known = label if preparation.plan.ignore_label is None else np.where(label == IGNORED, np.uint8(0), label)
    coordinates = _draw_foreground(known, sources)
    arrays: dict[str, npt.NDArray[Any]] = {
        "image.npy": prepared.array,
        "label.npy": label,
        "foreground.npy": np.concatenate([np.empty((0, 3), np.int32), *coordinates.values()]),
    }
    temporary = temporary_path(entry)
    try:
        temporary.mkdir()
        manifest = Manifest(
            version=2,
            name=_text(case.name),
            dataset=_text(dataset),
            sources=sources,
            pixels=pixels,
            shape=label.shape,
            affine=_rows(prepared.affine),
            native_shape=prepared.native.shape,
            native_affine=_rows(prepared.native.affine),
            native_spacing=prepared.native.spacing,
            minimum=tuple(channel_minimum(prepared.array).tolist()),
            foreground={index: len(rows) for index, rows in coordinates.items()},
            sizes={name: _write_array(temporary / name, array) for name, array in arrays.items()},
        )
        with (temporary / MANIFEST).open("w", encoding="utf-8") as file:
            file.write(manifest.model_dump_json())
            _flush(file)
        (temporary / USED).touch()
        _put(temporary, entry)
    except OSError as error:
        raise RunError(
            f"{entry}: cannot be written: {error.strerror or error}; check the folder, its free space and rights"
        ) from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    return manifest


def _put(temporary: Path, entry: Path) -> None:
    """Give a whole folder its final name, unless another process was faster."""
    flush_folder(temporary)
    for _ in range(3):
        try:
            temporary.rename(entry)
        except OSError as error:
            if error.errno not in (errno.ENOTEMPTY, errno.EEXIST, errno.ENOTDIR):
                raise
            if read_manifest(entry) is not None:
                return
            damaged = temporary_path(entry)
            with suppress(FileNotFoundError):  # another process does the same
                entry.rename(damaged)
            shutil.rmtree(damaged, ignore_errors=True)
        else:
            flush_folder(entry.parent)
            return
    raise OSError(errno.EEXIST, "another process keeps a damaged entry there")


def _text(name: str) -> str:
    """Return a name that may hold bytes of a file's name that are no text as text."""
    return name.encode("utf-8", errors="backslashreplace").decode()


def _rows(affine: npt.NDArray[np.float64]) -> tuple[tuple[float, ...], ...]:
    return tuple(tuple(float(value) for value in row) for row in affine)


def _write_array(path: Path, array: npt.NDArray[Any]) -> int:
    with path.open("wb") as file:
        np.save(file, array, allow_pickle=False)
        _flush(file)
        return file.tell()


def _flush(file: Any) -> None:
    file.flush()
    os.fsync(file.fileno())


def _draw_foreground(label: npt.NDArray[np.uint8], sources: Sequence[str]) -> dict[int, npt.NDArray[np.int32]]:
    """Draw up to 5000 voxels of each class that is present, by the content of the files alone."""
    seed = int(hashlib.sha256("".join(sources).encode()).hexdigest()[:16], 16)
    drawn = {}
    present = [index for index in range(1, int(label.max()) + 1) if (label == index).any()]
    for index in present:
        voxels = np.flatnonzero(label == index)
        if len(voxels) > FOREGROUND_VOXELS:
            generator = np.random.Generator(np.random.Philox(np.random.SeedSequence([seed, index])))
            voxels = np.sort(generator.choice(voxels, FOREGROUND_VOXELS, replace=False))
        drawn[index] = np.stack(np.unravel_index(voxels, label.shape), axis=1).astype(np.int32)
    return drawn
