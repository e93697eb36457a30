"""The figures of the page: spreads by depth, cases against gates, profiles by class, separation by depth."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from se_med.explain.analysis import Analysis
from se_med.explain.profiles import Profile
from se_med.explain.statistics import SMALL, GateStatistics, case_means, scale
from se_med.page import INK, PALETTE, literal

MOST_CHANNELS = 50
"""Channels of a profile that are shown, evenly spaced in the order of their mean, as in Hu et al."""
MOST_PANELS = 24
MOST_CASES = 60
_WIDTH = 9.5  # inches
_FLOOR = 1e-7  # of the range; smaller spreads are drawn here


def spreads(statistics: Sequence[GateStatistics]) -> Figure:
    """Draw how much each gate varies between channels, cases and positions, by depth, as shares of its range."""
    known = [one for one in statistics if one.cases]
    figure = Figure(figsize=(_WIDTH, 1.4 + 0.3 * len(known)), layout="constrained")
    axes = figure.subplots()
    axes.axvline(SMALL, color=INK, linewidth=1, linestyle=(0, (4, 3)))
    for row, one in enumerate(known):
        span = scale(one.gate, abs(one.mean))
        parts = (("over_channels", "s", PALETTE[4]), ("over_cases", "o", PALETTE[0]), ("over_positions", "^", PALETTE[1]))
        for name, mark, colour in parts:
            if name == "over_channels" and one.channels == 1:
                continue
            axes.plot(max(getattr(one, name) / span, _FLOOR), row, mark, color=colour, markersize=7, alpha=0.9)
    _gate_rows(axes, [_title(one.gate.label, one.gate.block) for one in known])
    axes.set_xscale("log")
    axes.set_xlim(_FLOOR / 2, 1)
    axes.set_xlabel("standard deviation, share of the gate's range")
    names = ("between channels (the same for every input)", "between cases", "within cases (voxels, windows)")
    handles = [
        Line2D([], [], color=colour, marker=mark, linestyle="none", label=label)
        for label, mark, colour in zip(names, "so^", (PALETTE[4], PALETTE[0], PALETTE[1]), strict=True)
    ]
    handles.append(Line2D([], [], color=INK, linewidth=1, linestyle=(0, (4, 3)), label="1 % of the range"))
    figure.legend(handles=handles, loc="outside upper left", ncols=2, frameon=False, fontsize=9)
    return figure


def cases_by_gate(analysis: Analysis) -> Figure | None:
    """Draw the mean of every gate on every case, as a deviation from its mean over cases; None of a single case."""
    rows, titles = [], []
    cases = analysis.cases[:MOST_CASES]
    for one in analysis.whole:
        records = [case.gates[one.gate.name] for case in cases if one.gate.name in case.gates]
        if len(records) < 2 or len(records) < len(cases):
            continue
        means = case_means(records).mean(1)
        rows.append(100 * (means - means.mean()) / scale(one.gate, abs(one.mean)))
        titles.append(_title(one.gate.label, one.gate.block))
    if not rows:
        return None
    table = np.stack(rows)
    limit = max(float(np.abs(table).max()), 1e-3)
    figure = Figure(figsize=(_WIDTH, 1.3 + 0.26 * len(rows)), layout="constrained")
    axes = figure.subplots()
    drawn = axes.imshow(table, cmap="PuOr_r", vmin=-limit, vmax=limit, aspect="auto", interpolation="nearest")
    axes.set_yticks(range(len(titles)), titles, fontsize=8)
    axes.set_xlabel(f"case ({len(cases)})")
    axes.set_xticks([])
    figure.colorbar(drawn, ax=axes, label="% of the range", shrink=0.9)
    return figure


def classes_by_gate(profiles: Sequence[Profile]) -> Figure | None:
    """Draw how each class's mean factor differs from the mean over classes, by depth; None without any."""
    rows = [one for one in profiles if sum(count > 0 for count in one.cases) > 1]
    if not rows:
        return None
    table = np.full((len(rows), len(rows[0].classes)), np.nan)
    for row, one in enumerate(rows):
        there = np.array(one.cases) > 0
        # Channels may go up and down: their typical change says more than that of their mean.
        centre = one.mean[there].mean(0)
        table[row, there] = (
            100 * np.sqrt(((one.mean[there] - centre) ** 2).mean(1)) / scale(one.gate, float(np.abs(centre).mean()))
        )
    figure = Figure(figsize=(min(_WIDTH, 3.2 + 0.9 * table.shape[1]), 1.3 + 0.28 * len(rows)), layout="constrained")
    axes = figure.subplots()
    drawn = axes.imshow(table, cmap="viridis", aspect="auto", interpolation="nearest", vmin=0)
    axes.set_yticks(range(len(rows)), [_title(one.gate.label, one.gate.block) for one in rows], fontsize=8)
    axes.set_xticks(range(table.shape[1]), [literal(name) for name in rows[0].classes], rotation=25, ha="right", fontsize=8)
    figure.colorbar(drawn, ax=axes, label="% of the range", shrink=0.9)
    return figure


