"""Prepared cases on disk: oriented, resampled and normalised once, memory-mapped ever after.

One folder per case, named by a key over the bytes of its files and the part of the plan that shapes the arrays. Every file
appears by an atomic rename and the manifest `case.json` last, so a folder with a manifest whose sizes agree is whole; anything
else is made again. Two processes that prepare the same case write the same bytes and do not disturb each other.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
from pydantic import Field, ValidationError

from se_med.config.base import Part
from se_med.data.case import Case
from se_med.data.padding import channel_minimum
from se_med.data.plan import Plan
from se_med.data.preparation import IGNORED, Preparation, Prepared
from se_med.errors import DataError, ImageError, RunError
from se_med.io.atomic import replacing, sweep_temporaries, write_text
from se_med.io.images import read_images, read_label
from se_med.io.nifti import Geometry

VERSION = 1
"""Part of every key; raise it when the same files and plan give other arrays."""
FOREGROUND_VOXELS = 5000
"""Largest number of coordinates kept per class for foreground patches."""
MANIFEST = "case.json"

Progress = Callable[[int, int], None]
"""Called with the number of cases done and the number of all."""


class Manifest(Part):
    """What `case.json` holds: everything about a prepared case but its voxels."""

    version: Literal[1] = Field(description="Version of the cache.")
    name: str = Field(description="Name of the case when it was prepared.")
    sources: tuple[str, ...] = Field(description="SHA-256 of each image file, then of the label file.")
    shape: tuple[int, int, int] = Field(description="Shape of the prepared arrays.")
    affine: tuple[tuple[float, ...], ...] = Field(description="Prepared voxel -> mm.")
    native_shape: tuple[int, int, int] = Field(description="Shape as stored.")
    native_affine: tuple[tuple[float, ...], ...] = Field(description="Stored voxel -> mm.")
    native_spacing: tuple[float, float, float] = Field(description="Spacing in mm, axes as stored.")
    minimum: tuple[float, ...] = Field(description="Lowest prepared intensity of each channel.")
    foreground: dict[int, int] = Field(description="Number of coordinates kept for each class that is present, in file order.")
    sizes: dict[str, int] = Field(description="Bytes of each array file.")


@dataclass(frozen=True)
class PreparedCase:
    """A prepared case on disk. Small, and cheap to send to another process: arrays are mapped on access.

    Attributes:
        case: the case with its original files.
        folder: where the prepared arrays are.
        digest: the key: SHA-256 over the case's files and the part of the plan that shapes the arrays.
        manifest: geometry, file digests and counts.
    """

    case: Case
    folder: Path
    digest: str
    manifest: Manifest

    @property
    def image(self) -> np.memmap[Any, np.dtype[np.float32]]:
        """Normalised intensities (C, X, Y, Z) float32 in RAS order, read from disk where they are touched."""
        image: np.memmap[Any, np.dtype[np.float32]] = self._map("image.npy")
        return image

    @property
    def label(self) -> np.memmap[Any, np.dtype[np.uint8]]:
        """Class indices (X, Y, Z) uint8 on the same grid."""
        label: np.memmap[Any, np.dtype[np.uint8]] = self._map("label.npy")
        return label

    @property
    def foreground(self) -> dict[int, npt.NDArray[np.int32]]:
        """For each class that is present: up to 5000 voxel coordinates (N, 3), drawn evenly over the class."""
        coordinates = self._map("foreground.npy")
        ends = np.cumsum(list(self.manifest.foreground.values()))
        return {
            index: coordinates[end - number : end]
            for (index, number), end in zip(self.manifest.foreground.items(), ends, strict=True)
        }

    @property
    def prepared(self) -> Prepared:
        """The case as `Preparation.forward` gave it, for inference on whole volumes and `Preparation.restore`."""
        manifest = self.manifest
        native = Geometry(manifest.native_shape, np.array(manifest.native_affine), manifest.native_spacing)
        return Prepared(self.image, np.array(manifest.affine), native)

    def _map(self, name: str) -> Any:
        return np.load(self.folder / name, mmap_mode="r", allow_pickle=False)


def prepare_cases(
    cases: Sequence[Case],
    plan: Plan,
    folder: Path | None = None,
    progress: Progress | None = None,
    workers: int | None = None,
) -> list[PreparedCase]:
    """Prepare every case, or find it prepared already.

    Args:
        cases: labelled cases.
        plan: gives spacing, normalisation and labels.
        folder: where prepared cases are kept; `default_cache()` when None.
        progress: told how many cases are done.
        workers: threads; as many as there are cores when None.

    Returns:
        The prepared cases, in the order of `cases`.

    Raises:
        DataError: cases that cannot be used, each on a line of its own.
        RunError: the folder cannot be written.
    """
    folder = default_cache() if folder is None else folder
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise RunError(f"{folder}: cannot make the cache folder: {error.strerror}; set data.cache to one you can write") from None
    preparation = Preparation(plan)
    found: dict[int, PreparedCase] = {}
    problems: dict[int, str] = {}
    with ThreadPoolExecutor(workers or os.cpu_count() or 1) as pool:
        jobs = {pool.submit(_prepare, case, preparation, folder): index for index, case in enumerate(cases)}
        try:
            for job in as_completed(jobs):
                try:
                    found[jobs[job]] = job.result()
                except ImageError as error:
                    problems[jobs[job]] = error.message
                if progress is not None:
                    progress(len(found) + len(problems), len(cases))
        finally:
            pool.shutdown(cancel_futures=True)
    if problems:
        lines = [problems[index] for index in sorted(problems)]
        raise DataError(lines[0] if len(lines) == 1 else f"{len(lines)} cases cannot be prepared:\n" + "\n".join(lines))
    return [found[index] for index in range(len(cases))]


def default_cache() -> Path:
    """Return the user's folder for prepared cases: `$XDG_CACHE_HOME/se-med/prepared`, or the same below `~/.cache`."""
    base = os.environ.get("XDG_CACHE_HOME", "")
    return (Path(base) if Path(base).is_absolute() else Path.home() / ".cache") / "se-med" / "prepared"


