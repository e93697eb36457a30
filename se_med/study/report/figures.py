"""The figures of a report: differences with intervals, cases side by side, learning curves, Dice against cost.

Arms are told apart by colour and by mark, and named where they stand.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from se_med.page import INK, PALETTE, literal
from se_med.study.endpoints import METRICS, Metric
from se_med.study.report.curves import Curve
from se_med.study.statistics import StudyStatistics
from se_med.study.tables import RunRow

MARKS = ("o", "s", "^", "D", "v", "P", "X")
_WIDTH = 9.5  # inches


@dataclass(frozen=True)
class Look:
    """Colour and mark of an arm."""

    colour: str
    mark: str


def looks(arms: Sequence[str]) -> dict[str, Look]:
    """Give each arm a look of its own; the reference, which comes first, is dark."""
    colours = (INK, *(colour for colour in PALETTE if colour != "#000000"))
    return {arm: Look(colours[number % len(colours)], MARKS[number % len(MARKS)]) for number, arm in enumerate(arms)}


def forest(statistics: StudyStatistics, look: Mapping[str, Look]) -> Figure:
    """Draw the difference of each arm with its interval, over the margin and the noise floor."""
    verdicts, metric = statistics.verdicts, statistics.metric
    figure = Figure(figsize=(_WIDTH, 1.5 + 0.55 * len(verdicts)), layout="constrained")
    axes = figure.subplots()
    axes.axvspan(-statistics.margin, statistics.margin, color="#e9eef4", label=f"margin, ±{metric.text(statistics.margin)}")
    axes.axvline(0, color=INK, linewidth=1)
    if statistics.noise.floor is not None:
        for side in (-1, 1):
            label = f"noise floor of seeds, ±{metric.text(statistics.noise.floor)}" if side == 1 else None
            axes.axvline(side * statistics.noise.floor, color="#5b6876", linewidth=1.1, linestyle=(0, (4, 3)), label=label)
    for row, verdict in enumerate(verdicts):
        style = look[verdict.arm]
        if verdict.low is not None and verdict.high is not None:
            axes.plot([verdict.low, verdict.high], [row, row], color=style.colour, linewidth=2.4, solid_capstyle="round")
        axes.plot(verdict.estimate, row, style.mark, color=style.colour, markersize=8)
        axes.annotate(
            verdict.word, (1.01, row), xycoords=("axes fraction", "data"), va="center", color=INK, fontsize=10, fontweight="bold"
        )
    axes.set_yticks(range(len(verdicts)), [verdict.arm for verdict in verdicts])
    axes.set_ylim(len(verdicts) - 0.4, -0.6)
    axes.set_xlabel(_difference_title(statistics))
    widest = [abs(end) for one in verdicts for end in (one.low, one.high, one.estimate) if end is not None]
    reach = 1.15 * max([*widest, statistics.margin, statistics.noise.floor or 0.0])
    # One study with hardly any runs has intervals of any width: they may leave the figure, the margin must stay legible.
    axes.set_xlim(-min(reach, 12 * statistics.margin), min(reach, 12 * statistics.margin))
    _plain(axes, "x")
    axes.spines["left"].set_visible(False)
    axes.tick_params(axis="y", length=0)
    figure.legend(loc="outside upper left", ncols=2, frameon=False, fontsize=9)
    return figure


def paired_cases(statistics: StudyStatistics, look: Mapping[str, Look]) -> Figure:
    """Draw each case's difference against the reference's score, one panel per arm, seeds averaged."""
    arms, metric = list(statistics.paired), statistics.metric
    columns = min(3, len(arms))
    rows = -(-len(arms) // columns)
    width = _WIDTH * min(1.0, 0.36 * columns + 0.12)
    figure = Figure(figsize=(width, 3.1 * rows), layout="constrained")
    grid = figure.subplots(rows, columns, squeeze=False, sharex=True, sharey=True)
    for axes, arm in zip(grid.flat, arms, strict=False):
        mine, others = statistics.paired[arm].over_seeds()
        style, difference = look[arm], mine - others
        axes.axhspan(-statistics.margin, statistics.margin, color="#e9eef4")
        axes.axhline(0, color=INK, linewidth=1)
        axes.axhline(difference.mean(), color=style.colour, linewidth=1.4, linestyle=(0, (5, 2)))
        axes.plot(others, difference, style.mark, color=style.colour, markersize=4.5, alpha=0.65, markeredgewidth=0)
        wins = int((difference * metric.sign > 0).sum())
        axes.set_title(f"{arm}: better in {wins} of {difference.size} cases", fontsize=10, loc="left")
        axes.xaxis.set_major_locator(MaxNLocator(5))
        _plain(axes, "both")
    for axes in grid.flat[len(arms) :]:
        axes.set_visible(False)
    figure.supxlabel(f"mean {metric.title} of the case with {statistics.reference}{_unit(metric)}", fontsize=10)
    figure.supylabel("difference", fontsize=10)
    return figure


def learning_curves(curves: Mapping[str, Sequence[Curve]], look: Mapping[str, Look]) -> Figure:
    """Draw loss and validation Dice against steps: lines are means over folds and seeds, bands reach over the seeds."""
    figure = Figure(figsize=(_WIDTH, 3.4), layout="constrained")
    left, right = figure.subplots(1, 2)
    for axes, quantity, title in ((left, "loss", "training loss"), (right, "dice", "mean Dice of held-out cases")):
        for arm, found in curves.items():
            lines = [curve for curve in found if curve.quantity == quantity]
            for curve in lines:
                style = look[arm]
                axes.fill_between(curve.steps, curve.low, curve.high, color=style.colour, alpha=0.16, linewidth=0)
                axes.plot(
                    curve.steps,
                    curve.mean,
                    color=style.colour,
                    linewidth=1.5,
                    marker=style.mark if len(curve.steps) <= 25 else "",
                    markersize=4,
                    label=arm,
                )
        axes.set(xlabel="step", ylabel=title)
        if quantity == "dice" and axes.lines:
            # Networks differ at the end of training; its beginning would flatten that.
            ends = [min(line.get_ydata()[len(line.get_ydata()) // 3 :]) for line in axes.lines]
            lowest = min(ends) - 0.03
            axes.set_ylim(bottom=max(0.0, lowest))
        _plain(axes, "both")
    handles = right.get_legend_handles_labels() if right.lines else left.get_legend_handles_labels()
    figure.legend(*handles, loc="outside lower center", ncols=max(1, len(curves)), frameon=False)
    return figure


COSTS = {
    "parameters": ("parameters", 1.0),
    "macs": ("MACs of a patch (10⁹)", 1e9),
    "seconds_per_step": ("seconds a training step", 1.0),
    "seconds_per_case": ("seconds a case, file to labels", 1.0),
    "peak_memory_mb": ("peak memory in training (MB)", 1.0),
}
"""What is measured of each run, how it is called, and what it is divided by."""


@dataclass(frozen=True)
class Cost:
    """One cost of an arm: the median over its finished runs, and between which values the middle half of them lies."""

    median: float
    low: float
    high: float


def costs_of(runs: Sequence[RunRow], arm: str) -> dict[str, Cost | None]:
    """Return each cost of an arm; None where it was not measured."""
    found: dict[str, Cost | None] = {}
    for name in COSTS:
        values = [getattr(run, name) for run in runs if run.arm == arm and run.status == "finished"]
        known = [float(value) for value in values if value is not None]
        low, median, high = np.quantile(known, (0.25, 0.5, 0.75)).tolist() if known else (0.0, 0.0, 0.0)
        found[name] = Cost(median, low, high) if known else None
    return found


def score_against_cost(
    runs: Sequence[RunRow], scores: Mapping[str, Sequence[float]], metric: Metric, look: Mapping[str, Look]
) -> Figure:
    """Draw the endpoint of each arm against each cost.

    Upright bars reach over the means of its runs, level ones over the middle half of what was measured.

    Args:
        runs: the runs of the study.
        scores: mean endpoint of each run, by arm.
        metric: the endpoint.
        look: colour and mark of each arm.
    """
    costs = {arm: costs_of(runs, arm) for arm in scores}
    shown = [name for name in COSTS if any(found[name] is not None for found in costs.values())]
    figure = Figure(figsize=(_WIDTH, 2.9 * -(-max(1, len(shown)) // 3)), layout="constrained")
    grid = figure.subplots(-(-max(1, len(shown)) // 3), min(3, max(1, len(shown))), squeeze=False, sharey=True)
    for axes, name in zip(grid.flat, shown, strict=False):
        title, unit = COSTS[name]
        for arm, values in scores.items():
            cost = costs[arm][name]
            if cost is None or not values:
                continue
            mean, style = float(np.mean(values)), look[arm]
            axes.plot([cost.median / unit] * 2, [min(values), max(values)], color=style.colour, linewidth=1.6, alpha=0.6)
            axes.plot([cost.low / unit, cost.high / unit], [mean, mean], color=style.colour, linewidth=1.6, alpha=0.6)
            axes.plot(cost.median / unit, mean, style.mark, color=style.colour, markersize=8, label=arm)
        axes.set_xlabel(title, fontsize=9.5)
        axes.xaxis.set_major_locator(MaxNLocator(4))
        axes.margins(x=0.18)
        axes.ticklabel_format(axis="both", useOffset=False, style="plain")
        _plain(axes, "both")
    for axes in grid.flat[len(shown) :]:
        axes.set_visible(False)
    figure.supylabel(f"mean {metric.title}{_unit(metric)}", fontsize=10)
    figure.legend(*grid.flat[0].get_legend_handles_labels(), loc="outside lower center", ncols=max(1, len(scores)), frameon=False)
    return figure


def scores_forest(statistics: StudyStatistics, look: Mapping[str, Look]) -> Figure:
    """Draw the differences of every structure and score, one panel per score. Descriptive: intervals are not corrected."""
    metrics = [name for name in METRICS if any(entry.metric == name for entry in statistics.descriptions)]
    structures = list(dict.fromkeys(entry.structure for entry in statistics.descriptions))
    arms = list(statistics.paired)
    columns = min(2, len(metrics))
    height = (0.75 + 0.2 * len(structures) * (len(arms) + 1)) * -(-len(metrics) // columns) + 0.4
    figure = Figure(figsize=(_WIDTH, height), layout="constrained")
    grid = figure.subplots(-(-len(metrics) // columns), columns, squeeze=False)
    for axes, name in zip(grid.flat, metrics, strict=False):
        metric = METRICS[name]
        axes.axvline(0, color=INK, linewidth=1)
        for entry in (entry for entry in statistics.descriptions if entry.metric == name):
            style = look[entry.arm]
            row = structures.index(entry.structure) + 0.7 * ((arms.index(entry.arm) + 0.5) / len(arms) - 0.5)
            if entry.low is not None and entry.high is not None:
                axes.plot([entry.low, entry.high], [row, row], color=style.colour, linewidth=1.8)
            axes.plot(entry.difference, row, style.mark, color=style.colour, markersize=5, label=entry.arm)
        axes.set_yticks(range(len(structures)), [literal(name) for name in structures])
        axes.set_ylim(len(structures) - 0.5, -0.5)
        better = "more" if metric.sign > 0 else "less"
        axes.set_title(f"{metric.title}{_unit(metric)}: {better} is better", fontsize=10, loc="left")
        axes.xaxis.set_major_locator(MaxNLocator(5))
        _plain(axes, "x")
    for axes in grid.flat[len(metrics) :]:
        axes.set_visible(False)
    handles, names = grid.flat[0].get_legend_handles_labels()
    unique = dict(zip(names, handles, strict=True))
    figure.legend(unique.values(), unique.keys(), loc="outside lower center", ncols=max(1, len(arms)), frameon=False)
    return figure


def _difference_title(statistics: StudyStatistics) -> str:
    metric = statistics.metric
    side = "right" if metric.sign > 0 else "left"
    return f"difference of mean {metric.title} from {statistics.reference}{_unit(metric)}; the better side is the {side} one"


def _unit(metric: Metric) -> str:
    return f" ({metric.unit})" if metric.unit else ""


def _plain(axes: Axes, grid: Literal["both", "x", "y"]) -> None:
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(axis=grid, alpha=0.25)
    axes.set_axisbelow(True)
    axes.tick_params(labelsize=9)
