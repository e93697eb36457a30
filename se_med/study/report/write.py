"""Puts statistics, tables, figures and pictures together into ``report.html``: one page that opens without a network."""

from __future__ import annotations

import base64
import gzip
from collections.abc import Mapping, Sequence
from importlib.resources import files
from pathlib import Path
from typing import Any

from se_med.config.load import load_part
from se_med.page import ON_GREY, figure_uri, write_page
from se_med.progress import Progress, silent
from se_med.study.config import StudyConfig
from se_med.study.descriptive import Description
from se_med.study.endpoints import METRICS, run_means
from se_med.study.report import figures
from se_med.study.report.cases import ShownCase, choose_cases, show_cases
from se_med.study.report.curves import read_curves
from se_med.study.report.facts import Facts, gather_facts
from se_med.study.report.gates import watch_arms
from se_med.study.report.methods import methods
from se_med.study.statistics import StudyStatistics, compute_statistics
from se_med.study.tables import STUDY, ArmRow, RunRow, Tables, read_tables
from se_med.study.verdict import p_number

REPORT = "report.html"

RunMeans = Mapping[str, Mapping[int, Mapping[int, float]]]


def write_report(folder: Path, progress: Progress = silent, *, pictures: bool = True) -> StudyStatistics:
    """Write ``report.html`` of a study folder.

    Args:
        folder: the study folder.
        progress: shows long work: cases are segmented again for their pictures.
        pictures: show cases, the viewer and what gates do, for which data and weights must still be there.

    Returns:
        The statistics that it tells.

    Raises:
        UsageError: the folder is not that of a study, or no run of an arm pairs with one of the reference.
        ConfigError: a configuration in it is not valid.
        RunError: a table is damaged, or the page cannot be written.
    """
    study, tables = load_part(folder / STUDY, StudyConfig), read_tables(folder)
    statistics = compute_statistics(tables, study.endpoint, study.margin)
    facts = gather_facts(folder, tables.runs, tables.reference)
    shown, note = show_cases(folder, tables, choose_cases(tables, statistics), progress) if pictures else ([], "")
    gates, gates_note = watch_arms(folder, tables, progress) if pictures else ([], "")
    write_page(
        folder / REPORT,
        "se_med.study.report",
        "report.html",
        gates=gates,
        gates_note=gates_note,
        **_page(folder, study, tables, statistics, facts),
        **_cases(shown, note, facts),
    )
    return statistics


def _page(folder: Path, study: StudyConfig, tables: Tables, statistics: StudyStatistics, facts: Facts) -> dict[str, Any]:
    """Return everything on the page but the cases."""
    arms = [tables.reference, *statistics.paired]
    look = figures.looks(arms)
    scores = {arm: run_means(tables.cases, arm, statistics.metric) for arm in arms}
    dice = {arm: run_means(tables.cases, arm, METRICS["dice"]) for arm in arms}
    curves = read_curves(folder, [run for run in tables.runs if run.arm in arms], dice)
    by_run = {arm: [value for seeds in found.values() for value in seeds.values()] for arm, found in scores.items()}
    paragraphs, works = methods(statistics, facts, tables.arms, tables.runs)
    return {
        "title": study.name or folder.name,
        "lead": _lead(tables, statistics),
        "reference": tables.reference,
        "endpoint_title": f"mean {statistics.metric.title}",
        "noise": statistics.noise.sentence,
        "noise_alarm": statistics.noise.split is not None and statistics.noise.split.word in ("better", "worse"),
        "verdicts": _verdicts(statistics),
        "failed": statistics.failed,
        "figures": {
            "forest": figure_uri(figures.forest(statistics, look)),
            "paired": figure_uri(figures.paired_cases(statistics, look)),
            "cost": figure_uri(figures.score_against_cost(tables.runs, by_run, statistics.metric, look)),
            "curves": figure_uri(figures.learning_curves(curves, look)) if curves else "",
            "scores": figure_uri(figures.scores_forest(statistics, look)),
        },
        "cost_note": _cost_note(study, facts),
        "cost_titles": [title for title, _ in figures.COSTS.values()],
        "costs": [{"arm": arm, "cells": _cost_cells(tables.runs, arm)} for arm in arms],
        "described": [_described(statistics, arm) for arm in statistics.paired],
        "differences": [row for arm in tables.arms if not arm.reference for row in _differences(arm)],
        "methods": paragraphs,
        "references": works,
        "facts": _facts(study, facts),
        "runs": [_run(run, scores) for run in tables.runs],
    }


