"""The tables of an explanation, as CSV and as JSON."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from se_med import __version__
from se_med.explain.analysis import Analysis, Explanation
from se_med.explain.gates import GateSite
from se_med.explain.profiles import Profile
from se_med.explain.statistics import GateStatistics
from se_med.io.atomic import write_text

Row = Mapping[str, Any]


def write_csv(path: Path, rows: Sequence[Row]) -> None:
    """Write rows with the columns of the first, atomically; what is not known stays empty.

    Raises:
        RunError: the file cannot be written.
    """
    text = io.StringIO()
    writer = csv.DictWriter(text, list(rows[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows({key: _cell(value) for key, value in row.items()} for row in rows)
    write_text(path, text.getvalue())


def gate_row(one: GateStatistics) -> dict[str, Any]:
    """Return the statistics of a gate as a row."""
    return {
        **_place(one.gate),
        "verdict": one.verdict,
        "channels": one.channels,
        "cases": one.cases,
        "mean": one.mean,
        "lowest": one.low,
        "highest": one.high,
        "sd_channels": one.over_channels,
        "sd_cases": one.over_cases,
        "sd_positions": one.over_positions,
        "share_channels": one.share_of_channels,
        "share_cases": one.share_of_cases,
        "share_positions": one.share_of_positions,
        "below_5_percent": one.below,
        "above_95_percent": one.above,
        "dead_channels": one.dead_channels,
        "sentence": one.sentence,
    }


def case_rows(analysis: Analysis) -> list[dict[str, Any]]:
    """Return a row per case: windows, volumes, Dice, and mean and spread of each gate."""
    rows = []
    for case in analysis.cases:
        row: dict[str, Any] = {"case": case.name, "windows": case.windows, "reference": "yes" if case.dice is not None else "no"}
        row |= {f"volume_ml:{name}": value for name, value in case.volumes.items()}
        row |= {f"dice:{name}": (case.dice or {}).get(name) for name in case.volumes}
        for gate in analysis.gates:
            record = case.gates.get(gate.name)
            row[f"mean:{gate.name}"] = None if record is None else float(record.moments.mean.mean())
            row[f"sd_positions:{gate.name}"] = None if record is None else float(np.sqrt(record.moments.variance.mean()))
        rows.append(row)
    return rows


def profile_rows(profiles: Iterable[Profile]) -> list[dict[str, Any]]:
    """Return a row per gate, view, class and channel; classes that no case has are left out."""
    rows = []
    for one in profiles:
        for index, name in enumerate(one.classes):
            if not one.cases[index]:
                continue
            for channel, (mean, deviation) in enumerate(zip(one.mean[index], one.deviation[index], strict=True)):
                rows.append(
                    {
                        **_place(one.gate),
                        "view": one.view,
                        "kind": one.kind,
                        "class": name,
                        "cases": one.cases[index],
                        "channel": channel,
                        "mean": float(mean),
                        "sd": float(deviation),
                    }
                )
    return rows


def summary(explanation: Explanation, sentences: Sequence[str]) -> dict[str, Any]:
    """Return everything but the single cases as JSON-able data; what is not known is None."""
    analysis = explanation.analysis
    content = {
        "se_med": __version__,
        "run": explanation.run,
        "model": explanation.digest,
        "cases": [case.name for case in analysis.cases],
        "sentences": list(sentences),
        "notes": list(explanation.notes),
        "failures": [asdict(failure) for failure in explanation.failures],
        "gates": [gate_row(one) | {"not_a_product": one.gate.reason or None} for one in analysis.statistics],
        "classes": [
            {
                **_place(one.gate),
                "view": one.view,
                "kind": one.kind,
                "cases": dict(zip(one.classes, one.cases, strict=True)),
                "separation": one.separation,
                "separation_structures": one.structures_separation,
                "distance": one.distance,
                "separating": one.separating,
                "sentence": one.sentence,
            }
            for one in analysis.profiles
        ],
        "covariates": [asdict(one) for one in analysis.associations if one.level == "gate"],
        "pictures": [
            {"case": one.case, "picture": one.path.name, "maps": [path.name for path in one.maps]} for one in explanation.pictures
        ],
        "knockout": None if explanation.knockouts is None else explanation.knockouts.to_dict(),
        "ranking": None if explanation.ranking is None else explanation.ranking.to_dict(),
        "context": None if explanation.context is None else explanation.context.to_dict(),
        "pruned": None if explanation.pruned is None else asdict(explanation.pruned),
    }
    cleaned: dict[str, Any] = _clean(content)
    return cleaned


def _place(gate: GateSite) -> dict[str, Any]:
    return {
        "gate": gate.name,
        "site": gate.site,
        "stage": gate.stage,
        "unit": gate.unit,
        "block": gate.block,
        "part": gate.part,
        "weighs": gate.kind,
    }


def _clean(value: Any) -> Any:
    """Return a value without what JSON cannot hold."""
    if isinstance(value, Mapping):
        return {str(key): _clean(one) for key, one in value.items()}
    if isinstance(value, list | tuple):
        return [_clean(one) for one in value]
    if isinstance(value, np.generic):
        value = value.item()
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return str(value) if isinstance(value, Path) else value


def _cell(value: Any) -> Any:
    if isinstance(value, tuple):
        return "; ".join(map(str, value))
    if value is None or (isinstance(value, float) and not math.isfinite(value)):
        return ""
    return f"{value:.6g}" if isinstance(value, float) else value
