"""Test-time rotations: windows pass through the network turned too, and the probabilities are averaged.

What a network says about a border depends by chance on how voxels fall on it; on a turned grid they fall otherwise (Wang et al.
2019, Aleatoric uncertainty estimation with test-time augmentation for medical image segmentation, arXiv 1807.07356).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from se_med.config.experiment import Config
from se_med.data.plan import Plan
from se_med.data.sampling import SPLINE_MARGIN, sample_image
from se_med.data.turning import Matrix, on_grid, reach, rotation_axes
from se_med.errors import UsageError

Shape = tuple[int, ...]
WITHIN = 1e-6
"""Voxels by which rounding may take a position beyond a window."""


@dataclass(frozen=True)
class Turn:
    """A rotation of windows about their centre.

    Attributes:
        axis: of the volume (RAS), about which it turns.
        degrees: angle, in mm, not in voxels.
        spacing: of the prepared volume, mm.
        cubic: windows are resampled by cubic splines, else linearly; outputs always linearly.
    """

    axis: int
    degrees: float
    spacing: tuple[float, ...]
    cubic: bool = False

    @cached_property
    def matrix(self) -> Matrix:
        """From voxels of the turned window to those of the volume, (4, 4), both from the window's centre."""
        first, second = [axis for axis in range(3) if axis != self.axis]
        matrix = np.eye(4)
        matrix[first, first] = matrix[second, second] = math.cos(math.radians(self.degrees))
        matrix[second, first] = math.sin(math.radians(self.degrees))
        matrix[first, second] = -matrix[second, first]
        return on_grid(matrix, self.spacing)

    @cached_property
    def inverse(self) -> Matrix:
        """The way back."""
        return np.asarray(np.linalg.inv(self.matrix), dtype=np.float64)

    def reach(self, window: Sequence[int]) -> Shape:
        """Return how many voxels of the volume around a window its turned copy shows, on both sides of each axis."""
        more = SPLINE_MARGIN if self.cubic else 0
        return tuple(math.ceil(voxels) + more if voxels > 0 else 0 for voxels in reach(self.matrix, window))

    def turn(self, context: Tensor, window: Sequence[int]) -> Tensor:
        """Take the turned window (C, *window) out of the window and what is around it, (C, *context) float32."""
        return sample_image(context, self.matrix, window, self.cubic)

    def turn_back(self, outputs: Tensor) -> Tensor:
        """Return the outputs (K, *window) of a turned window for the voxels of the window; those at its border beyond it."""
        return sample_image(outputs.contiguous(), self.inverse, outputs.shape[1:])

    def seen(self, window: Sequence[int]) -> Tensor:
        """Return 1 for the voxels of a window that its turned copy shows, and 0 for the others: (*window) float32."""
        half = [(length - 1) / 2 for length in window]
        steps = np.meshgrid(*(np.arange(length) - middle for length, middle in zip(window, half, strict=True)), indexing="ij")
        positions: npt.NDArray[np.float64] = np.tensordot(self.inverse[:3, :3], np.stack(steps), axes=1)
        limits = np.array(half).reshape(3, 1, 1, 1) + WITHIN
        return torch.from_numpy((np.abs(positions) <= limits).all(axis=0)).float()


def choose_rotations(config: Config, plan: Plan) -> tuple[Turn, ...]:
    """Return the test-time rotations: both ways about each axis that training turns about; none for an angle of 0.

    Args:
        config: the effective configuration.
        plan: gives the spacing and the axis of slices.

    Raises:
        UsageError: training does not turn as far as `inference.test_time_rotation`.
    """
    angle, affine = config.inference.test_time_rotation, config.augmentation.affine
    if angle == 0:
        return ()
    trained = affine.rotation if affine.probability > 0 else 0.0
    if angle > trained:
        raise UsageError(
            f"inference.test_time_rotation: {angle:g} degrees are more than the network is trained with "
            f"(augmentation.affine.rotation: {trained:g}); lower it, or train with more"
        )
    axes = rotation_axes(plan.spacing) if plan.slice_axis is None else {plan.slice_axis}
    cubic = config.augmentation.interpolation == "cubic"
    return tuple(Turn(axis, sign * angle, plan.spacing, cubic) for axis in sorted(axes) for sign in (1, -1))