def _prepare(case: Case, preparation: Preparation, folder: Path) -> PreparedCase:
    if case.label is None:
        raise ImageError(f"{case.images[0]}: case {case.name!r} has no label; add one or take the case out of the split")
    sources = tuple(_file_digest(path) for path in (*case.images, case.label))
    key = _key(sources, preparation.plan)
    entry = folder / key[:32]
    manifest = _read_manifest(entry)
    if manifest is None or manifest.sources != sources:
        manifest = _write_entry(entry, case, preparation, sources)
    return PreparedCase(case, entry, key, manifest)


def _key(sources: Sequence[str], plan: Plan) -> str:
    shaping = plan.model_dump(mode="json", include={"spacing", "normalisation"})
    content = {"version": VERSION, "sources": list(sources), "values": list(plan.label_values), **shaping}
    if plan.ignore_label is not None:
        content["ignore_label"] = plan.ignore_label
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def _file_digest(path: Path) -> str:
    try:
        if not path.is_file():  # a pipe would block, a folder cannot be read
            raise ImageError(f"{path}: no such file; correct the path or the split")
        with path.open("rb") as file:
            digest = hashlib.sha256()
            while block := file.read(1 << 20):
                digest.update(block)
    except OSError as error:
        raise ImageError(f"{path}: cannot be read: {error.strerror}; check the file and its rights") from None
    return digest.hexdigest()


def _read_manifest(entry: Path) -> Manifest | None:
    """Return the manifest of a whole entry; None where something is missing, damaged or of another size."""
    try:
        manifest = Manifest.model_validate_json((entry / MANIFEST).read_bytes())
        if any((entry / name).stat().st_size != size for name, size in manifest.sizes.items()):
            return None
    except (FileNotFoundError, ValidationError):
        return None
    return manifest


def _write_entry(entry: Path, case: Case, preparation: Preparation, sources: tuple[str, ...]) -> Manifest:
    image = read_images(case.images)
    if case.label is None:
        raise ValueError("a case without label has no cache entry")
    prepared = preparation.forward(image)
    label = preparation.forward_label(read_label(case.label), like=prepared)
    known = label if preparation.plan.ignore_label is None else np.where(label == IGNORED, np.uint8(0), label)
    coordinates = _draw_foreground(known, sources)
    arrays: dict[str, npt.NDArray[Any]] = {
        "image.npy": prepared.array,
        "label.npy": label,
        "foreground.npy": np.concatenate([np.empty((0, 3), np.int32), *coordinates.values()]),
    }
    entry.mkdir(exist_ok=True)
    sweep_temporaries(entry)
    manifest = Manifest(
        version=VERSION,
        name=case.name,
        sources=sources,
        shape=label.shape,
        affine=_rows(prepared.affine),
        native_shape=prepared.native.shape,
        native_affine=_rows(prepared.native.affine),
        native_spacing=prepared.native.spacing,
        minimum=tuple(channel_minimum(prepared.array).tolist()),
        foreground={index: len(rows) for index, rows in coordinates.items()},
        sizes={name: _write_array(entry / name, array) for name, array in arrays.items()},
    )
    write_text(entry / MANIFEST, manifest.model_dump_json())
    return manifest


def _rows(affine: npt.NDArray[np.float64]) -> tuple[tuple[float, ...], ...]:
    return tuple(tuple(float(value) for value in row) for row in affine)


def _write_array(path: Path, array: npt.NDArray[Any]) -> int:
    with replacing(path) as temporary, temporary.open("wb") as file:
        np.save(file, array, allow_pickle=False)
        return file.tell()


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
