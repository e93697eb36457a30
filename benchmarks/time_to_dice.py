"""Training curves of finished runs, and the time each took to reach a Dice, in one table and one picture.

The runs are made by ``se-med train`` beforehand; their ``metrics.csv`` has the minutes and the mean Dice of the held-out cases at
every validation. Minutes are of training alone, with its validations; start-up and preparation come on top.
"""

from __future__ import annotations

import argparse
import csv
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from se_med.training.curves import PALETTE

THRESHOLDS = (0.80, 0.85, 0.86, 0.87, 0.88, 0.885, 0.89)


def read_run(folder: Path, name: str) -> dict[str, Any]:
    """Return the curve of a run, its final Dice and what it ran on.

    Args:
        folder: run folder of ``se-med train``.
        name: what to call it.
    """
    with (folder / "metrics.csv").open(newline="", encoding="utf-8") as file:
        rows = [row for row in csv.DictReader(file) if row.get("mean_dice")]
    summary = json.loads((folder / "validation" / "summary.json").read_text(encoding="utf-8"))
    provenance = json.loads((folder / "provenance.json").read_text(encoding="utf-8"))
    curve = [[float(row["seconds"]) / 60, int(row["step"]), float(row["mean_dice"])] for row in rows]
    curve.append([provenance["seconds"] / 60, provenance["steps"], summary["mean_dice"]])
    return {
        "run": name,
        "seed": provenance["seed"],
        "curve": curve,
        "dice": {row["structure"]: row["dice"] for row in summary["structures"]},
        **{key: provenance[key] for key in ("steps", "seconds", "peak_memory_mb", "environment", "machine", "software")},
        "minutes_to": {f"{dice:g}": next((round(row[0], 2) for row in curve if row[2] >= dice), None) for dice in THRESHOLDS},
    }


def table(runs: Sequence[dict[str, Any]]) -> str:
    """Return the runs as a Markdown table: minutes at the first validation that reached each Dice."""
    reached = [name for name in map("{:g}".format, THRESHOLDS) if any(run["minutes_to"][name] is not None for run in runs)]
    lines = ["| run | seed | steps | mean Dice at the end | " + " | ".join(f"min to {name}" for name in reached) + " |"]
    lines.append("|" + "---|" * (4 + len(reached)))
    for run in runs:
        minutes = (run["minutes_to"][name] for name in reached)
        cells = ["" if value is None else f"{value:.1f}" for value in minutes]
        lines.append(f"| {run['run']} | {run['seed']} | {run['steps']} | {run['curve'][-1][2]:.4f} | " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def draw(runs: Sequence[dict[str, Any]], path: Path) -> None:
    """Draw mean Dice against minutes of all runs as a PNG file; runs of one name share a colour."""
    names = list(dict.fromkeys(run["run"] for run in runs))
    figure = Figure(figsize=(7, 4.2), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots()
    for run in runs:
        colour = PALETTE[names.index(run["run"]) % len(PALETTE)]
        label = run["run"] if run is next(other for other in runs if other["run"] == run["run"]) else None
        axes.plot([row[0] for row in run["curve"]], [row[2] for row in run["curve"]], marker="o", color=colour, label=label)
    axes.set(xlabel="minutes of training", ylabel="mean Dice of held-out cases")
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(alpha=0.25)
    axes.legend(frameon=False, loc="lower right")
    figure.savefig(path, format="png", dpi=120)


def main(arguments: Sequence[str]) -> int:
    """Read the runs, print the table and write table, numbers and picture."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks time_to_dice", description=__doc__)
    parser.add_argument("runs", nargs="+", help="run folders, each as FOLDER or NAME=FOLDER; runs of one name share a colour")
    parser.add_argument("--output", type=Path, default=Path(__file__).parent / "results")
    options = parser.parse_args(arguments)
    pairs = [run.split("=", 1) if "=" in run else [Path(run).name, run] for run in options.runs]
    runs = [read_run(Path(folder), name) for name, folder in pairs]
    options.output.mkdir(parents=True, exist_ok=True)
    text = table(runs)
    print(text)
    (options.output / "time_to_dice.md").write_text(text, encoding="utf-8")
    (options.output / "time_to_dice.json").write_text(json.dumps(runs, indent=1) + "\n", encoding="utf-8")
    draw(runs, options.output / "time_to_dice.png")
    return 0
