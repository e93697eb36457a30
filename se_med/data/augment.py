"""Random transforms of training patches: MONAI's, each with a random state keyed by the sample.

No transform draws from a global generator, and none shares its generator with another: what one draws never shifts what
the next one sees.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import numpy.typing as npt
import torch
from monai.data.meta_obj import get_track_meta, set_track_meta
from monai.transforms.intensity.array import (
    RandAdjustContrast,
    RandGaussianNoise,
    RandGaussianSmooth,
    RandScaleIntensity,
    RandScaleIntensityFixedMean,
)
from monai.transforms.spatial.array import RandSimulateLowResolution
from monai.transforms.transform import Randomizable
from monai.transforms.utils import create_rotate
from scipy.ndimage import gaussian_filter
from torch import Tensor

from se_med.config.augmentation import Affine, AugmentationConfig, Elastic
from se_med.data.plan import Plan
from se_med.data.sampling import SPLINE_MARGIN, sample_affine
from se_med.data.turning import Matrix, fine_axes, on_grid, reach, rotation_axes

Read = Callable[[tuple[int, ...]], tuple[npt.NDArray[np.float32], npt.NDArray[np.uint8]]]
"""Reads the patch with a margin of that many voxels on both sides of each axis: image (C, *S) and label (*S)."""


@dataclass(frozen=True)
class _Step:
    """An intensity transform: with its probability it is applied to the image (C, *S)."""

    number: int
    probability: float
    transform: Randomizable
    prepare: Callable[[np.random.RandomState], None] = lambda _: None


class _Blur(RandGaussianSmooth):  # type: ignore[misc]  # MONAI has no types
    """MONAI's draw with SciPy's filter, which continues the border where MONAI's takes zeros, and is faster."""

    def __call__(self, img: Tensor, randomize: bool = True) -> Tensor:
        if randomize:
            self.randomize()
        sigma = (0.0, self.x, self.y, self.z)[: img.ndim]
        return torch.from_numpy(gaussian_filter(img.contiguous().numpy(), sigma, mode="nearest"))


class Augmentation:
    """Draws and applies the random transforms of one sample, in the order of `AugmentationConfig`.

    Args:
        config: resolved: `flip.axes` is set.
        plan: gives patch, spacing, slice axis and rank.
    """

    def __init__(self, config: AugmentationConfig, plan: Plan) -> None:
        if config.flip.axes is None:
            raise ValueError("augmentation.flip.axes is not resolved; take the axes from the plan first")
        self.patch = plan.patch
        self.config = config
        axes = [axis for axis in range(3) if axis != plan.slice_axis]
        self.flip_axes = tuple(axes.index(axis) for axis in config.flip.axes if axis in axes)
        self.spacing = tuple(plan.spacing[axis] for axis in axes)
        self.planes = rotation_axes(self.spacing)
        self.fine = fine_axes(self.spacing)
        self.cubic = config.interpolation == "cubic"
        self.steps = _intensity_steps(config, len(plan.patch))

    def __call__(self, read: Read, key: Sequence[int]) -> tuple[Tensor, Tensor]:
        """Read one patch and transform it.

        Args:
            read: called once, with the margin that the drawn rotation and scaling need, so that turned corners show real
                image. The margin is zero where nothing is resampled, and the patch then is an exact crop.
            key: non-negative integers that name the sample: seed, epoch, position.

        Returns:
            Image (C, *patch) float32 and label (1, *patch) uint8. Equal keys give bitwise equal tensors at any number of
            threads and whatever any other generator drew.
        """
        with _plain_tensors_on_one_thread():
            image, label = self._spatial(read, key)
            for step in self.steps:
                state = _state(key, step.number)
                if state.random_sample() < step.probability:
                    step.transform.set_random_state(state=state)
                    step.prepare(state)
                    image = step.transform(image)
        return image.contiguous(), label.contiguous()

    def _spatial(self, read: Read, key: Sequence[int]) -> tuple[Tensor, Tensor]:
        draws = _state(key, 0).random_sample(3)
        flips = [axis for axis in self.flip_axes if draws[axis] < self.config.flip.probability]
        matrix, field = self._draw_matrix(_state(key, 1)), self._draw_field(_state(key, 8))
        if matrix is None and field is not None:
            matrix = np.eye(len(self.patch) + 1)
        margin = (0,) * len(self.patch) if matrix is None else _margin(matrix, self.patch, field, self.cubic)
        context, context_label = read(margin)
        image, label = torch.from_numpy(context), torch.from_numpy(context_label)[None]
        if flips:
            dims = [axis + 1 for axis in flips]
            image, label = image.flip(dims), label.flip(dims)
        if matrix is not None:
            image, label = sample_affine(image, label, matrix, self.patch, field, self.cubic)
        return image, label

    def _draw_matrix(self, state: np.random.RandomState) -> Matrix | None:
        """Draw rotation, scaling and shear as a matrix from patch to image voxels about the centre; None where none is drawn."""
        affine: Affine = self.config.affine
        if state.random_sample() >= affine.probability:
            return None
        rank = len(self.patch)
        limit = math.radians(affine.rotation)
        angles = [angle if axis in self.planes else 0.0 for axis, angle in enumerate(state.uniform(-limit, limit, size=3))]
        rotation: Matrix = create_rotate(rank, angles if rank == 3 else angles[:1])
        scale = np.exp(state.uniform(*np.log(affine.scale)))
        low, high = np.log(affine.stretch)
        stretch = np.exp(state.uniform(low, high, size=3))[:rank]
        shear = state.uniform(-affine.shear, affine.shear, size=(3, 3))[:rank, :rank]
        body = np.eye(rank + 1)
        body[:rank, :rank] = np.where(np.outer(self.fine, self.fine), shear, 0)
        np.fill_diagonal(body[:rank, :rank], 1 / (scale * np.where(self.fine, stretch, 1.0)))
        return on_grid(rotation @ body, self.spacing)

    def _draw_field(self, state: np.random.RandomState) -> Tensor | None:
        """Draw displacements, (rank, *patch) in voxels; None where none are drawn."""
        elastic: Elastic = self.config.elastic
        if state.random_sample() >= elastic.probability:
            return None
        limit = state.uniform(*elastic.displacement)
        splines = [_splines(length, elastic.spacing) for length in self.patch]
        field = torch.from_numpy(state.uniform(-limit, limit, size=(len(splines), *(each.shape[1] for each in splines)))).float()
        for each in splines:
            field = torch.tensordot(field, each, dims=([1], [1]))  # the axis that is summed over comes back as the last
        field[[axis for axis, fine in enumerate(self.fine) if not fine]] = 0
        return field.contiguous()


