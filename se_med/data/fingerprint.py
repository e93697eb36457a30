"""Reads every case of a data set once: what planning needs to know, and every error that would stop training.

Everything is given along the RAS axes: axis 0 runs from left to right, 1 from posterior to anterior, 2 from inferior to superior.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass, replace
from functools import partial

import nibabel as nib
import numpy as np
from scipy import ndimage

from se_med.data.case import Case, Dataset, refuse
from se_med.data.checks.agreement import Traits, find_disagreements
from se_med.data.checks.finding import error_lines
from se_med.data.checks.reading import MAX_STRUCTURES, ReadCase, pixel_digest, read_case
from se_med.data.memory import Allowance, memory_limit, reading_bytes
from se_med.data.structures import Structures, centre_structures, count_structures
from se_med.errors import DataError, ImageError

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
        voxels: number of voxels of each structure that occurs, by its label value (the first of several; regions overlap), and of
            the background (0); the ignore label is not counted.
        centroids: centre of each structure along the RAS axes, in mm from the first voxel.
        intensities: (C, n) intensities of foreground voxels drawn at random; n is 0 where there is no foreground.
        flat: the case is a 2D image: one slice, spacing one pixel.
        digest: equal for images with the same pixels, whatever their files are; "" where not known.
        ranges: lowest and highest intensity of each channel; () where not known.
    """

    name: str
    shape: tuple[int, int, int]
    spacing: tuple[float, float, float]
    voxels: dict[int, int]
    centroids: dict[int, tuple[float, float, float]]
    intensities: np.ndarray
    flat: bool = False
    digest: str = ""
    ranges: tuple[tuple[float, float], ...] = ()


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


def take_fingerprint(
    dataset: Dataset, progress: Progress | None = None, workers: int | None = None, max_memory: float | None = None
) -> Fingerprint:
    """Read every case of a data set once.

    Args:
        dataset: labelled cases.
        progress: called after each case.
        workers: threads that read cases; each holds one case in memory. Default: the number of processors.
        max_memory: limit in GiB of what the cases that are read at the same time take; half of what is free when None.

    Raises:
        DataError: at least one case cannot be used: unreadable or damaged file, NaN, image and label on different grids, label
            values that are not declared, another number of channels than most cases. All are listed, one line each.
    """
    structures = dataset.structures
    read = partial(
        read_facts,
        declared=None if structures is None else structures.declared,
        ignore_label=dataset.ignore_label,
        background_values=dataset.background_values,
    )
    allowance = Allowance(memory_limit(max_memory))

    def read_alone(case: Case) -> CaseFacts:
        with allowance.take(reading_bytes(case)):
            return read(case)

    facts: dict[str, CaseFacts] = {}
    problems: dict[str, list[str]] = {}
    # Threads, not processes: decompression and array work release the interpreter lock, and nothing has to be copied back.
    with ThreadPoolExecutor(max_workers=workers or os.cpu_count() or 1) as pool:
        futures = {pool.submit(read_alone, case): case for case in dataset.cases}
        try:
            for done, future in enumerate(as_completed(futures), start=1):
                name = futures[future].name
                try:
                    facts[name] = by_structure(future.result(), structures)
                except DataError as error:
                    problems[name] = error.message.splitlines()
                if progress is not None:
                    progress(done, len(futures))
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise
    traits = {name: Traits(len(case.intensities), case.flat) for name, case in facts.items()}
    for finding in find_disagreements(traits, dataset.channels):
        problems.setdefault(finding.case, []).append(finding.line)
    refuse(dataset.root, [line for name in sorted(problems) for line in problems[name]])
    cases = tuple(facts[case.name] for case in dataset.cases)
    return Fingerprint(cases, _structures(dataset, cases), len(cases[0].intensities), _foreground(cases))


def by_structure(facts: CaseFacts, structures: Structures | None) -> CaseFacts:
    """Return the facts with structures of several values counted as one, and regions whole, each by its first value."""
    if structures is None or structures.plain:
        return facts
    centroids = centre_structures(facts.voxels, facts.centroids, structures.values)
    return replace(facts, voxels=count_structures(facts.voxels, structures.values), centroids=centroids)


def read_facts(
    case: Case,
    declared: frozenset[int] | None = None,
    ignore_label: int | None = None,
    background_values: Sequence[int] = (),
) -> CaseFacts:
    """Read one case and check it.

    Args:
        case: a case with a label.
        declared: label values that may occur beside 0; None: all.
        ignore_label: value of voxels without a reference; they are in no count and no statistic.
        background_values: values that count as background, beside 0.

    Raises:
        ImageError: one line per problem, each naming the file.
    """
    found = read_case(case, declared, ignore_label, background_values)
    problems = error_lines(found.findings)
    if problems:
        raise ImageError("\n".join(problems))
    return facts_of(found)


def facts_of(found: ReadCase) -> CaseFacts:
    """Return the facts of a case that was read without an error."""
    case, image, label, values, indices = found.case, found.image, found.label, found.voxels, found.indices
    if image is None or label is None or indices is None:
        raise ValueError(f"case {case.name!r} was not read whole")
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
    intensities = _draw(image.array, indices)
    digest = pixel_digest(image.array)
    ranges = tuple((float(channel.min()), float(channel.max())) for channel in image.array)
    return CaseFacts(case.name, shape, spacing, values, centroids, intensities, image.flat, digest, ranges)  # type: ignore[arg-type]  # three axes


def _ras_axes(affine: np.ndarray) -> list[tuple[int, int]]:
    """Return for each RAS axis the voxel axis that runs along it and its direction, 1 or -1."""
    orientation = nib.orientations.io_orientation(affine)
    axes = [(0, 1)] * 3
    for voxel_axis, (ras_axis, direction) in enumerate(orientation):
        axes[int(ras_axis)] = (voxel_axis, int(direction))
    return axes


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
