"""Pictures of a case: slices of the image with the outlines of prediction and reference."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from statistics import fmean
from typing import Any, Literal

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from matplotlib.patheffects import Normal, Stroke
from nibabel.affines import voxel_sizes
from nibabel.orientations import apply_orientation, inv_ornt_aff, io_orientation
from numpy.typing import NDArray

from se_med.data.structures import LabelValues, mask_of
from se_med.errors import UsageError
from se_med.evaluation.folders import Evaluation, find_label_files, volumes_by_name
from se_med.io.atomic import replacing
from se_med.io.images import read_image, read_label
from se_med.io.volume import Volume, same_geometry
from se_med.page.figure import literal
from se_med.page.palette import ON_GREY

PALETTE = ON_GREY
"""Colours that people with any kind of colour vision tell apart (Okabe and Ito 2008), the best on grey first."""

PLANES = ("sagittal", "coronal", "axial")
"""Name of the plane across each RAS axis."""

_SIDES = (("A", "P", "S", "I"), ("R", "L", "S", "I"), ("R", "L", "A", "P"))  # left, right, top, bottom of each plane
_HEIGHT = 5.0  # of one plane, in inches
_PANELS = 10.0  # width of all panels beside each other, in inches
_MARGIN = 0.35  # of the structures' extent, shown around them
_LINE = 1.6  # width of outlines, in points
_DASHES = (0.0, (3.5, 2.5))

Labels = NDArray[np.integer[Any]]


def draw_case(
    image: Volume,
    prediction: Labels,
    reference: Labels | None,
    path: str | Path,
    labels: LabelValues,
    title: str = "",
    *,
    planes: Literal["best", "all"] = "best",
    channel: int = 0,
) -> None:
    """Draw the slice with the most foreground, with the outline of each structure, as a PNG file.

    Slices are shown as radiologists see them (the patient's right on the left of the picture, or front on the left in sagittal
    slices), with true proportions, cut to the surroundings of the structures. Predictions are solid lines, references
    dashed ones.

    Args:
        image: the image, array (C, X, Y, Z).
        prediction: label values (X, Y, Z) on the image's grid.
        reference: likewise, or None.
        path: the file to write; it ends in `.png` and appears atomically.
        labels: name and value, or values, of each structure.
        title: text above the picture.
        planes: "best" for the one plane that shows most foreground, "all" for the three planes, each at its own best slice.
        channel: channel of the image that is shown.

    Raises:
        UsageError: the file name has another ending.
        ValueError: the arrays are not on one grid.
        RunError: the file cannot be written.
    """
    path = Path(path)
    if path.suffix.lower() != ".png":
        raise UsageError(f"{path}: pictures are written as PNG; name it .png")
    maps = [prediction] if reference is None else [prediction, reference]
    if any(one.shape != image.shape for one in maps):
        raise ValueError(f"label maps of shape {[one.shape for one in maps]} are not on the image's grid {image.shape}")
    orientation = io_orientation(image.affine)
    voxels = apply_orientation(image.array[channel], orientation)
    oriented = [apply_orientation(one, orientation) for one in maps]
    affine = image.affine @ inv_ornt_aff(orientation, image.shape)

    slices = _best_slices(oriented)
    most = max(range(3), key=lambda axis: slices[axis][1]) if any(count for _, count in slices) else 2
    axes = (2, 1, 0) if planes == "all" else (most,)
    figure = Figure(layout="constrained", facecolor="white")
    FigureCanvasAgg(figure)
    spacing = voxel_sizes(affine)
    boxes = [_box(oriented, axis, spacing) for axis in axes]
    widths = [float(np.ptp(box[0]) / np.ptp(box[1])) for box in boxes]
    figure.set_size_inches(_HEIGHT * sum(min(max(width, 0.4), 2.5) for width in widths) + 0.4, _HEIGHT + 1.1)
    grid = figure.subplots(1, len(axes), squeeze=False, width_ratios=widths)[0]
    limits = _brightness(voxels)
    for subplot, axis, box in zip(grid, axes, boxes, strict=True):
        index = slices[axis][0]
        _draw_slice(
            subplot, np.take(voxels, index, axis), [np.take(one, index, axis) for one in oriented], axis, spacing, labels, limits
        )
        _frame(subplot, box)
        if not image.flat:  # a photograph has no anatomical plane or sides
            _name_sides(subplot, axis, f"{PLANES[axis]}, {_position(affine, voxels.shape, axis, index)}")
    if title:
        figure.suptitle(literal(title), fontsize=12, fontweight="bold", x=0.005, ha="left")
    figure.legend(handles=_legend(labels, oriented), loc="outside lower left", ncols=4, frameon=False, fontsize=9)
    with replacing(path) as temporary:
        figure.savefig(temporary, format="png", dpi=150)


def draw_panels(
    image: Volume,
    predictions: Mapping[str, Labels],
    reference: Labels,
    labels: LabelValues,
    *,
    channel: int = 0,
) -> Figure:
    """Draw several predictions of one case side by side: the slice in which they and the reference disagree most.

    The plane is the one in which the structures are largest; outlines are those of `draw_case`.

    Args:
        image: the image, array (C, X, Y, Z).
        predictions: label values (X, Y, Z) on the image's grid, by the title of their panel.
        reference: likewise.
        labels: name and value, or values, of each structure.
        channel: channel of the image that is shown.

    Raises:
        ValueError: the arrays are not on one grid, or there is no prediction.
    """
    maps = [*predictions.values(), reference]
    if not predictions or any(one.shape != image.shape for one in maps):
        raise ValueError(f"label maps of shape {[one.shape for one in maps]} are not on the image's grid {image.shape}")
    orientation = io_orientation(image.affine)
    voxels = apply_orientation(image.array[channel], orientation)
    oriented = [apply_orientation(one, orientation) for one in maps]
    affine = image.affine @ inv_ornt_aff(orientation, image.shape)
    spacing = voxel_sizes(affine)
    slices = _best_slices(oriented)
    axis = max(range(3), key=lambda one: slices[one][1]) if any(count for _, count in slices) else 2
    index = _most_wrong(oriented[:-1], oriented[-1], axis)
    box = _box(oriented, axis, spacing)
    panel = _PANELS / len(predictions)
    height = min(panel * float(np.ptp(box[1]) / np.ptp(box[0])), 3.8)
    figure = Figure(figsize=(_PANELS, height + 0.8), layout="compressed", facecolor="white")
    grid = figure.subplots(1, len(predictions), squeeze=False)[0]
    limits = _brightness(voxels)
    for subplot, title, one in zip(grid, predictions, oriented, strict=False):
        cut = [np.take(array, index, axis) for array in (one, oriented[-1])]
        _draw_slice(subplot, np.take(voxels, index, axis), cut, axis, spacing, labels, limits)
        _frame(subplot, box)
        if not image.flat:
            _name_sides(subplot, axis, "")
        subplot.set_title(literal(title), fontsize=10, loc="left")
    figure.legend(handles=_legend(labels, oriented), loc="outside lower left", ncols=5, frameon=False, fontsize=9)
    if not image.flat:
        figure.supxlabel(f"{PLANES[axis]}, {_position(affine, voxels.shape, axis, index)}", fontsize=9, x=0.995, ha="right")
    return figure


def draw_median_case(
    evaluation: Evaluation, images: str | Path, prediction: str | Path, reference: str | Path, path: str | Path
) -> str:
    """Draw the case whose Dice is the median of all that can be drawn: neither the best nor the worst.

    Args:
        evaluation: what `evaluate_folder` gave for `prediction` and `reference`.
        images: folder of the images, or one image; names are those of the references, or these with `_0000`.
        prediction: folder of label maps, or one file.
        reference: likewise.
        path: the PNG file to write.

    Returns:
        Name of the case.

    Raises:
        UsageError: no scored case has a prediction and an image, or the image has another grid.
        ImageError: the image cannot be read.
        RunError: the picture cannot be written.
    """
    predictions, references = find_label_files(prediction, reference)
    found = volumes_by_name(Path(images))
    dice: dict[str, list[float]] = {}
    for score in evaluation.summary.scores:
        if score.dice is not None and score.case in predictions:
            dice.setdefault(score.case, []).append(score.dice)
    if Path(images).is_file() and len(references) == 1:
        found = dict(zip(references, found.values(), strict=True))
    files = {case: found.get(case, found.get(f"{case}_0000")) for case in dice}
    ranked = sorted((fmean(dice[case]), case, file) for case, file in files.items() if file is not None)
    if not ranked:
        raise UsageError(f"{images}: no image of a case that was scored; images must be named as the references")
    value, case, file = ranked[len(ranked) // 2]
    image = read_image(file)
    labels = [read_label(predictions[case]), read_label(references[case])]
    difference = same_geometry(image, labels[1])
    if difference:
        raise UsageError(f"{file}: grid differs from {references[case]}: {difference}; name the folder of its images")
    title = f"{case}   Dice {value:.3f}"
    draw_case(image, labels[0].array, labels[1].array, path, evaluation.labels, title, planes="best" if image.flat else "all")
    return case


def _most_wrong(predictions: list[Labels], reference: Labels, axis: int) -> int:
    """Return the slice with the most wrong voxels of all predictions, among those that show a good part of the reference."""
    others = tuple(other for other in range(3) if other != axis)
    wrong = np.sum([(one != reference).sum(axis=others) for one in predictions], axis=0)
    shown = (reference > 0).sum(axis=others)
    return int(np.argmax(np.where(shown >= 0.4 * shown.max(), wrong, -1)))


def _best_slices(maps: list[Labels]) -> list[tuple[int, int]]:
    """Return, for each axis, the slice with the most foreground voxels and their number; the middle one where there are none."""
    foreground = np.logical_or.reduce([one > 0 for one in maps])
    result = []
    for axis in range(3):
        counts = foreground.sum(axis=tuple(other for other in range(3) if other != axis))
        index = int(counts.argmax()) if counts.any() else foreground.shape[axis] // 2
        result.append((index, int(counts[index])))
    return result


def _in_plane(axis: int) -> tuple[int, int]:
    """Return the RAS axes that run across and up the picture."""
    across, up = (other for other in range(3) if other != axis)
    return across, up


def _box(maps: list[Labels], axis: int, spacing: NDArray[np.float64]) -> tuple[tuple[float, float], tuple[float, float]]:
    """Return the range across and up to show, in mm: the structures and their surroundings, nearly square."""
    foreground = np.logical_or.reduce([one > 0 for one in maps])
    whole = [(-0.5 * spacing[one], (foreground.shape[one] - 0.5) * spacing[one]) for one in _in_plane(axis)]
    if not foreground.any():
        return whole[0], whole[1]
    ranges = []
    for one in _in_plane(axis):
        occupied = np.flatnonzero(foreground.any(axis=tuple(other for other in range(3) if other != one)))
        ranges.append(((occupied[0] - 0.5) * spacing[one], (occupied[-1] + 0.5) * spacing[one]))
    wanted = max(high - low for low, high in ranges) * (1 + 2 * _MARGIN)
    box = []
    for (low, high), (first, last) in zip(ranges, whole, strict=True):
        start = max(first, min((low + high - wanted) / 2, last - wanted))
        box.append((float(start), float(min(last, start + wanted))))
    return box[0], box[1]


def _brightness(voxels: NDArray[Any]) -> tuple[float, float]:
    low, high = np.percentile(voxels, (0.5, 99.5))
    return (float(low), float(high)) if high > low else (float(low), float(low) + 1.0)


def _draw_slice(
    subplot: Axes,
    pixels: NDArray[Any],
    maps: list[Labels],
    axis: int,
    spacing: NDArray[np.float64],
    labels: LabelValues,
    limits: tuple[float, float],
) -> None:
    """Draw (across, up) pixels and the outlines of their labels, in mm from the first voxel's centre."""
    across, up = _in_plane(axis)
    width, height = pixels.shape[0] * spacing[across], pixels.shape[1] * spacing[up]
    extent = (-0.5 * spacing[across], width - 0.5 * spacing[across], -0.5 * spacing[up], height - 0.5 * spacing[up])
    low, high = limits
    subplot.imshow(pixels.T, cmap="gray", vmin=low, vmax=high, origin="lower", extent=extent, interpolation="bilinear")
    # One voxel of background around, so that outlines close at the border of the image.
    x, y = (np.arange(-1, length + 1) * spacing[one] for length, one in zip(pixels.shape, (across, up), strict=True))
    halo = [Stroke(linewidth=2.6, foreground=(0, 0, 0, 0.55)), Normal()]
    for position, values in enumerate(labels.values()):
        colour = PALETTE[position % len(PALETTE)]
        for one, style in zip(maps, ("solid", _DASHES), strict=False):
            mask = np.pad(mask_of(one, values), 1)
            if mask.any():
                # The reference is drawn paler and above, so that it shows where both agree.
                tone = colour if style == "solid" else _paler(colour)
                drawn = subplot.contour(x, y, mask.T, levels=[0.5], colors=[tone], linestyles=[style], linewidths=[_LINE])
                drawn.set_path_effects(halo if style == "solid" else [Normal()])


