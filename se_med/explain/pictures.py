"""Pictures of spatial gates: a slice of the image under the map of each gate, with the outlines of the structures."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from nibabel.affines import voxel_sizes
from nibabel.orientations import apply_orientation, inv_ornt_aff, io_orientation
from numpy.typing import NDArray

from se_med.data.structures import LabelValues, mask_of
from se_med.explain.maps import SpatialMap
from se_med.io.atomic import replacing
from se_med.io.volume import Volume
from se_med.page import ON_GREY

COLUMNS = 4
"""Panels beside each other."""
_WIDTH = 10.0  # inches
_SIDES = (("P", "A"), ("L", "R"), ("L", "R"))  # right and left of the plane across each RAS axis


def draw_overlays(
    image: Volume, maps: Sequence[SpatialMap], label: NDArray[np.integer[Any]], labels: LabelValues, channel: int = 0
) -> Figure:
    """Draw a slice of the image, and the same slice under each map.

    It is the slice with most of the structures, across the axis along which voxels are longest, seen as radiologists see it.

    Args:
        image: the image, array (C, X, Y, Z).
        maps: on its grid, at least one.
        label: label values (X, Y, Z) whose outlines are drawn.
        labels: name and value, or values, of each structure.
        channel: channel of the image that is shown.
    """
    orientation = io_orientation(image.affine)
    spacing = voxel_sizes(image.affine @ inv_ornt_aff(orientation, image.shape))
    axis = 2 if np.allclose(spacing, spacing[0], rtol=0.05) else int(np.argmax(spacing))
    oriented = apply_orientation(label, orientation)
    counts = (oriented > 0).sum(tuple(other for other in range(3) if other != axis))
    index = int(counts.argmax()) if counts.any() else oriented.shape[axis] // 2
    pixels, structures = (np.take(apply_orientation(one, orientation), index, axis) for one in (image.array[channel], label))
    across, up = (spacing[other] for other in range(3) if other != axis)
    extent = (-0.5 * across, (pixels.shape[0] - 0.5) * across, -0.5 * up, (pixels.shape[1] - 0.5) * up)
    rows = -(-(len(maps) + 1) // COLUMNS)
    panel = _WIDTH / COLUMNS
    height = min(panel * (extent[3] - extent[2]) / (extent[1] - extent[0]), 1.6 * panel)
    figure = Figure(figsize=(_WIDTH, rows * (height + 0.55)), layout="constrained", facecolor="white")
    grid = figure.subplots(rows, COLUMNS, squeeze=False)
    low, high = np.percentile(pixels, (0.5, 99.5))
    for axes, one in zip(grid.flat, [None, *maps], strict=False):
        axes.imshow(pixels.T, cmap="gray", vmin=low, vmax=max(high, low + 1e-6), origin="lower", extent=extent)
        if one is not None:
            values = np.take(apply_orientation(one.values, orientation), index, axis)
            ends = np.percentile(values, (1, 99))
            heat = axes.imshow(
                values.T,
                cmap="viridis",
                vmin=ends[0],
                vmax=max(ends[1], ends[0] + 1e-6),
                origin="lower",
                extent=extent,
                alpha=0.62,
            )
            bar = figure.colorbar(heat, ax=axes, shrink=0.75, aspect=14, pad=0.02)
            bar.ax.tick_params(labelsize=7)
        _outline(axes, structures, labels, (across, up))
        axes.set_title("image" if one is None else f"{one.gate.label}, {one.gate.block}", fontsize=9, loc="left")
        axes.set(xlim=(extent[1], extent[0]), ylim=(extent[2], extent[3]), xticks=[], yticks=[])
        if not image.flat:
            for place, letter in zip((0.98, 0.02), _SIDES[axis], strict=True):
                side = "right" if place > 0.5 else "left"
                axes.text(place, 0.5, letter, transform=axes.transAxes, color="white", fontsize=8, ha=side, va="center")
    for axes in grid.flat[len(maps) + 1 :]:
        axes.set_visible(False)
    return figure


def write_picture(path: Path, figure: Figure) -> None:
    """Write a figure as PNG, atomically.

    Raises:
        RunError: the file cannot be written.
    """
    with replacing(path) as temporary:
        figure.savefig(temporary, format="png", dpi=120)


def _outline(axes: Any, structures: NDArray[np.integer[Any]], labels: LabelValues, spacing: tuple[float, float]) -> None:
    x, y = (np.arange(-1, length + 1) * step for length, step in zip(structures.shape, spacing, strict=True))
    for position, values in enumerate(labels.values()):
        mask = np.pad(mask_of(structures, values), 1)
        if mask.any():
            axes.contour(x, y, mask.T, levels=[0.5], colors=[ON_GREY[position % len(ON_GREY)]], linewidths=1.1)
