"""Test-time shifts: a volume is segmented on several grids of the stem's blocks, and the probabilities are averaged.

A space-to-depth stem cuts the volume into blocks of voxels, and where the cuts fall is an accident of the volume's corner. The
mean over shifts of the grid is cycle spinning (Coifman and Donoho 1995, Translation-invariant de-noising).
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import product

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


def _distance(one: Shift, other: Shift, blocks: Sequence[int]) -> int:
    """Return the squared distance between two shifts of a grid that repeats after each block."""
    apart = (abs(a - b) for a, b in zip(one, other, strict=True))
    return sum(min(step, block - step) ** 2 for step, block in zip(apart, blocks, strict=True))
