"""Prepared cases on disk: oriented, resampled and normalised once, memory-mapped ever after.

One folder per case, named by a key over the bytes of its files and the part of the plan that shapes the arrays
(`se_med.data.entry`). Several processes may prepare and read the same cases at once.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import shutil
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import suppress
from dataclasses import dataclass
from functools import lru_cache, partial
from mmap import ACCESS_READ, mmap
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from se_med.data.cache_folder import default_cache
from se_med.data.cache_use import announce_use, looking_up
from se_med.data.case import Case
from se_med.data.entry import CaseSize, case_size, write_entry
from se_med.data.manifest import USED, Manifest, read_manifest
from se_med.data.memory import Allowance, free_memory, memory_limit
from se_med.data.plan import Plan
from se_med.data.preparation import Preparation, Prepared
from se_med.errors import DataError, ImageError, RunError
from se_med.io.atomic import sweep_temporaries
from se_med.io.filebytes import regular_size
from se_med.io.images import stored_files
from se_med.io.volume import Geometry

log = logging.getLogger(__name__)

VERSION = 1
"""Part of every key; raise it when the same files and plan give other arrays."""
KEY_DIGITS = 32
"""Digits of the key that name an entry."""
WAITING = 2
"""Threads per core: each waits for the disk a part of its time."""

Progress = Callable[[int, int], None]
"""Called with the number of cases done and the number of all."""


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
    def image(self) -> npt.NDArray[np.float32]:
        """Normalised intensities (C, X, Y, Z) float32 in RAS order, read from disk where they are touched."""
        image: npt.NDArray[np.float32] = self._map("image.npy")
        return image

    @property
    def label(self) -> npt.NDArray[np.uint8]:
        """Class indices (X, Y, Z) uint8 on the same grid."""
        label: npt.NDArray[np.uint8] = self._map("label.npy")
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

    def _map(self, name: str) -> npt.NDArray[Any]:
        """Map an array, some ten times as fast as `np.load`, since it is done for every patch."""
        path = self.folder / name
        try:
            offset, shape, fortran_order, dtype = _header(path)
            with path.open("rb") as file:
                mapped = mmap(file.fileno(), 0, access=ACCESS_READ)
            return np.ndarray(shape, dtype, mapped, offset, order="F" if fortran_order else "C")
        except (ValueError, EOFError, TypeError) as error:
            raise RunError(f"{path}: not the array of a prepared case ({error}); remove {self.folder} and start again") from None


@lru_cache(maxsize=4096)
def _header(path: Path) -> tuple[int, tuple[int, ...], bool, np.dtype[Any]]:
    """Return where the numbers of an array on disk begin, its shape, whether it is in Fortran order, and its type.

    Raises:
        ValueError: the file is no such array.
    """
    with path.open("rb") as file:
        version = np.lib.format.read_magic(file)
        if version != (1, 0):
            raise ValueError(f"version {version} of the format")
        shape, fortran_order, dtype = np.lib.format.read_array_header_1_0(file)
        return file.tell(), shape, fortran_order, dtype


def prepare_cases(
    cases: Sequence[Case],
    plan: Plan,
    folder: Path | None = None,
    progress: Progress | None = None,
    workers: int | None = None,
    *,
    dataset: str = "",
    max_memory: float | None = None,
) -> list[PreparedCase]:
    """Prepare every case, or find it prepared already. What was interrupted is gone on with.

    Args:
        cases: labelled cases.
        plan: gives spacing, normalisation and labels.
        folder: where prepared cases are kept; `default_cache()` when None.
        progress: told how many cases are done.
        workers: threads; two for each core when None, since each waits for the disk a part of its time.
        dataset: name of the data set, for the list of what the cache holds.
        max_memory: limit in GiB of what the cases that are prepared at the same time take; half of what is free when None. A case
            that is larger is prepared alone.

    Returns:
        The prepared cases, in the order of `cases`.

    Raises:
        DataError: cases that cannot be used, each on a line of its own.
        RunError: the folder cannot be written, or the disk has too little room for the prepared cases.
    """
    folder = default_cache() if folder is None else folder
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise RunError(f"{folder}: cannot make the cache folder: {error.strerror}; set data.cache to one you can write") from None
    sweep_temporaries(folder)
    preparation = Preparation(plan)
    sizes = {case.name: case_size(case, plan) for case in cases}
    _refuse_vast_cases(cases, plan, folder, sizes)
    _refuse_full_disk(cases, plan, folder, sizes)
    prepare = partial(_prepare, preparation=preparation, folder=folder, dataset=dataset)
    allowance = Allowance(memory_limit(max_memory))
    found: dict[int, PreparedCase] = {}
    problems: dict[int, str] = {}
    with ThreadPoolExecutor(workers or WAITING * (os.cpu_count() or 1)) as pool:
        jobs = {pool.submit(prepare, case, sizes[case.name].peak, allowance): index for index, case in enumerate(cases)}
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
    _refuse([problems[index] for index in sorted(problems)])
    return [found[index] for index in range(len(cases))]


def _refuse(problems: Sequence[str]) -> None:
    if problems:
        raise DataError(
            problems[0] if len(problems) == 1 else "\n".join([f"{len(problems)} cases cannot be prepared:", *problems])
        )


def _refuse_vast_cases(cases: Sequence[Case], plan: Plan, folder: Path, sizes: Mapping[str, CaseSize]) -> None:
    """Refuse cases that cannot be prepared in the memory there is: a header of large voxels makes a small file a vast volume."""
    free = free_memory()
    vast = [case for case in cases if sizes[case.name].peak > free]
    problems = [
        f"{case.images[0]}: takes {sizes[case.name].peak / 1e9:.1f} GB of memory while it is prepared at the plan's spacing, "
        f"{free / 1e9:.1f} GB are free; correct its spacing, set data.spacing, or take the case out"
        for case in vast
        if read_manifest(_entry_of(folder, _key(_sources(case), plan))) is None
    ]
    _refuse(problems)


def predict_disk(cases: Sequence[Case], plan: Plan) -> int:
    """Return the bytes that the prepared cases will take on disk, from the headers alone."""
    return sum(case_size(case, plan).prepared for case in cases)


def _refuse_full_disk(cases: Sequence[Case], plan: Plan, folder: Path, sizes: Mapping[str, CaseSize]) -> None:
    free = shutil.disk_usage(folder).free
    if sum(size.prepared for size in sizes.values()) <= free:
        return
    missing = []
    for case in cases:  # only now is it worth the time to find out what is there already
        with suppress(ImageError):
            if read_manifest(_entry_of(folder, _key(_sources(case), plan))) is None:
                missing.append(case.name)
    needed = sum(sizes[name].prepared for name in missing)
    if needed > free:
        raise RunError(
            f"{folder}: preparing {len(missing)} cases takes {needed / 1e9:.1f} GB, and the disk has {free / 1e9:.1f} GB left; "
            "set data.cache to a folder on another disk, or make room with `se-med cache clear`"
        )


def _prepare(
    case: Case, peak: int, allowance: Allowance, *, preparation: Preparation, folder: Path, dataset: str
) -> PreparedCase:
    sources = _sources(case)
    key = _key(sources, preparation.plan)
    entry = _entry_of(folder, key)
    with looking_up(folder):
        announce_use(folder, entry.name)
        manifest = read_manifest(entry)
    if manifest is None or manifest.sources != sources:
        with allowance.take(peak):
            manifest = write_entry(entry, case, preparation, sources, dataset)
    else:
        with suppress(OSError):  # a cache that may only be read
            (entry / USED).touch()
    return PreparedCase(case, entry, key, manifest)


def _entry_of(folder: Path, key: str) -> Path:
    return folder / key[:KEY_DIGITS]


def _sources(case: Case) -> tuple[str, ...]:
    """Return the digest of each file of a case."""
    if case.label is None:
        raise ImageError(f"{case.images[0]}: case {case.name!r} has no label; add one or take the case out of the split")
    return tuple(_file_digest(file) for path in (*case.images, case.label) for file in stored_files(path))


def _key(sources: Sequence[str], plan: Plan) -> str:
    shaping = plan.model_dump(mode="json", include={"spacing", "normalisation"})
    content = {"version": VERSION, "sources": list(sources), "values": list(plan.label_values), **shaping}
    if plan.ignore_label is not None:
        content["ignore_label"] = plan.ignore_label
    if any(len(group) > 1 for group in plan.structures.classes):
        content["classes"] = plan.structures.classes
    if plan.background_values:
        content["background_values"] = sorted(plan.background_values)
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def _file_digest(path: Path) -> str:
    try:
        regular_size(path)  # opening a pipe would wait for ever
        with path.open("rb") as file:
            digest = hashlib.sha256()
            while block := file.read(1 << 20):
                digest.update(block)
    except OSError as error:
        raise ImageError(f"{path}: cannot be read: {error.strerror}; check the file and its rights") from None
    return digest.hexdigest()
