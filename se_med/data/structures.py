"""What label values are to networks and scores: structures of one or several values, regions that overlap, and their classes.

A *structure* has a name and one or more label values. Structures either exclude each other, or are *regions*, which may share
values (whole tumour, tumour core). Prepared labels hold one *class* per voxel: of structures that exclude each other there are as
many classes as structures; of regions one for each group of values that are in the same regions. Class 0 is the background.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from se_med.config.labels import as_values, order_regions

LabelValues = Mapping[str, int | Sequence[int]]
"""Name of each structure and its label value, or its values."""
Labels = NDArray[np.integer[Any]]


@dataclass(frozen=True)
class Structures:
    """The structures of a data set or plan.

    Attributes:
        values: name and label values of each structure, first the one that predictions write, in the order of the network's
            outputs. Regions are written in this order, later ones over earlier ones.
        regions: whether structures are regions, which may share values.
    """

    values: dict[str, tuple[int, ...]]
    regions: bool = False

    @cached_property
    def classes(self) -> tuple[tuple[int, ...], ...]:
        """The label values of each class but the background, first the one that predictions write."""
        if not self.regions:
            return tuple(self.values.values())
        written = {values[0] for values in self.values.values()}
        groups: dict[tuple[str, ...], list[int]] = {}
        for value in sorted({value for values in self.values.values() for value in values}):
            members = tuple(name for name, values in self.values.items() if value in values)
            groups.setdefault(members, []).append(value)
        # By value: the classes of regions are those of the same labels without regions, and so are cache and batches.
        return tuple(sorted(tuple(sorted(group, key=lambda value: (value not in written, value))) for group in groups.values()))

    @cached_property
    def membership(self) -> NDArray[np.bool_]:
        """Which class is part of which structure, (classes with background, structures)."""
        rows = [[False] * len(self.values)]
        rows += [[group[0] in values for values in self.values.values()] for group in self.classes]
        return np.array(rows, dtype=np.bool_)

    @property
    def labels(self) -> dict[str, int]:
        """Name of each structure and the value that predictions write for it."""
        return {name: values[0] for name, values in self.values.items()}

    @property
    def plain(self) -> bool:
        """Whether each structure is one label value and excludes the others."""
        return not self.regions and all(len(values) == 1 for values in self.values.values())

    @property
    def declared(self) -> frozenset[int]:
        """All label values of all structures."""
        return frozenset(value for values in self.values.values() for value in values)

    @property
    def entries(self) -> dict[str, int | tuple[int, ...]]:
        """Name of each structure and its label value, or its values where there are several."""
        return {name: values[0] if len(values) == 1 else values for name, values in self.values.items()}


def structures_of(labels: LabelValues) -> Structures:
    """Return structures that exclude each other; of several values the first is the one that predictions write."""
    return Structures({name: as_values(entry) for name, entry in labels.items()})


def regions_of(regions: LabelValues, written: Mapping[str, int] | None = None) -> Structures:
    """Return regions.

    Args:
        regions: name and label values of each.
        written: the value that predictions write for each, in the order of writing; chosen by `order_regions` when None.

    Raises:
        ValueError: nothing remains of a region, so that no value stands for it alone.
    """
    written = order_regions(regions) if written is None else written
    values = {name: (first, *(value for value in as_values(regions[name]) if value != first)) for name, first in written.items()}
    return Structures(values, regions=True)


def label_record(structures: Structures, background_values: Sequence[int] = ()) -> dict[str, Any]:
    """Return what is stored beside a prediction, so that it is scored as it was trained: JSON-able.

    `labels` has the value of each structure, or a list of all that references may hold, first the one that predictions write.
    """
    labels = {name: entry if isinstance(entry, int) else list(entry) for name, entry in structures.entries.items()}
    return {"labels": labels} | ({"background_values": list(background_values)} if background_values else {})


def mask_of(labels: Labels, values: int | Sequence[int]) -> NDArray[np.bool_]:
    """Return where a label map has one of the values of a structure."""
    first, *others = as_values(values)
    mask: NDArray[np.bool_] = labels == first
    for value in others:
        mask |= labels == value
    return mask


def without(labels: Labels, values: Iterable[int]) -> Labels:
    """Return a label map with some values set to background; the same array where none occurs."""
    chosen = [value for value in values if value]
    if not chosen:
        return labels
    mask = mask_of(labels, chosen)
    return np.where(mask, np.zeros((), labels.dtype), labels) if mask.any() else labels


def count_structures(voxels: Mapping[int, int], structures: LabelValues) -> dict[int, int]:
    """Return the voxels of the background and of each structure that occurs, by the structure's first value.

    Args:
        voxels: voxels of each label value.
        structures: regions may share values, whose voxels count for each of them.
    """
    counts = {0: voxels.get(0, 0)}
    for entry in structures.values():
        values = as_values(entry)
        if found := sum(voxels.get(value, 0) for value in values):
            counts[values[0]] = found
    return counts


def centre_structures(
    voxels: Mapping[int, int], centroids: Mapping[int, tuple[float, float, float]], structures: LabelValues
) -> dict[int, tuple[float, float, float]]:
    """Return the centre of each structure that occurs, by its first value: the mean of the centres of its values."""
    centres = {}
    for entry in structures.values():
        values = as_values(entry)
        present = [value for value in values if value in centroids]
        if present:
            weights = [voxels[value] for value in present]
            x, y, z = np.average([centroids[value] for value in present], axis=0, weights=weights).tolist()
            centres[values[0]] = (x, y, z)
    return centres
