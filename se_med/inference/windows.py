"""Windows of a prepared volume through one or several networks, and the sums of what they say."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import product
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from se_med.data.padding import channel_minimum
from se_med.data.targets import Target
from se_med.inference.planes import Planes
from se_med.inference.rotations import Turn
from se_med.inference.tiling import Shape, Tiling

GAUSSIAN_SIGMA = 0.125
"""Standard deviation of a window's weights, as a share of its size."""
LEAST_WEIGHT = 1e-3
"""Weight of the voxels in a window's corners at least, as in MONAI."""

Image = NDArray[np.float32]


@dataclass(frozen=True)
class Pass:
    """One way of a window through a network; probabilities are averaged over passes.

    Attributes:
        forward: takes (B, C, *S) to logits (B, outputs, *S), in main memory; S are two axes for a 2D network.
        image: which of the prepared arrays it sees.
        flips: axes (RAS) along which the window is mirrored before, and its output after.
        shift: voxels per axis by which the volume is moved under the windows.
        turn: rotation of the windows before, which is taken back after; None for none.
        share: of the mean; the shares of all passes sum up to 1.
        precision: the arithmetic, for messages.
    """

    forward: Callable[[Tensor], Tensor]
    image: int = 0
    flips: tuple[int, ...] = ()
    shift: Shape = (0, 0, 0)
    turn: Turn | None = None
    share: float = 1.0
    precision: str = "fp32"


class View(NamedTuple):
    """What windows show in some passes: of which prepared array, moved by how much, and turned how."""

    image: int
    shift: Shape
    turn: Turn | None


