"""A volume through a network window by window, exactly as prediction does it, with the place of every window known."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from se_med.data.grids import find_grids
from se_med.data.preparation import IGNORED, Array
from se_med.data.restoration import Restoration
from se_med.errors import ImageError
from se_med.inference.engine import Branch
from se_med.inference.fitting import Extras, fit
from se_med.inference.memory import GIB
from se_med.inference.predictor import Predictor
from se_med.inference.tiling import Shape, Tiling
from se_med.inference.windows import Pass, WindowStream
from se_med.io.volume import Geometry


@dataclass(frozen=True)
class Place:
    """Where a window lies.

    Attributes:
        start: its first voxel on the prepared grid per axis (RAS); negative where the volume is padded.
        size: its size.
        shape: of the prepared volume.
    """

    start: Shape
    size: Shape
    shape: Shape

    @property
    def inside(self) -> tuple[slice, slice, slice]:
        """The part of the window that lies in the volume and not in its padding, in voxels of the window."""
        x, y, z = (
            slice(max(0, -start), min(size, length - start))
            for start, size, length in zip(self.start, self.size, self.shape, strict=True)
        )
        return x, y, z

    def cut(self, classes: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """Cut the window out of a prepared label (X, Y, Z); padding is IGNORED."""
        window = np.full(self.size, IGNORED, np.uint8)
        part = tuple(
            slice(max(0, start), min(length, start + size))
            for start, size, length in zip(self.start, self.size, self.shape, strict=True)
        )
        window[self.inside] = classes[part]
        return window


Visit = Callable[[Tensor, Sequence[Place]], Tensor]
"""Takes windows (B, C, *S) and their places to (B, outputs, *S); S are two axes for a 2D network."""


def branch_of(predictor: Predictor, array: Array, native: Geometry, visit: Visit, outputs: int, name: object) -> Branch:
    """Return a volume on its way through the windows that prediction would use, in a single pass.

    Test-time flips and shifts are left out, and of an ensemble only the first network is asked.

    Args:
        predictor: gives the windows.
        array: prepared volume, (C, X, Y, Z).
        native: its own grid.
        visit: is given all windows, some at a time.
        outputs: how many maps it returns.
        name: of the volume, for errors.

    Raises:
        ImageError: the volume takes more memory than `inference.max_memory`.
    """
    member, plan, inference = predictor.members[0], predictor.plan, predictor.config.inference
    grids, limit = find_grids(native, plan.spacing, name), inference.max_memory * GIB
    way = fit([[member]], [grids], inference, Extras(), limit)
    if way.needed > limit:
        raise ImageError(
            f"{name}: {way.needed / GIB:.2f} GiB are needed beside the network, but inference.max_memory is {limit / GIB:g}; "
            "raise it"
        )
    tiling = way.tilings[0]
    places = _places(tiling, way.batch)

    def forward(batch: Tensor) -> Tensor:
        return visit(batch, next(places))

    one = Pass(forward, precision=member.precision)
    stream = WindowStream([array], [one], tiling, plan.slice_axis, way.batch, outputs, predictor.preparation.target)
    return Branch(stream, Restoration(grids, tiling.axis))


@contextmanager
def evaluating(network: nn.Module) -> Iterator[None]:
    """Compute without gradients, the network in evaluation mode; leave its mode as it was."""
    training = network.training
    network.eval()
    try:
        with torch.inference_mode():
            yield
    finally:
        network.train(training)


def pad_crop(places: Sequence[Place], slice_axis: int | None, sizes: Sequence[int]) -> list[tuple[slice, ...]]:
    """Return for each window the part of a map of the network that lies in the volume.

    Args:
        places: of the windows.
        slice_axis: axis that a 2D network does not see; None for 3D.
        sizes: spatial sizes of the map, which may be coarser than the window.
    """
    crops = []
    for place in places:
        axes = [axis for axis in range(3) if axis != slice_axis]
        crop = []
        for axis, size in zip(axes, sizes, strict=True):
            inside, ratio = place.inside[axis], place.size[axis] / size
            first = int(np.floor(inside.start / ratio))
            crop.append(slice(first, max(first + 1, int(np.ceil(inside.stop / ratio)))))
        crops.append(tuple(crop))
    return crops


def label_windows(classes: NDArray[np.uint8], places: Sequence[Place], slice_axis: int | None) -> Tensor:
    """Return the prepared labels of some windows, (B, *S) uint8; S are two axes for a 2D network."""
    windows = np.stack([place.cut(classes) for place in places])
    return torch.from_numpy(windows if slice_axis is None else windows.squeeze(1 + slice_axis))


def _places(tiling: Tiling, batch: int) -> Iterator[list[Place]]:
    """Yield the places of the windows of each call, in the order in which a stream with a single pass makes them."""
    for windows, _ in tiling.groups():
        for first in range(0, len(windows), batch):
            yield [_place(window, tiling) for window in windows[first : first + batch]]


def _place(window: Shape, tiling: Tiling) -> Place:
    x, y, z = (start - low for start, low in zip(window, tiling.before, strict=True))
    return Place((x, y, z), tiling.window, tiling.shape)