def _paler(colour: str) -> tuple[float, float, float]:
    red, green, blue = (int(colour[start : start + 2], 16) / 255 for start in (1, 3, 5))
    return tuple(0.35 * part + 0.65 for part in (red, green, blue))  # type: ignore[return-value]


def _frame(subplot: Axes, box: tuple[tuple[float, float], tuple[float, float]]) -> None:
    """Set the range that is shown."""
    subplot.set_xlim(box[0][1], box[0][0])  # R (or A) on the left
    subplot.set_ylim(*box[1])
    subplot.set_aspect("equal")
    subplot.set_xticks([])
    subplot.set_yticks([])
    subplot.set_facecolor("black")


def _name_sides(subplot: Axes, axis: int, caption: str) -> None:
    """Write the caption of a plane and the letters of its sides."""
    subplot.set_title(caption, fontsize=10, loc="left")
    places = (
        (0.02, 0.5, "left", "center"),
        (0.98, 0.5, "right", "center"),
        (0.5, 0.98, "center", "top"),
        (0.5, 0.02, "center", "bottom"),
    )
    for letter, (x, y, horizontal, vertical) in zip(_SIDES[axis], places, strict=True):
        text = subplot.text(x, y, letter, transform=subplot.transAxes, ha=horizontal, va=vertical, color="white", fontsize=10)
        text.set_path_effects([Stroke(linewidth=2, foreground="black"), Normal()])


def _position(affine: NDArray[np.float64], shape: tuple[int, ...], axis: int, index: int) -> str:
    """Return where the middle of a slice lies in the world, e.g. `z = -12.0 mm`."""
    middle = (np.array(shape) - 1) / 2
    middle[axis] = index
    millimetres = (affine @ [*middle, 1.0])[axis]
    return f"{'xyz'[axis]} = {millimetres:.1f} mm"


def _legend(labels: LabelValues, maps: list[Labels]) -> list[Any]:
    handles: list[Any] = [
        Patch(color=PALETTE[position % len(PALETTE)], label=literal(name))
        for position, (name, values) in enumerate(labels.items())
        if any(mask_of(one, values).any() for one in maps)
    ]
    handles.append(Line2D([], [], color="0.25", linewidth=_LINE, label="prediction"))
    if len(maps) > 1:
        handles.append(Line2D([], [], color="0.25", linewidth=_LINE, linestyle=_DASHES, label="reference"))
    return handles
