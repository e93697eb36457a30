"""Corrections of a label map by what is connected: pieces apart from the largest are dropped, holes are filled."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from se_med.data.structures import mask_of

Labels = NDArray[np.integer[Any]]
CORNERS = np.ones((3, 3, 3), dtype=np.bool_)
"""Voxels that share a face, an edge or a corner are connected."""


def correct(
    labels: Labels,
    largest: Sequence[Sequence[int]],
    filled: Sequence[Sequence[int]],
    structures: Sequence[Sequence[int]] = (),
) -> None:
    """Keep the largest piece of some structures and fill holes of some, in place.

    What is dropped becomes background, or what is left of it where regions overlap: a dropped piece of a tumour's core is still
    tumour. Only background is filled, so no structure takes a voxel from another.

    Args:
        labels: (X, Y, Z) label values.
        largest: for each structure whose largest piece is kept, its values; of equal pieces the first in memory order is kept.
        filled: likewise, the structures whose holes are filled: background that no path over faces leads out of. Holes get the
            first value.
        structures: the values of every structure of the data set.
    """
    for values in largest:
        keep_largest(labels, values, structures)
    for values in filled:
        fill_holes(labels, values)


def keep_largest(labels: Labels, values: Sequence[int], structures: Sequence[Sequence[int]] = ()) -> None:
    """Take all pieces of a structure but the largest out of it, in place."""
    box = _box(mask_of(labels, values))
    if box is None:
        return
    from scipy import ndimage  # here, since most predictions do without

    part = labels[box]
    pieces, count = ndimage.label(mask_of(part, values), structure=CORNERS)
    if count > 1:
        largest = 1 + int(np.bincount(pieces.ravel())[1:].argmax())
        dropped = (pieces != 0) & (pieces != largest)
        places = {value: dropped & (part == value) for value in values}
        for value, taken in places.items():
            part[taken] = left_of(value, values, structures)


def left_of(value: int, values: Sequence[int], structures: Sequence[Sequence[int]]) -> int:
    """Return what a voxel becomes that is taken out of a structure, and so of all that lie within that structure.

    Args:
        value: label value of the voxel.
        values: those of the structure.
        structures: those of every structure of the data set.

    Returns:
        The value of the other structures that it was in, and of no more; 0 where there are none, or no value stands for these.
    """
    kept = [one for one in structures if value in one and not set(one) <= set(values)]
    for candidate in kept[0] if kept else ():
        if all((candidate in one) == (one in kept) for one in structures):
            return candidate
    return 0


def fill_holes(labels: Labels, values: Sequence[int]) -> None:
    """Give a structure the background that it encloses, in place."""
    box = _box(mask_of(labels, values))
    if box is None:
        return
    from scipy import ndimage

    part = labels[box]
    part[ndimage.binary_fill_holes(mask_of(part, values)) & (part == 0)] = values[0]


def _box(mask: NDArray[np.bool_]) -> tuple[slice, ...] | None:
    """Return the slices around what is true; None where nothing is."""
    box = []
    for axis in range(mask.ndim):
        found = np.flatnonzero(mask.any(axis=tuple(other for other in range(mask.ndim) if other != axis)))
        if not len(found):
            return None
        box.append(slice(int(found[0]), int(found[-1]) + 1))
    return tuple(box)
