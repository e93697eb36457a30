"""Writes what a check found: `check.json` for programs, and `check.html`, one page with pictures, for people."""

from __future__ import annotations

import math
import os
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING

from se_med.data.checks.check import Check
from se_med.data.checks.examine import reader
from se_med.data.checks.finding import KINDS, Finding
from se_med.data.checks.statistics import rules, structure_rows
from se_med.data.checks.thumbnails import Thumbnail, colours, draw_thumbnails
from se_med.errors import RunError
from se_med.io.atomic import sweep_temporaries, write_json
from se_med.page import INK, PALETTE, figure_uri, literal, write_page
from se_med.progress import Progress, silent

if TYPE_CHECKING:
    from matplotlib.figure import Figure

NAME = "check"
MOST_CASES = 60
"""Cases that are shown as pictures; they are read a second time."""
MOST_FINDINGS = 400
"""Findings on the page; the JSON file has all."""
_MOST_ROWS = 12  # structures in the figure
_LOGARITHMIC = 8  # ratio of the largest size to the smallest from which on the axis is logarithmic
_OTHERS = 2  # further cases of a finding that are shown


def write_check(check: Check, folder: Path, progress: Progress = silent, name: str = NAME) -> None:
    """Write the JSON file and the page.

    Args:
        check: what was found.
        folder: made where it is missing.
        progress: told how many pictures are drawn.
        name: of both files, without suffix.

    Raises:
        RunError: the folder cannot be written.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise RunError(f"{folder}: cannot make the folder: {error.strerror}; give another one with -o") from None
    sweep_temporaries(folder)
    write_json(folder / f"{name}.json", check.to_dict())
    shown = check.findings[:MOST_FINDINGS]
    write_page(
        folder / f"{name}.html",
        "se_med.data.checks",
        "check.html",
        check=check,
        groups=_groups(shown),
        hidden=len(check.findings) - len(shown),
        pictures=_pictures(check, shown, progress),
        cases_of=_cases_of,
        rows=structure_rows(check.examined, check.structures),
        colours=colours(check.structures),
        rules=rules(len(check.volumes)),
        kinds=KINDS,
        figure=_volumes_uri(check),
    )


def _groups(findings: Iterable[Finding]) -> list[tuple[str, list[Finding]]]:
    """Return the findings by kind and severity, in their order."""
    groups: dict[tuple[str, str], list[Finding]] = {}
    for finding in findings:
        groups.setdefault((finding.severity, finding.kind), []).append(finding)
    return [(KINDS[kind], group) for (_, kind), group in groups.items()]


def _cases_of(finding: Finding) -> list[str]:
    """Return the cases that a finding shows."""
    return [*([finding.case] if finding.case else []), *finding.others[: _OTHERS + (not finding.case)]]


def _pictures(check: Check, findings: Sequence[Finding], progress: Progress) -> Mapping[str, list[Thumbnail]]:
    dataset = check.dataset
    if dataset is None:
        return {}
    names = {case.name for case in dataset.cases}
    wanted = [name for name in dict.fromkeys(name for one in findings for name in _cases_of(one)) if name in names][:MOST_CASES]
    read = reader(dataset)
    pictures = {}
    with progress("drawing", len(wanted)) as advance, ThreadPoolExecutor(os.cpu_count() or 1) as pool:
        drawn = pool.map(lambda name: draw_thumbnails(read(dataset.case(name)), check.structures), wanted)
        for number, (name, thumbnails) in enumerate(zip(wanted, drawn, strict=True), start=1):
            pictures[name] = thumbnails
            advance(number, "")
    return pictures


def _volumes_uri(check: Check) -> str | None:
    """Draw the volume of every structure in every case, one row of dots per structure, odd ones marked."""
    rows = [name for name in check.structures if any(name in found for found in check.volumes.values())][:_MOST_ROWS]
    if not rows or len(check.volumes) < 2:
        return None
    return figure_uri(_draw_volumes(check, rows))


def _draw_volumes(check: Check, rows: Sequence[str]) -> Figure:
    from matplotlib.figure import Figure

    odd = {finding.case for finding in check.findings if finding.kind in ("odd volume", "odd spacing", "spacing", "missing")}
    figure = Figure(figsize=(7.2, 0.75 + 0.42 * len(rows)), layout="constrained")
    axes = figure.subplots()
    for row, name in enumerate(rows):
        sizes = {case: found[name] for case, found in sorted(check.volumes.items()) if name in found}
        # Dots of one row are spread over a few lines, the same way each time, so that equal ones can be told apart.
        heights = [row + 0.09 * (number % 5 - 2) for number in range(len(sizes))]
        axes.scatter(list(sizes.values()), heights, s=14, color=PALETTE[0], alpha=0.55, linewidths=0, zorder=2)
        marked = [(size, height) for (case, size), height in zip(sizes.items(), heights, strict=True) if case in odd]
        columns = [[point[axis] for point in marked] for axis in (0, 1)]
        axes.scatter(columns[0], columns[1], s=48, marker="D", facecolors="none", edgecolors=PALETTE[1], linewidths=1.5, zorder=3)
    every = [size for found in check.volumes.values() for size in found.values()]
    if max(every) > _LOGARITHMIC * min(every):
        axes.set_xscale("log")
        axes.set_xlim(min(every) / math.sqrt(2), max(every) * math.sqrt(2))
    axes.set_yticks(range(len(rows)), [literal(name) for name in rows])
    axes.set_ylim(len(rows) - 0.5, -0.5)
    axes.set_xlabel("volume in ml" if check.unit == "ml" else "size in pixels")
    axes.spines[["top", "right", "left"]].set_visible(False)
    axes.tick_params(axis="y", length=0)
    axes.tick_params(colors=INK)
    axes.grid(axis="x", alpha=0.25)
    return figure
