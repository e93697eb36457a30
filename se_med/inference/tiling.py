"""Where windows lie on a prepared volume, and which planes of it are finished when. Geometry alone; nothing is computed."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise, product

Shape = tuple[int, int, int]


@dataclass(frozen=True)
class Tiling:
    """Windows over a volume, padded where it is smaller, in groups that follow one another along an axis.

    Windows count from the first voxel of the padded volume. Passes on shifted grids see the same windows over a volume that is
    moved by 0 to `margins` voxels, so sums of outputs lie on a grid with these margins before the padded volume.

    Attributes:
        shape: of the volume.
        window: size of the windows; 1 along the axis across which a 2D network takes slices.
        margins: largest shift per axis.
        before: voxels of padding before the volume.
        starts: along each axis, where the windows begin.
        axis: along which groups follow one another.
        together: how many starts along that axis make a group, so that there are enough windows for a batch.
    """

    shape: Shape
    window: Shape
    margins: Shape
    before: Shape
    starts: tuple[tuple[int, ...], tuple[int, ...], tuple[int, ...]]
    axis: int
    together: int

    @property
    def extent(self) -> Shape:
        """Shape of the grid on which outputs are summed."""
        return _shape(starts[-1] + size + most for starts, size, most in zip(self.starts, self.window, self.margins, strict=True))

    @property
    def origin(self) -> Shape:
        """Where the volume's first voxel lies on that grid."""
        return _shape(low + most for low, most in zip(self.before, self.margins, strict=True))

    @property
    def capacity(self) -> int:
        """Planes along `axis` that must be kept at once: those of a group, and two that interpolation still needs."""
        starts = self.starts[self.axis]
        reach = max((group[-1] - group[0] for group in self._along), default=0)
        return min(
            self.extent[self.axis], reach + self.window[self.axis] + self.margins[self.axis] + (2 if len(starts) > 1 else 0)
        )

    @property
    def count(self) -> int:
        """Number of windows."""
        return math.prod(map(len, self.starts))

    @property
    def per_plane(self) -> int:
        """Number of windows, of a 2D network those of one slice."""
        return math.prod(len(starts) for starts, size in zip(self.starts, self.window, strict=True) if size > 1)

    @property
    def padded(self) -> bool:
        """Whether windows reach beyond the volume and its margins."""
        return any(
            starts[-1] + size > length + most
            for starts, size, length, most in zip(self.starts, self.window, self.shape, self.margins, strict=True)
        )

    @property
    def disjoint(self) -> bool:
        """Whether no voxel is in two windows, so that nothing has to be weighed."""
        return all(
            after - start >= size
            for starts, size in zip(self.starts, self.window, strict=True)
            for start, after in pairwise(starts)
        )

    def groups(self) -> Iterator[tuple[list[Shape], int]]:
        """Yield the starts of the windows of each group, and the plane of the sums before which all is finished after it."""
        for index, along in enumerate(self._along):
            axes = [along if axis == self.axis else starts for axis, starts in enumerate(self.starts)]
            last = index + 1 == len(self._along)
            yield [_shape(start) for start in product(*axes)], self.extent[self.axis] if last else self._along[index + 1][0]

    @cached_property
    def _along(self) -> list[tuple[int, ...]]:
        starts = self.starts[self.axis]
        return [starts[first : first + self.together] for first in range(0, len(starts), self.together)]


def tile(
    shape: Sequence[int],
    window: Sequence[int],
    margins: Sequence[int],
    overlap: float,
    batch: int,
    axis: int | None = None,
) -> Tiling:
    """Lay windows over a volume, as MONAI's `sliding_window_inference` does: the last one along an axis ends with the volume.

    Args:
        shape: of the volume.
        window: size of the windows. A smaller volume is padded evenly on both sides, the odd voxel after it.
        margins: largest shift per axis; the volume is that much longer.
        overlap: share of a window that overlaps the next.
        batch: windows that pass through the network together.
        axis: along which groups of windows follow one another; by default the one that takes least memory.
    """
    lengths = [length + most for length, most in zip(shape, margins, strict=True)]
    before = [max(0, size - length) // 2 for length, size in zip(lengths, window, strict=True)]
    starts = [
        _starts(max(length, size), size, overlap if size > 1 else 0.0) for length, size in zip(lengths, window, strict=True)
    ]
    # Along the axis with the smallest share of kept planes the sums take least memory.
    shares = [(size + most) / (starts[-1] + size + most) for starts, size, most in zip(starts, window, margins, strict=True)]
    axis = shares.index(min(shares)) if axis is None else axis
    across = math.prod(len(along) for other, along in enumerate(starts) if other != axis)
    x, y, z = starts
    return Tiling(_shape(shape), _shape(window), _shape(margins), _shape(before), (x, y, z), axis, math.ceil(batch / across))


def whole_window(
    shape: Sequence[int], window: Sequence[int], margins: Sequence[int], divisor: Sequence[int], largest: float
) -> Shape | None:
    """Return the size of one window over a whole volume that is not much larger than a window.

    Args:
        shape: of the volume.
        window: size of the windows.
        margins: largest shift per axis.
        divisor: what the sizes must be multiples of; 1 along the axis across which a 2D network takes slices.
        largest: how many times the usual window the volume may be along an axis.

    Returns:
        None where the volume is larger.
    """
    sizes = []
    for length, size, most, by in zip(shape, window, margins, divisor, strict=True):
        if size > 1 and length > largest * size:
            return None
        sizes.append(max(size, math.ceil((length + most) / by) * by) if size > 1 else 1)
    return _shape(sizes)


def _starts(length: int, size: int, overlap: float) -> tuple[int, ...]:
    step = max(1, int(size * (1 - overlap)))
    regular = range(0, length - size, step)
    return (*regular, length - size)


def _shape(values: Iterator[int] | Sequence[int]) -> Shape:
    x, y, z = values
    return x, y, z