def make_augmentation(config: AugmentationConfig, plan: Plan) -> Augmentation:
    """Return the sampler of the random transforms of a resolved configuration."""
    return Augmentation(config, plan)


def _intensity_steps(config: AugmentationConfig, rank: int) -> tuple[_Step, ...]:
    """Build the transforms that can happen. Probabilities are drawn here, so MONAI's own are one."""
    noise = RandGaussianNoise(prob=1.0, sample_std=False)

    def draw_noise_std(state: np.random.RandomState) -> None:  # MONAI's own draw always starts at zero
        noise.std = state.uniform(*config.noise.std)

    factors = tuple(factor - 1 for factor in config.brightness.factor)
    contrasts = tuple(factor - 1 for factor in config.contrast.factor)
    sigma = config.blur.sigma
    coarse = RandSimulateLowResolution(
        prob=1.0, zoom_range=config.low_resolution.zoom, upsample_mode="trilinear" if rank == 3 else "bilinear"
    )
    steps = (
        _Step(2, config.noise.probability, noise, draw_noise_std),
        _Step(3, config.blur.probability, _Blur(sigma, sigma, sigma, prob=1.0)),
        _Step(4, config.brightness.probability, RandScaleIntensity(factors, prob=1.0)),
        _Step(5, config.contrast.probability, RandScaleIntensityFixedMean(prob=1.0, factors=contrasts)),
        _Step(6, config.low_resolution.probability, coarse),
        _Step(7, config.gamma.probability, RandAdjustContrast(prob=1.0, gamma=config.gamma.gamma, retain_stats=True)),
    )
    return tuple(step for step in steps if step.probability > 0)


def _state(key: Sequence[int], transform: int) -> np.random.RandomState:
    return np.random.RandomState(np.random.Philox(np.random.SeedSequence([*key, transform])))


@lru_cache(maxsize=16)
def _splines(length: int, spacing: float) -> Tensor:
    """Return cubic B-splines that are `spacing` voxels apart, each at every voxel of an axis: (length, splines)."""
    position = np.arange(length)[:, None] / spacing
    centre = np.arange(-1, int((length - 1) / spacing) + 3)[None]
    away = np.abs(position - centre)
    near, far = 2 / 3 - away**2 + away**3 / 2, np.clip(2 - away, 0, None) ** 3 / 6
    return torch.from_numpy(np.where(away < 1, near, far)).float()


def _margin(matrix: Matrix, patch: Sequence[int], field: Tensor | None, cubic: bool) -> tuple[int, ...]:
    """Return how far beyond the patch a matrix about its centre and displacements reach, along each axis, in voxels."""
    beyond = reach(matrix, patch)
    if field is not None:
        beyond = beyond + field.abs().flatten(1).amax(dim=1).numpy()
    more = 1 + SPLINE_MARGIN if cubic else 1
    return tuple(int(voxels) + more for voxels in np.ceil(np.maximum(beyond, 0)))


@contextmanager
def _plain_tensors_on_one_thread() -> Iterator[None]:
    # Sums over a patch depend on how many threads share them, and a stream must not depend on the machine's cores. MONAI's
    # MetaTensor bookkeeping costs more than the transforms themselves on patches.
    threads, tracking = torch.get_num_threads(), get_track_meta()
    torch.set_num_threads(1)
    set_track_meta(False)
    try:
        yield
    finally:
        torch.set_num_threads(threads)
        set_track_meta(tracking)