class WindowStream:
    """Takes a volume through its passes, group of windows after group, and gives planes of outputs as they are finished.

    With one pass, outputs are logits, averaged where windows overlap with Gaussian weights. With several, outputs are
    probabilities, averaged over passes and windows, and turned into logits again when planes are read. A voxel that a turned
    window does not show is left to the other passes.

    Args:
        images: prepared arrays (C, X, Y, Z) of one shape: those of one volume as different networks see it.
        passes: what is averaged.
        tiling: the windows.
        slice_axis: axis across which 2D networks take slices; None for 3D.
        batch: windows that pass through the network together; where there are fewer, views of one window do.
        outputs: of the networks.
        target: what they stand for.
        entropy: from probabilities (outputs, *S) to (*S); if given, its mean over passes is one output more, the last.
    """

    def __init__(
        self,
        images: Sequence[Image],
        passes: Sequence[Pass],
        tiling: Tiling,
        slice_axis: int | None,
        batch: int,
        outputs: int,
        target: Target,
        entropy: Callable[[Tensor], Tensor] | None = None,
    ) -> None:
        self.images, self.passes, self.tiling = images, passes, tiling
        self.slice_axis, self.batch, self.target = slice_axis, batch, target
        self.entropy = entropy if len(passes) > 1 else None
        self.outputs = outputs
        weighted = not tiling.disjoint or any(one.turn for one in passes)
        self.planes = Planes(outputs + (self.entropy is not None), tiling, passes[0].precision, weighted=weighted)
        padded = any(one.turn for one in passes) or any(
            low or most or start + size > length
            for low, most, starts, size, length in zip(
                tiling.before, tiling.margins, tiling.starts, tiling.window, tiling.shape, strict=True
            )
            for start in starts[-1:]
        )
        self._minima = [channel_minimum(image) if padded else np.zeros(len(image), np.float32) for image in images]
        ways = {(one.shift, one.turn) for one in passes} if weighted else ()
        self._weights = {(shift, turn): _weights(tiling.window, shift, turn) for shift, turn in ways}
        self._total = sum(one.share for one in passes)
        self._views = _group(passes)
        self._groups: Iterator[tuple[list[Shape], int]] = tiling.groups()
        self._batch: Image | None = None

    def advance(self) -> None:
        """Take the next group of windows through all passes."""
        windows, finished = next(self._groups)
        for first in range(0, len(windows), self.batch):
            self._pass(windows[first : first + self.batch])
        self.planes.finish(finished)

    def read(self, planes: slice) -> Tensor:
        """Return finished planes of the prepared grid: logits (outputs, X, Y, Z), short along the axis; the entropy is the last.

        Raises:
            RunError: an output is not finite.
        """
        values = self.planes.read(planes)
        if len(self.passes) > 1:
            self.target.to_logits_(values[: self.outputs])
        return values

    def _pass(self, starts: Sequence[Shape]) -> None:
        """Take some windows through all passes; those that see the same are averaged before they are added."""
        together = max(1, self.batch // len(starts))
        for views, passes in self._views:
            share = sum(one.share for one in passes) / self._total
            for first in range(0, len(views), together):
                shown = list(product(views[first : first + together], starts))
                for (view, start), output in zip(shown, self._mean(passes, self._cut_all(shown)), strict=True):
                    shifted = zip(start, self.tiling.margins, view.shift, strict=True)
                    mean = output if view.turn is None else view.turn.turn_back(output)
                    weights = self._weights.get((view.shift, view.turn))
                    self.planes.add([first + most - moved for first, most, moved in shifted], mean, share, weights)

    def _mean(self, passes: Sequence[Pass], batch: Tensor) -> Tensor:
        """Return the mean (B, outputs, X, Y, Z) of passes that see the same."""
        if len(passes) == 1:
            return self._output(passes[0], batch)
        total = self._output(passes[0], batch).mul_(passes[0].share)
        for one in passes[1:]:
            total.add_(self._output(one, batch), alpha=one.share)
        return total.div_(sum(one.share for one in passes))

    def _output(self, one: Pass, batch: Tensor) -> Tensor:
        """Return logits (B, outputs, X, Y, Z) of one pass, or with several passes its probabilities, and their entropy."""
        dims = [axis + 2 for axis in one.flips]
        x = batch.flip(dims) if dims else batch
        if self.slice_axis is not None:
            x = x.squeeze(2 + self.slice_axis)
        output = one.forward(x)
        if self.slice_axis is not None:
            output = output.unsqueeze(2 + self.slice_axis)
        if dims:
            output = output.flip(dims)
        if len(self.passes) == 1:
            return output
        output = self.target.probabilities(output.transpose(0, 1).float())
        if self.entropy is not None:
            output = torch.cat([output, self.entropy(output)[None]])
        return output.transpose(0, 1)

    def _cut_all(self, shown: Sequence[tuple[View, Shape]]) -> Tensor:
        """Cut windows, and turn them, into memory that is used again for the next."""
        window = self.tiling.window
        shape = (len(shown), len(self.images[0]), *window)
        if self._batch is None or self._batch.shape != shape:
            self._batch = np.empty(shape, np.float32)
        for one, (view, start) in zip(self._batch, shown, strict=True):
            if view.turn is None:
                one[...] = self._cut(view.image, start, view.shift)
            else:
                context = self._cut(view.image, start, view.shift, view.turn.reach(window))
                one[...] = view.turn.turn(torch.from_numpy(np.ascontiguousarray(context)), window).numpy()
        return torch.from_numpy(self._batch)

    def _cut(self, image: int, start: Shape, shift: Shape, reach: Sequence[int] = (0, 0, 0)) -> Image:
        """Cut a window, and voxels around it, out of the volume moved by `shift`.

        The volume's border goes on for the margins, then the channels' minimum.
        """
        array, tiling = self.images[image], self.tiling
        inner, edges, outer = [slice(None)], [(0, 0)], [slice(None)]
        size = [length + 2 * beyond for length, beyond in zip(tiling.window, reach, strict=True)]
        for axis in range(3):
            first = start[axis] - tiling.before[axis] - shift[axis] - reach[axis]
            stop, length = first + size[axis], tiling.shape[axis]
            low, high = max(first, -shift[axis]), min(stop, length + tiling.margins[axis] - shift[axis])
            real = slice(max(first, 0), min(stop, length))
            inner.append(real)
            edges.append((real.start - low, high - real.stop))
            outer.append(slice(low - first, high - first))
        cut = array[tuple(inner)]
        if any(before or after for before, after in edges):
            cut = np.pad(cut, edges, mode="edge")
        if cut.shape[1:] == tuple(size):
            return cut
        window = np.empty((len(array), *size), np.float32)
        window[:] = self._minima[image].reshape(-1, 1, 1, 1)
        window[tuple(outer)] = cut
        return window


def _group(passes: Sequence[Pass]) -> list[tuple[list[View], list[Pass]]]:
    """Return views, and the passes that each of them goes through: views may pass together."""
    views: dict[View, list[Pass]] = {}
    for one in passes:
        views.setdefault(View(one.image, one.shift, one.turn), []).append(one)
    groups: dict[object, tuple[list[View], list[Pass]]] = {}
    for view, through in views.items():
        ways = tuple((one.forward, one.flips, one.share) for one in through)
        groups.setdefault(ways, ([], through))[0].append(view)
    return list(groups.values())


def gaussian_weights(window: Sequence[int]) -> Tensor:
    """Return the weights of a window's voxels: 1 in the middle, and so low at its border that seams are not seen.

    They are those of MONAI's `compute_importance_map` in mode gaussian; an axis of one voxel has weight 1.
    """
    weights = torch.ones(())
    for size in window:
        distance = torch.arange(-(size - 1) / 2.0, (size - 1) / 2.0 + 1, dtype=torch.float32)
        weights = weights.unsqueeze(-1) * torch.exp(distance**2 / (-2 * (GAUSSIAN_SIGMA * size) ** 2))
    return weights.clamp_(min=max(float(weights.min()), LEAST_WEIGHT))


def _weights(window: Sequence[int], shift: Shape, turn: Turn | None) -> Tensor:
    """Return the weights of a window's voxels in a pass."""
    weights = _moved(gaussian_weights(window), shift)
    return weights if turn is None else weights * turn.seen(window)


def _moved(weights: Tensor, shift: Shape) -> Tensor:
    """Return the weights moved with a window on a shifted grid, so that a voxel has the same weight in all passes over it."""
    for axis, (most, size) in enumerate(zip(shift, weights.shape, strict=True)):
        weights = weights.index_select(axis, (torch.arange(size) - most).clamp_(min=0))
    return weights
