"""Puts tables, figures and pictures together into ``explain.html`` and the files beside it."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from se_med.explain.analysis import Explanation
from se_med.explain.collect import CLOSED, OPEN
from se_med.explain.maps import what_is_shown
from se_med.explain.report import figures, tables
from se_med.explain.report.sentences import headline, verdicts
from se_med.explain.statistics import GateStatistics
from se_med.io.atomic import write_json
from se_med.page import figure_uri, write_page

HTML, GATES, CASES, PROFILES, COVARIATES, SUMMARY = (
    "explain.html", "gates.csv", "cases.csv", "profiles.csv", "covariates.csv", "summary.json",
)  # fmt: skip
MOST_ASSOCIATIONS = 30
"""Rows of the table of covariates on the page; the CSV file has all."""
MARKS = {
    "depends": "good",
    "nearly constant": "warning",
    "constant": "error",
    "dead": "error",
    "unknown": "neutral",
    "no gate": "neutral",
}


def write_explanation(explanation: Explanation, folder: Path) -> None:
    """Write the page last, so that it stands for a whole result.

    Args:
        explanation: what was found.
        folder: exists.

    Raises:
        RunError: a file cannot be written.
    """
    analysis = explanation.analysis
    said = verdicts(explanation)
    tables.write_csv(folder / GATES, [tables.gate_row(one) for one in analysis.statistics])
    tables.write_csv(folder / CASES, tables.case_rows(analysis))
    for name, rows in (
        (PROFILES, tables.profile_rows(analysis.profiles)),
        (COVARIATES, [asdict(one) for one in analysis.associations]),
        ("knockout.csv", [] if explanation.knockouts is None else [asdict(row) for row in explanation.knockouts.rows]),
        ("ranking.csv", [] if explanation.ranking is None else [asdict(row) for row in explanation.ranking.rows]),
        ("context_cases.csv", [] if explanation.context is None else [asdict(row) for row in explanation.context.cases]),
        ("context_gates.csv", [] if explanation.context is None else [asdict(row) for row in explanation.context.gates]),
    ):
        if rows:
            tables.write_csv(folder / name, rows)
        else:  # nothing of an earlier call with other options
            (folder / name).unlink(missing_ok=True)
    write_json(folder / SUMMARY, tables.summary(explanation, [sentence for _, sentence in said]))
    write_page(folder / HTML, "se_med.explain.report", "explain.html", **_page(explanation, said))


def _page(explanation: Explanation, said: Sequence[tuple[str, str]]) -> dict[str, Any]:
    analysis = explanation.analysis
    best = analysis.best_profiles
    labels = {gate.name: gate.label for gate in analysis.gates}
    windows = sum(case.windows for case in analysis.cases)
    return {
        "title": f"Gates of {explanation.run}",
        "lead": f"{headline(analysis.whole)}. {_count(len(analysis.cases), 'case')}, {_count(windows, 'window')}.",
        "said": said,
        "notes": explanation.notes,
        "failures": explanation.failures,
        "rows": [statistics_row(one) for one in analysis.statistics],
        "reasons": [(one.gate.label, one.gate.block, one.gate.reason) for one in analysis.whole if one.gate.reason],
        "closed": CLOSED,
        "open": OPEN,
        "figures": {
            "spreads": _uri(figures.spreads(analysis.statistics)),
            "cases": _uri(figures.cases_by_gate(analysis), "png"),
            "classes": _uri(figures.classes_by_gate(best), "png"),
            "profiles": _uri(figures.profile_panels(best)),
            "separation": _uri(figures.separation(best)),
        },
        "kinds": {one.kind for one in best},
        "profiles": [(one.gate.label, one.gate.block, one.kind, one.sentence) for one in best],
        "hidden_panels": max(0, len(best) - figures.MOST_PANELS),
        "covariates": analysis.covariates,
        "associations": [{**asdict(one), "gate": labels[one.gate]} for one in analysis.associations if one.level == "gate"][
            :MOST_ASSOCIATIONS
        ],
        "channel_tests": sum(one.level == "channel" for one in analysis.associations),
        "channel_hits": sum(one.level == "channel" and one.q <= 0.05 for one in analysis.associations),
        "pictures": [(one.case, _picture(one.path)) for one in explanation.pictures],
        "shown": sorted({what_is_shown(gate) for gate in analysis.gates if not (gate.uniform or gate.part)}),
        "knockouts": explanation.knockouts,
        "ranking": explanation.ranking,
        "context": explanation.context,
        "pruned": explanation.pruned,
        "model": explanation.digest,
    }


def statistics_row(one: GateStatistics) -> dict[str, Any]:
    """Return the statistics of a gate as a page shows them: place, part, block, verdict and its mark, sentence, cells as text."""
    return {
        "place": one.gate.label,
        "part": one.gate.part,
        "block": one.gate.block,
        "verdict": one.verdict,
        "mark": MARKS[one.verdict],
        "sentence": one.sentence,
        "cells": [
            _number(one.mean),
            _number(one.over_channels) if one.channels > 1 else "-",
            _number(one.over_cases),
            _number(one.over_positions),
            f"{100 * one.share_of_cases:.2g}" if np.isfinite(one.share_of_cases) else "-",
            _percent(one.below),
            _percent(one.above),
            f"{one.dead_channels} of {one.channels}",
        ],
    }


def _uri(figure: Figure | None, kind: str = "svg") -> str:
    return "" if figure is None else figure_uri(figure, "png" if kind == "png" else "svg")


def _picture(path: Path) -> str:
    return f"data:image/png;base64,{base64.b64encode(path.read_bytes()).decode('ascii')}"


def _number(value: float) -> str:
    if not np.isfinite(value):
        return "-"
    return f"{value:.3f}" if value == 0 or abs(value) >= 0.01 else f"{value:.2g}"


def _percent(value: float) -> str:
    return f"{100 * value:.1f}" if np.isfinite(value) else "-"


def _count(number: int, what: str) -> str:
    return f"{number} {what}{'' if number == 1 else 's'}"
