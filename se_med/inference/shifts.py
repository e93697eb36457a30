"""Test-time shifts: a volume is segmented on several grids of the stem's blocks, and the probabilities are averaged.

A space-to-depth stem cuts the volume into blocks of voxels, and where the cuts fall is an accident of the volume's corner. The
mean over shifts of the grid is cycle spinning (Coifman and Donoho 1995, Translation-invariant de-noising).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from itertools import product

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

Shift = tuple[int, ...]


def choose_shifts(blocks: Sequence[int], most: int) -> list[Shift]:
    """Return at most ``most`` different shifts of a grid of blocks, as evenly spread over a block as a greedy choice makes them.

    Args:
        blocks: voxels of a block, per axis.
        most: number of shifts, if the block has as many voxels. The first is always no shift.
    """
    rest = list(product(*map(range, blocks)))
    chosen = [rest.pop(0)]
    while rest and len(chosen) < most:
        farthest = max(rest, key=lambda shift: min(_distance(shift, other, blocks) for other in chosen))
        rest.remove(farthest)
        chosen.append(farthest)
    return chosen


def mean_over_shifts(
    segment: Callable[[NDArray[np.float32]], Tensor], image: NDArray[np.float32], shifts: Sequence[Shift]
) -> Tensor:
    """Segment a volume once per shift and average the probabilities.

    Args:
        segment: takes (C, X, Y, Z) to logits (classes, X, Y, Z).
        image: (C, X, Y, Z). For each pass it is continued at its faces by as many voxels as the largest shifts.
        shifts: voxels per axis. For a single one, no shift, the logits of the one pass are returned.

    Returns:
        Logarithms of the mean probabilities, (classes, X, Y, Z): logits like any other, whose softmax is that mean.
    """
    if len(shifts) == 1:
        return segment(image)
    largest = [max(along) for along in zip(*shifts, strict=True)]
    total: Tensor | None = None
    for shift in shifts:
        margins = [(before, most - before) for before, most in zip(shift, largest, strict=True)]
        inside = tuple(slice(before, before + length) for before, length in zip(shift, image.shape[1:], strict=True))
        logits = torch.log_softmax(segment(np.pad(image, [(0, 0), *margins], mode="edge"))[(slice(None), *inside)], 0)
        total = logits if total is None else torch.logaddexp(total, logits, out=total)
    return (total if total is not None else segment(image)) - math.log(len(shifts))


def _distance(one: Shift, other: Shift, blocks: Sequence[int]) -> int:
    """Return the squared distance between two shifts of a grid that repeats after each block."""
    apart = (abs(a - b) for a, b in zip(one, other, strict=True))
    return sum(min(step, block - step) ** 2 for step, block in zip(apart, blocks, strict=True))
