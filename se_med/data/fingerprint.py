"""Reads every case of a data set once: what planning needs to know, and every error that would stop training.

Everything is given along the RAS axes: axis 0 runs from left to right, 1 from posterior to anterior, 2 from inferior to superior.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass
from functools import partial

import nibabel as nib
import numpy as np
from scipy import ndimage

from se_med.data.case import Case, Dataset, refuse
from se_med.errors import DataError, ImageError
from se_med.io.images import read_images, read_label
from se_med.io.nifti import Volume, same_geometry

MAX_STRUCTURES = 255
"""Prepared labels are stored as one byte per voxel."""
SAMPLES_PER_CASE = 5000
"""Foreground voxels whose intensities are drawn from each case, so that large cases do not outweigh small ones."""

Progress = Callable[[int, int], None]
"""Called with the number of cases done and the number of all cases."""


@dataclass(frozen=True)
class CaseFacts:
    """What one case holds.

    Attributes:
        name: the case.
        shape: voxels along the RAS axes.
        spacing: mm along the RAS axes.
        voxels: number of voxels of each label value that occurs, background (0) included, the ignore label not.
        centroids: centre of each structure along the RAS axes, in mm from the first voxel.
        intensities: (C, n) intensities of foreground voxels drawn at random; n is 0 where there is no foreground.
        flat: the case is a 2D image: one slice, spacing one pixel.
    """

    name: str
    shape: tuple[int, int, int]
    spacing: tuple[float, float, float]
    voxels: dict[int, int]
    centroids: dict[int, tuple[float, float, float]]
    intensities: np.ndarray
    flat: bool = False


@dataclass(frozen=True)
class Intensities:
    """Foreground intensities of one channel over the data set."""

    low: float
    """0.5th percentile."""
    high: float
    """99.5th percentile."""
    mean: float
    std: float


@dataclass(frozen=True)
class Fingerprint:
    """What a data set holds.

    Attributes:
        cases: one entry per case, in the data set's order.
        labels: name and value of each structure, declared or found.
        channels: number of image channels.
        foreground: intensities inside the structures, one entry per channel; all 0 where no case has a structure.
    """

    cases: tuple[CaseFacts, ...]
    labels: dict[str, int]
    channels: int
    foreground: tuple[Intensities, ...]

    @property
    def flat(self) -> bool:
        """Whether the cases are 2D images; never only some of them."""
        return self.cases[0].flat

    @property
    def spacings(self) -> np.ndarray:
        """Spacing of every case, (cases, 3) in mm along the RAS axes."""
        return np.array([case.spacing for case in self.cases], dtype=np.float64)

    @property
    def shapes(self) -> np.ndarray:
        """Shape of every case, (cases, 3) in voxels along the RAS axes."""
        return np.array([case.shape for case in self.cases], dtype=np.int64)


def take_fingerprint(dataset: Dataset, progress: Progress | None = None, workers: int | None = None) -> Fingerprint:
    """Read every case of a data set once.

    Args:
        dataset: labelled cases.
        progress: called after each case.
        workers: threads that read cases; each holds one case in memory. Default: the number of processors.

    Raises:
        DataError: at least one case cannot be used: unreadable or damaged file, NaN, image and label on different grids, label
            values that are not declared, another number of channels than most cases. All are listed, one line each.
    """
    declared = None if dataset.labels is None else frozenset(dataset.labels.values())
    read = partial(read_facts, declared=declared, ignore_label=dataset.ignore_label)
    facts: dict[str, CaseFacts] = {}
    problems: dict[str, list[str]] = {}
    # Threads, not processes: decompression and array work release the interpreter lock, and nothing has to be copied back.
    with ThreadPoolExecutor(max_workers=workers or os.cpu_count() or 1) as pool:
        futures = {pool.submit(read, case): case for case in dataset.cases}
        try:
            for done, future in enumerate(as_completed(futures), start=1):
                name = futures[future].name
                try:
                    facts[name] = future.result()
                except DataError as error:
                    problems[name] = error.message.splitlines()
                if progress is not None:
                    progress(done, len(futures))
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise
    channels = Counter(len(case.intensities) for case in facts.values()).most_common(1)
    for name, case in facts.items():
        if len(case.intensities) != channels[0][0]:
            problems[name] = [f"case {name!r}: {len(case.intensities)} channels, most cases have {channels[0][0]}"]
    problems |= _mixed_kinds(facts)
    refuse(dataset.root, [line for name in sorted(problems) for line in problems[name]])
    cases = tuple(facts[case.name] for case in dataset.cases)
    _check_channels(dataset, channels[0][0])
    return Fingerprint(cases, _structures(dataset, cases), channels[0][0], _foreground(cases))


def read_facts(case: Case, declared: frozenset[int] | None = None, ignore_label: int | None = None) -> CaseFacts:
    """Read one case and check it.

    Args:
        case: a case with a label.
        declared: label values that may occur beside 0; None: all.
        ignore_label: value of voxels without a reference; they are in no count and no statistic.

    Raises:
        ImageError: one line per problem, each naming the file.
    """
    if case.label is None:
        raise ImageError(f"case {case.name!r}: has no label")
    volumes: dict[str, Volume] = {}
    problems = []
    for kind in ("image", "label"):
        try:
            volumes[kind] = read_label(case.label) if kind == "label" else read_images(case.images)
        except ImageError as error:
            problems.append(error.message)
    if not problems:
        mismatch = same_geometry(volumes["image"], volumes["label"])
        if mismatch is not None:
            problems.append(f"{case.label}: not on the grid of {case.images[0].name}: {mismatch}")
    if "label" in volumes:
        labels = volumes["label"].array
        ignored = 0 if ignore_label is None else int(np.count_nonzero(labels == ignore_label))
        values, indices = _compact(np.where(labels == ignore_label, 0, labels) if ignored else labels)
        values[0] -= ignored
        problems += _value_problems(case, values, declared)
    if problems:
        raise ImageError("\n".join(problems))
    image, label = volumes["image"], volumes["label"]
    axes = _ras_axes(label.affine)
    spacing = tuple(float(label.spacing[axis]) for axis, _ in axes)
    shape = tuple(int(label.array.shape[axis]) for axis, _ in axes)
    centroids = {
        value: tuple(
            (centre[axis] if direction > 0 else label.array.shape[axis] - 1 - centre[axis]) * float(label.spacing[axis])
            for axis, direction in axes
        )
        for value, centre in _centroids(indices, tuple(values)).items()
    }
    return CaseFacts(case.name, shape, spacing, values, centroids, _draw(image.array, indices), image.flat)  # type: ignore[arg-type]  # three axes


def _mixed_kinds(facts: dict[str, CaseFacts]) -> dict[str, list[str]]:
    """Name the rarer kind where some cases are 2D images and others volumes: a pixel and a millimetre are no common unit."""
    flat = {name for name, case in facts.items() if case.flat}
    volumes = set(facts) - flat
    if not flat or not volumes:
        return {}
    rare, kind, others = (flat, "a 2D image", "volumes") if len(flat) <= len(volumes) else (volumes, "a volume", "2D images")
    return {name: [f"case {name!r}: {kind}, most cases are {others}; a data set holds one kind"] for name in rare}


def _ras_axes(affine: np.ndarray) -> list[tuple[int, int]]:
    """Return for each RAS axis the voxel axis that runs along it and its direction, 1 or -1."""
    orientation = nib.orientations.io_orientation(affine)
    axes = [(0, 1)] * 3
    for voxel_axis, (ras_axis, direction) in enumerate(orientation):
        axes[int(ras_axis)] = (voxel_axis, int(direction))
    return axes


def _compact(labels: np.ndarray) -> tuple[dict[int, int], np.ndarray]:
    """Return the number of voxels of each value, sorted by value and 0 first, and the labels as positions in that order."""
    top = int(labels.max(initial=0))
    if top < 2**16:
        counts = np.bincount(labels.ravel())
        values = np.union1d([0], np.flatnonzero(counts))
        counts = counts[values]
    else:
        values, counts = np.unique(labels, return_counts=True)
        if values[0] != 0:
            values, counts = np.append(0, values), np.append(0, counts)
    indices = np.searchsorted(values, labels) if top >= 2**16 else _lookup(values, top)[labels]
    return {int(value): int(count) for value, count in zip(values, counts, strict=True)}, indices


def _lookup(values: np.ndarray, top: int) -> np.ndarray:
    table = np.zeros(top + 1, dtype=np.min_scalar_type(len(values)))
    table[values] = np.arange(len(values))
    return table


def _value_problems(case: Case, values: dict[int, int], declared: frozenset[int] | None) -> list[str]:
    structures = {value: count for value, count in values.items() if value != 0}
    if len(structures) > MAX_STRUCTURES:
        return [
            f"{case.label}: {len(structures)} different values; is it an image? At most {MAX_STRUCTURES} structures are allowed"
        ]
    unknown = {} if declared is None else {value: count for value, count in structures.items() if value not in declared}
    if not unknown:
        return []
    listed = ", ".join(f"{value} ({count} voxels)" for value, count in list(unknown.items())[:10])
    more = f" and {len(unknown) - 10} more" if len(unknown) > 10 else ""
    mask = "; a mask of 0 and 255: give 255 as the value of its structure in data.labels" if set(unknown) == {255} else ""
    return [f"{case.label}: undeclared label values {listed}{more}; declared are {sorted(declared or ())}{mask}"]


def _centroids(indices: np.ndarray, values: tuple[int, ...]) -> dict[int, list[float]]:
    """Return the centre of each structure in voxels, along the voxel axes."""
    centroids = {}
    # find_objects counts from 1, and 0 is no object to it.
    for position, box in enumerate(ndimage.find_objects(indices + 1)):
        if values[position] == 0 or box is None:
            continue
        mask = indices[box] == position
        centre = []
        for axis, extent in enumerate(box):
            profile = np.count_nonzero(mask, axis=tuple(other for other in range(3) if other != axis))
            centre.append(float(np.average(np.arange(extent.start, extent.stop), weights=profile)))
        centroids[values[position]] = centre
    return centroids


def _draw(image: np.ndarray, indices: np.ndarray) -> np.ndarray:
    """Return the intensities (C, n) of foreground voxels drawn with replacement, the same ones at each call."""
    foreground = np.flatnonzero(indices)
    if len(foreground) > SAMPLES_PER_CASE:
        foreground = foreground[np.random.default_rng(0).integers(0, len(foreground), SAMPLES_PER_CASE)]
    return image.reshape(len(image), -1)[:, foreground].astype(np.float32)


def _check_channels(dataset: Dataset, channels: int) -> None:
    if dataset.channels and len(dataset.channels) != channels:
        names = ", ".join(dataset.channels)
        raise DataError(f"{dataset.root}: {len(dataset.channels)} channels are declared ({names}), the images have {channels}")


def _structures(dataset: Dataset, cases: tuple[CaseFacts, ...]) -> dict[str, int]:
    found = sorted({value for case in cases for value in case.centroids})
    if not found:
        raise DataError(f"{dataset.root}: every label is empty, there is no structure to learn")
    if dataset.labels is not None:
        return dict(dataset.labels)
    if len(found) > MAX_STRUCTURES:
        raise DataError(f"{dataset.root}: {len(found)} different label values, at most {MAX_STRUCTURES} structures are allowed")
    return {f"label_{value}": value for value in found}


def _foreground(cases: tuple[CaseFacts, ...]) -> tuple[Intensities, ...]:
    pooled = np.concatenate([case.intensities for case in cases], axis=1).astype(np.float64)
    if pooled.shape[1] == 0:
        return tuple(Intensities(0.0, 0.0, 0.0, 0.0) for _ in pooled)
    low, high = np.percentile(pooled, (0.5, 99.5), axis=1)
    return tuple(
        Intensities(float(low[channel]), float(high[channel]), float(values.mean()), float(values.std()))
        for channel, values in enumerate(pooled)
    )
