"""Small pictures of a case: one slice of the image with the outlines of its label."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from nibabel.orientations import apply_orientation, io_orientation
from numpy.typing import NDArray
from PIL import Image
from scipy import ndimage

from se_med.config.labels import as_values
from se_med.data.checks.reading import ReadCase
from se_med.data.structures import LabelValues, mask_of
from se_med.io.volume import Volume, same_geometry
from se_med.page import ON_GREY, picture_uri

EDGE = 240
"""Longest side of a thumbnail in pixels."""
PLANES = ("sagittal", "coronal", "axial")

_WHITE = "#FFFFFF"
_LINE = 2  # width of outlines in pixels
_THINNEST = 0.1  # shown thickness of an image as a share of its length, so that a few slices can be seen at all


@dataclass(frozen=True)
class Thumbnail:
    """A picture as a data URI and what it shows."""

    uri: str
    caption: str


def draw_thumbnails(found: ReadCase, structures: LabelValues) -> list[Thumbnail]:
    """Draw the slice with most of the structures: the image with their outlines, or each by itself where grids differ.

    Slices are shown as radiologists see them: the patient's right, or front, on the left.

    Args:
        found: a case as it was read. What cannot be read is not drawn.
        structures: name and values of each structure; they take their colours in this order. Other values that the case has are
            drawn white, and the slice is the one that shows most of them.

    Returns:
        One picture, two where image and label are on different grids, none where nothing can be read.
    """
    image, label = found.image, found.label
    known = {value for entry in structures.values() for value in as_values(entry)}
    odd = [value for value, count in found.voxels.items() if value and count and value not in known]
    if image is not None and label is not None and same_geometry(image, label) is None:
        return [_draw(image.array[0], label, structures, odd)]
    pictures = [] if image is None else [_draw(image.array[0], Volume(_nothing(image), image.affine), {}, [], "image, ")]
    if label is not None:
        pictures.append(_draw(np.zeros(label.shape, np.float32), label, structures, odd, "label, "))
    return pictures


def colours(structures: LabelValues) -> Mapping[str, str]:
    """Return the colour that thumbnails give each structure."""
    return {name: ON_GREY[position % len(ON_GREY)] for position, name in enumerate(structures)}


def _nothing(image: Volume) -> NDArray[np.uint8]:
    return np.zeros(image.shape, np.uint8)


def _draw(voxels: NDArray[np.float32], label: Volume, structures: LabelValues, odd: Sequence[int], what: str = "") -> Thumbnail:
    orientation = io_orientation(label.affine)
    voxels = apply_orientation(voxels, orientation)
    labels = apply_orientation(label.array, orientation)
    spacing = np.ones(3)
    spacing[orientation[:, 0].astype(int)] = label.spacing
    axis, index = _best_slice(mask_of(labels, odd) if odd else labels > 0, spacing)
    across, up = (other for other in range(3) if other != axis)
    pixels, marks = np.take(voxels, index, axis), np.take(labels, index, axis)
    length = np.array([pixels.shape[0] * spacing[across], pixels.shape[1] * spacing[up]])
    columns, rows = np.maximum(length, _THINNEST * length.max()) / length.max() * EDGE
    size = max(1, round(float(columns))), max(1, round(float(rows)))
    grey = _resized(_grey(pixels), size, Image.Resampling.BILINEAR)
    canvas = np.repeat(grey[..., np.newaxis], 3, axis=2)
    shown = [(entry, colours(structures)[name]) for name, entry in structures.items()] + ([(odd, _WHITE)] if odd else [])
    for entry, colour in shown:
        mask = _resized(mask_of(marks, entry).astype(np.uint8) * 255, size, Image.Resampling.NEAREST) > 0
        if mask.any():
            outline = mask & ~ndimage.binary_erosion(mask, iterations=_LINE)
            canvas[outline] = [int(colour[start : start + 2], 16) for start in (1, 3, 5)]
    where = "" if label.flat else f"{PLANES[axis]} slice {index + 1} of {labels.shape[axis]}"
    return Thumbnail(picture_uri(canvas), f"{what}{where}".rstrip(", "))


def _best_slice(foreground: NDArray[np.bool_], spacing: NDArray[np.float64]) -> tuple[int, int]:
    """Return the axis and slice to show: across the largest spacing, where most foreground is, or else the middle."""
    shape = foreground.shape
    thinnest = [axis for axis in range(3) if shape[axis] == 1]
    axis = thinnest[0] if thinnest else max(range(3), key=lambda one: (round(float(spacing[one]), 3), one))
    counts = foreground.sum(axis=tuple(other for other in range(3) if other != axis))
    return axis, int(counts.argmax()) if counts.any() else shape[axis] // 2


def _grey(pixels: NDArray[np.float32]) -> NDArray[np.uint8]:
    low, high = np.percentile(pixels, (0.5, 99.5))
    if not high > low:
        low, high = float(pixels.min()), float(pixels.max())
    scaled = (pixels - low) / (high - low) if high > low else np.full(pixels.shape, 0.15)
    grey: NDArray[np.uint8] = (scaled.clip(0, 1) * 255).astype(np.uint8)
    return grey


def _resized(pixels: NDArray[Any], size: tuple[int, int], resampling: Image.Resampling) -> NDArray[np.uint8]:
    """Turn (across, up) pixels into (rows, columns) as they are shown, of that size (columns, rows)."""
    shown = np.ascontiguousarray(pixels.T[::-1, ::-1])
    return np.asarray(Image.fromarray(shown).resize(size, resampling))