def profile_panels(profiles: Sequence[Profile]) -> Figure | None:
    """Draw the profile of each gate: mean and standard deviation of each class over channels; None without any."""
    shown = list(profiles[:MOST_PANELS])
    if not shown:
        return None
    columns = min(3, len(shown))
    rows = -(-len(shown) // columns)
    figure = Figure(figsize=(_WIDTH, 2.1 * rows + 0.5), layout="constrained")
    grid = figure.subplots(rows, columns, squeeze=False)
    for axes, one in zip(grid.flat, shown, strict=False):
        _draw_profile(axes, one)
    for axes in grid.flat[len(shown) :]:
        axes.set_visible(False)
    handles = [Line2D([], [], color=_colour(index), label=literal(name)) for index, name in enumerate(shown[0].classes)]
    figure.legend(handles=handles, loc="outside lower center", ncols=min(8, len(handles)), frameon=False, fontsize=9)
    return figure


def separation(profiles: Sequence[Profile]) -> Figure | None:
    """Draw by depth how much of a gate's variance classes explain, and how far they are apart; None without any."""
    shown = [one for one in profiles if np.isfinite(one.separation)]
    if not shown:
        return None
    figure = Figure(figsize=(_WIDTH, 1.5 + 0.3 * len(shown)), layout="constrained")
    left, right = figure.subplots(1, 2, sharey=True)
    for row, one in enumerate(shown):
        left.plot(one.separation, row, "o", color=PALETTE[0], markersize=7)
        if np.isfinite(one.structures_separation):
            left.plot(one.structures_separation, row, "D", color=PALETTE[1], markersize=6)
        right.plot(max(one.distance, _FLOOR), row, "o", color=PALETTE[0], markersize=7)
    _gate_rows(left, [_title(one.gate.label, one.gate.block) for one in shown])
    left.set(xlim=(-0.03, 1.03), xlabel="share of the variance that classes explain")
    right.set(xscale="log", xlabel="spread of class means, share of the range", xlim=(_FLOOR / 2, 1))
    right.axvline(SMALL, color=INK, linewidth=1, linestyle=(0, (4, 3)))
    for axes in (left, right):
        axes.spines[["top", "right"]].set_visible(False)
        axes.grid(alpha=0.25)
    handles = [
        Line2D([], [], color=PALETTE[0], marker="o", linestyle="none", label="background and structures"),
        Line2D([], [], color=PALETTE[1], marker="D", linestyle="none", label="structures alone"),
    ]
    figure.legend(handles=handles, loc="outside upper left", ncols=2, frameon=False, fontsize=9)
    return figure


def _draw_profile(axes: Axes, one: Profile) -> None:
    channels = one.mean.shape[1]
    there = [index for index, count in enumerate(one.cases) if count]
    if channels == 1:
        for place, index in enumerate(there):
            error = np.nan_to_num(one.deviation[index, 0])
            axes.errorbar(place, one.mean[index, 0], yerr=error, fmt="o", color=_colour(index), markersize=6, capsize=3)
        axes.set_xticks([])
        axes.margins(x=0.3)
    else:
        order = np.argsort(np.nanmean(one.mean[there], 0))
        kept = order[np.unique(np.linspace(0, channels - 1, min(channels, MOST_CHANNELS)).round().astype(int))]
        x = np.arange(len(kept))
        for index in there:
            mean, error = one.mean[index, kept], np.nan_to_num(one.deviation[index, kept])
            axes.fill_between(x, mean - error, mean + error, color=_colour(index), alpha=0.18, linewidth=0)
            axes.plot(x, mean, color=_colour(index), linewidth=1.3)
        more = f"{len(kept)} of {channels} channels" if len(kept) < channels else f"{channels} channels"
        axes.set_xlabel(more, fontsize=8)
        axes.set_xticks([])
    axes.set_title(_title(one.gate.label, one.gate.block), fontsize=9, loc="left")
    axes.tick_params(labelsize=8)
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(axis="y", alpha=0.25)


def _gate_rows(axes: Axes, titles: Sequence[str]) -> None:
    axes.set_yticks(range(len(titles)), titles, fontsize=9)
    axes.set_ylim(len(titles) - 0.4, -0.6)
    axes.spines[["top", "right", "left"]].set_visible(False)
    axes.tick_params(axis="y", length=0)
    axes.grid(alpha=0.25)
    axes.set_axisbelow(True)


def _title(label: str, block: str) -> str:
    return literal(f"{label} ({block})")


def _colour(index: int) -> str:
    colours = ("#8a949e", *(colour for colour in PALETTE if colour != "#000000"))
    return colours[index % len(colours)]
