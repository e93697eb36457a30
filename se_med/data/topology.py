"""Patch, stem, strides and kernels of a U-Net from the size and spacing of its input.

The rules for strides and kernels are nnU-Net's (Isensee et al. 2021, Nature Methods 18, arXiv 1904.08128): an axis is halved as
long as its features stay large enough and it is not much coarser than the others, and gets kernels of 3 once it is not. The
space-to-depth stem, which lets every convolution work on fewer and larger voxels, is new here.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from se_med.errors import UsageError

SMALLEST_FEATURE_MAP = 4
"""Axes are not halved below this many positions."""
MUCH_COARSER = 2.0
"""An axis whose spacing is this many times the finest is neither halved nor given kernels of 3."""
UNCOVERED = 0.03
"""Share of the median shape that a patch may leave out rather than be padded to the next multiple."""

Axes = tuple[int, ...]


@dataclass(frozen=True)
class Topology:
    """How a U-Net goes from resolution to resolution.

    Attributes:
        stem: space-to-depth factor per axis.
        strides: downsampling between stages, per axis.
        kernels: kernel size of each stage, per axis.
    """

    stem: Axes
    strides: tuple[Axes, ...]
    kernels: tuple[Axes, ...]

    @property
    def multiple(self) -> Axes:
        """What the input must be a multiple of, per axis."""
        return tuple(math.prod(factors) for factors in zip(self.stem, *self.strides, strict=True))


def grow_topology(
    size: Sequence[float],
    spacing: Sequence[float],
    stem: Axes,
    max_stages: int,
    stages: int | None = None,
) -> Topology:
    """Plan strides and kernels for an input.

    Args:
        size: voxels per axis.
        spacing: mm per axis.
        stem: space-to-depth factor per axis.
        max_stages: most stages to plan where `stages` is not given.
        stages: exact number of stages. Feature maps may then shrink below the usual smallest size.

    Raises:
        UsageError: the input is too small for that many stages.
    """
    if stages is None:
        strides = _halve(size, spacing, stem, max_stages - 1, SMALLEST_FEATURE_MAP)
        return Topology(stem, strides, choose_kernels(spacing, stem, strides))
    deepest = 0
    for smallest in (SMALLEST_FEATURE_MAP, 2, 1):
        strides = _halve(size, spacing, stem, stages - 1, smallest)
        if len(strides) == stages - 1:
            return Topology(stem, strides, choose_kernels(spacing, stem, strides))
        deepest = len(strides) + 1
    shown = "x".join(f"{extent:g}" for extent in size)
    raise UsageError(f"network.features: {stages} stages are too many for a patch of {shown} voxels; at most {deepest} fit")


def choose_kernels(spacing: Sequence[float], stem: Axes, strides: Sequence[Axes]) -> tuple[Axes, ...]:
    """Return the kernel size of each stage: 3, but 1 along an axis as long as it is much coarser than the finest."""
    current = [mm * factor for mm, factor in zip(spacing, stem, strict=True)]
    kernel = [1] * len(current)
    kernels = []
    for stride in (*strides, None):
        finest = min(current)
        kernel = [3 if size == 3 or mm < MUCH_COARSER * finest else 1 for size, mm in zip(kernel, current, strict=True)]
        kernels.append(tuple(kernel))
        if stride is not None:
            current = [mm * factor for mm, factor in zip(current, stride, strict=True)]
    return tuple(kernels)


def choose_stem(size: Sequence[float], spacing: Sequence[float]) -> Axes:
    """Return a stem of 2 along every axis that is long enough and about as fine as the finest axis."""
    finest = min(spacing)
    long_enough = 2 * 2 * SMALLEST_FEATURE_MAP
    return tuple(
        2 if extent >= long_enough and mm < MUCH_COARSER * finest else 1 for extent, mm in zip(size, spacing, strict=True)
    )


def choose_patch(
    shape: Sequence[int], spacing: Sequence[float], most_positions: float, plan: Callable[[Sequence[int]], Topology]
) -> tuple[Axes, Topology]:
    """Return the largest patch, up to the median shape, that the budget allows, and the network for it.

    Where the whole median shape is too much, the axis with the largest extent in mm is shortened, again and again, so that the
    patch tends to a cube.

    Args:
        shape: median shape in voxels.
        spacing: mm per axis.
        most_positions: most positions of the first stage (voxels divided by the stem's factors).
        plan: plans the network for an input size.
    """
    size = list(shape)
    while True:
        topology = plan(size)
        multiple = topology.multiple
        patch = tuple(
            max(1, math.ceil(extent * (1 - UNCOVERED) / step)) * step for extent, step in zip(size, multiple, strict=True)
        )
        shrinkable = [axis for axis, step in enumerate(multiple) if patch[axis] > step]
        if math.prod(patch) / math.prod(topology.stem) <= most_positions or not shrinkable:
            return patch, topology
        longest = max(shrinkable, key=lambda axis: patch[axis] * spacing[axis])
        size[longest] = patch[longest] - multiple[longest]


def check_patch(patch: Sequence[int], multiple: Axes) -> None:
    """Check that a patch can pass through the network.

    Raises:
        UsageError: it is not a multiple of the stem and strides along an axis; names the sizes next to it.
    """
    for axis, (extent, step) in enumerate(zip(patch, multiple, strict=True)):
        if extent % step:
            below, above = extent // step * step, -(-extent // step) * step
            nearest = f"{below} or {above}" if below else str(above)
            cause = f"is not a multiple of {step}, the product of stem and strides"
            raise UsageError(f"training.patch: {extent} (axis {axis}) {cause}; take {nearest}")


def _halve(size: Sequence[float], spacing: Sequence[float], stem: Axes, most: int, smallest: float) -> tuple[Axes, ...]:
    current = [extent / factor for extent, factor in zip(size, stem, strict=True)]
    millimetres = [mm * factor for mm, factor in zip(spacing, stem, strict=True)]
    strides: list[Axes] = []
    while len(strides) < most:
        large = [axis for axis, extent in enumerate(current) if extent >= 2 * smallest]
        finest = min((millimetres[axis] for axis in large), default=math.inf)
        axes = [axis for axis in large if millimetres[axis] < MUCH_COARSER * finest]
        # As in nnU-Net: one axis alone is halved only where plenty is left.
        if not axes or (len(axes) == 1 and len(current) > 1 and current[axes[0]] < 3 * smallest):
            break
        stride = tuple(2 if axis in axes else 1 for axis in range(len(current)))
        current = [extent / factor for extent, factor in zip(current, stride, strict=True)]
        millimetres = [mm * factor for mm, factor in zip(millimetres, stride, strict=True)]
        strides.append(stride)
    return tuple(strides)
