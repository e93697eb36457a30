"""The course of a run as a picture: loss and validation Dice against steps."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from se_med.io.atomic import replacing
from se_med.page.figure import literal
from se_med.training.early_stopping import SELECTION
from se_med.training.metrics_log import Row

PALETTE = ("#D55E00", "#0072B2", "#009E73", "#E69F00", "#56B4E9", "#CC79A7")
"""Colours that people with any kind of colour vision tell apart (Okabe and Ito 2008), the darkest on white first."""


def draw_curves(rows: Sequence[Row], final: dict[str, float | None], path: Path, title: str) -> None:
    """Draw the training loss of each epoch and the Dice of each validation, as a PNG file.

    Args:
        rows: rows of ``metrics.csv``.
        final: Dice of each structure after the last step.
        path: the file to write; it appears atomically.
        title: text above the picture.
    """
    figure = Figure(figsize=(9, 3.6), layout="constrained")
    FigureCanvasAgg(figure)
    figure.suptitle(title)
    left, right = figure.subplots(1, 2)
    steps = [int(row["step"]) for row in rows]
    left.plot(steps, [float(row["loss"]) for row in rows], color="black", linewidth=1.2)
    left.set(xlabel="step", ylabel="training loss")
    prefix = SELECTION if any(row.get(f"{SELECTION}mean_dice") not in (None, "") for row in rows) else ""
    for colour, (name, last) in zip(PALETTE * (1 + len(final) // len(PALETTE)), final.items(), strict=False):
        points = [(int(row["step"]), float(row[key])) for row in rows if row.get(key := f"{prefix}dice_{name}") not in (None, "")]
        if last is not None and steps and not prefix:  # the last validation scores other cases than the selection
            points = [point for point in points if point[0] != steps[-1]] + [(steps[-1], last)]
        if points:
            label = f"{literal(name)} {points[-1][1]:.3f}"
            right.plot(*zip(*points, strict=True), color=colour, marker="o", markersize=4, linewidth=1.2, label=label)
    right.set(xlabel="step", ylabel="selection Dice" if prefix else "validation Dice")
    if right.lines:
        right.legend(frameon=False, loc="lower right")
    for axes in (left, right):
        axes.spines[["top", "right"]].set_visible(False)
        axes.grid(alpha=0.25)
    with replacing(path) as temporary:
        figure.savefig(temporary, format="png", dpi=110)