def _lead(tables: Tables, statistics: StudyStatistics) -> str:
    finished = [run for run in tables.runs if run.status == "finished"]
    folds, seeds = len({run.fold for run in finished}), len({run.seed for run in finished})
    others, arms = ", ".join(statistics.paired), len(statistics.paired) + 1
    return (
        f"{others} against {tables.reference}: {len(finished)} runs ({arms} arms, {folds} fold{'s' * (folds != 1)}, "
        f"{seeds} seed{'s' * (seeds != 1)}). What decides, as declared beforehand: mean {statistics.metric.title}, with a margin "
        f"of {statistics.metric.text(statistics.margin)}."
    )


def _verdicts(statistics: StudyStatistics) -> list[dict[str, Any]]:
    return [
        {
            "word": verdict.word,
            "sentence": verdict.sentence,
            "run_pairs": verdict.run_pairs,
            "cases": verdict.cases,
            "matched": statistics.matched[verdict.arm],
            "reasons": statistics.unmatched_reasons[verdict.arm],
            "detectable": "" if verdict.smallest_detectable is None else statistics.metric.text(verdict.smallest_detectable),
            "disagree": verdict.folds_disagree,
        }
        for verdict in statistics.verdicts
    ]


def _cost_cells(runs: Sequence[RunRow], arm: str) -> list[str]:
    cells = []
    for name, cost in figures.costs_of(runs, arm).items():
        if cost is None:
            cells.append("-")
            continue
        low, median, high = (_three_digits(value / figures.COSTS[name][1]) for value in (cost.low, cost.median, cost.high))
        cells.append(median if low == high else f"{median} ({low} to {high})")
    return cells


