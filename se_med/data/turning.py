"""Turning a volume about its axes: which of them, and how far beyond a patch that reaches."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

ANISOTROPIC = 3.0
"""An axis with this many times the finest spacing is not turned into: its slices are too far apart to interpolate between."""

Matrix = npt.NDArray[np.float64]


def fine_axes(spacing: Sequence[float]) -> tuple[bool, ...]:
    """Return which axes are fine enough to be turned into, for spacing in mm."""
    return tuple(value < ANISOTROPIC * min(spacing) for value in spacing)


def rotation_axes(spacing: Sequence[float]) -> frozenset[int]:
    """Return the axes that may be turned about: all, or the coarse one alone where one spacing is much coarser.

    Args:
        spacing: in mm. With two axes, the plane is turned: axis 0 stands for that.
    """
    if len(spacing) == 2:
        return frozenset({0})
    coarse = frozenset(axis for axis, fine in enumerate(fine_axes(spacing)) if not fine)
    if not coarse:
        return frozenset({0, 1, 2})
    return coarse if len(coarse) == 1 else frozenset()


def on_grid(matrix: Matrix, spacing: Sequence[float]) -> Matrix:
    """Return a map in mm as one in voxels: a rotation is one of the body, which anisotropic spacing would shear.

    Args:
        matrix: (rank + 1, rank + 1), homogeneous.
        spacing: in mm.
    """
    scale = np.diag([*spacing, 1.0])
    found: Matrix = np.linalg.inv(scale) @ matrix @ scale
    return found


def reach(matrix: Matrix, size: Sequence[int]) -> npt.NDArray[np.float64]:
    """Return how far beyond a patch a map about its centre reaches along each axis, in voxels; negative where it stays inside.

    Args:
        matrix: (rank + 1, rank + 1), from voxels of the patch to those of the volume.
        size: of the patch.
    """
    rank, half = len(size), np.array(size) / 2
    found: npt.NDArray[np.float64] = np.abs(matrix[:rank, :rank]) @ half - half
    return found