def _three_digits(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def _cost_note(study: StudyConfig, facts: Facts) -> str:
    """Return what was measured how: times of runs that went on beside others are longer, and vary more, than times alone."""
    cores = max((int(machine.get("cores") or 1) for machine in facts.machines), default=1)
    beside = (study.workers or max(1, cores // study.threads)) - 1
    others = f"beside up to {beside} other run{'s' * (beside != 1)} of the study" if beside else "with no other run beside"
    return (
        "Medians over the runs of an arm; in parentheses, and as level bars, the middle half of them. "
        f"Times and memory were measured in the runs themselves, {others}: differences within the parentheses are noise."
    )


def _described(statistics: StudyStatistics, arm: str) -> dict[str, Any]:
    counted = [entry for entry in statistics.failures if entry.arm == arm]
    fields = ("missed_reference", "missed_arm", "spurious_reference", "spurious_arm")
    lacking = any(getattr(entry, name) for entry in counted for name in fields)
    return {
        "name": arm,
        "rows": [_description(entry) for entry in statistics.descriptions if entry.arm == arm],
        "failures": [(entry.structure, entry.scored, *(getattr(entry, name) for name in fields)) for entry in counted]
        if lacking
        else [],
    }


def _description(entry: Description) -> list[str]:
    metric = METRICS[entry.metric]

    def plain(value: float | None, signed: bool = False) -> str:
        return "-" if value is None else metric.text(value, signed=signed).removesuffix(metric.unit).strip()

    interval = "" if entry.low is None or entry.high is None else f" ({plain(entry.low, True)} to {plain(entry.high, True)})"
    return [
        entry.structure,
        f"{metric.title}{f', {metric.unit}' if metric.unit else ''}",
        plain(entry.reference_mean),
        plain(entry.arm_mean),
        plain(entry.difference, True) + interval,
        _signed(entry.effect_size),
        _signed(entry.rank_effect),
        "-" if entry.wilcoxon_p is None else p_number(entry.wilcoxon_p),
        f"{entry.wins} / {entry.ties} / {entry.losses}",
        f"{plain(entry.worst_reference)}, {plain(entry.worst_arm)}",
        plain(entry.smallest_detectable),
    ]


def _signed(value: float | None) -> str:
    return "-" if value is None else f"{value:+.2f}".replace("-", "\N{MINUS SIGN}")


def _differences(arm: ArmRow) -> list[dict[str, str]]:
    rows = [
        {"arm": arm.name, "key": key, "note": "", "before": _value(before), "after": _value(after)}
        for key, (before, after) in {
            **arm.differences,
            **{f"plan: {name}": two for name, two in arm.plan_differences.items()},
        }.items()
    ]
    control = f"control {arm.control} of {arm.control_of}" if arm.control else ""
    for note in (control, arm.note, "" if rows else "nothing differs"):
        if note:
            rows.append({"arm": arm.name, "key": "", "note": note, "before": "", "after": ""})
    return rows


def _value(value: Any) -> str:
    return "\N{EM DASH}" if value is None else str(value)


def _facts(study: StudyConfig, facts: Facts) -> list[tuple[str, str]]:
    rows = [
        (
            "data",
            f"{facts.data_cases} cases, {facts.held_out} of them held out by a run; SHA-256 over all files {facts.data_digest}",
        ),
        ("base", f"{study.base.name}; folds {', '.join(map(str, study.folds))}; seeds {', '.join(map(str, study.seeds))}"),
        ("software", ", ".join(f"{name} {version}" for name, version in facts.software.items())),
    ]
    rows += [("machine", _pairs(machine)) for machine in facts.machines]
    rows += [("arithmetic", _pairs(environment)) for environment in facts.environments]
    return rows


def _pairs(values: Mapping[str, Any]) -> str:
    return ", ".join(f"{key} {value}" for key, value in values.items() if value is not None)


def _run(run: RunRow, scores: RunMeans) -> dict[str, Any]:
    score = scores.get(run.arm, {}).get(run.fold, {}).get(run.seed)
    return {
        "arm": run.arm,
        "fold": run.fold,
        "seed": run.seed,
        "status": run.status,
        "score": "-" if score is None else f"{score:.4f}",
        "steps": "-" if run.steps is None else run.steps,
        "matched": {True: "yes", False: f"no: {run.unmatched_reason}", None: "-"}[run.matched],
        "batches": run.stream_digest[:12],
        "key": run.key,
    }


def _cases(shown: Sequence[ShownCase], note: str, facts: Facts) -> dict[str, Any]:
    """Return what the page needs for the pictures and the viewer."""
    structures = list(facts.plan.structures.values) if facts.plan is not None else []
    colours = [ON_GREY[number % len(ON_GREY)] for number in range(len(structures))]
    red, green, blue = ([0, *(int(colour[start : start + 2], 16) for colour in colours)] for start in (1, 3, 5))
    return {
        "cases": [
            {
                "name": case.chosen.name,
                "reason": case.chosen.reason,
                "fold": case.chosen.fold,
                "seed": case.chosen.seed,
                "picture": case.picture,
            }
            for case in shown
        ],
        "pictures_note": note,
        "structures": [{"name": name, "colour": colour} for name, colour in zip(structures, colours, strict=True)],
        "viewer": {
            # Pairs, since the keys of mappings would be sorted.
            "cases": [{"name": case.chosen.name, "volumes": list(case.volumes.items())} for case in shown],
            "colours": {
                "R": red,
                "G": green,
                "B": blue,
                "A": [0, *[255] * len(colours)],
                "I": list(range(len(colours) + 1)),
                "labels": ["", *structures],
            },
        },
        "library": _library() if shown else "",
    }


def _library() -> str:
    """Return the viewer's code, gzipped, in base64: a third of its size."""
    code = (files("se_med.study.report") / "assets" / "niivue.umd.js").read_bytes()
    return base64.b64encode(gzip.compress(code, compresslevel=9, mtime=0)).decode("ascii")
