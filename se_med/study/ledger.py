"""What the run folders say, as tables: read anew every time, so that they depend on the runs alone and not on their history."""

from __future__ import annotations

import csv
import hashlib
import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from se_med.errors import RunError
from se_med.study.arms import Study
from se_med.study.matching import match, shaping_differences
from se_med.study.planning import PlannedArm, compare_flat
from se_med.study.runs import Run
from se_med.study.tables import ArmRow, CaseRow, RunRow, Tables
from se_med.study.work import read_measured
from se_med.training.run_folder import RunFolder

HIDDEN = ("name", "seed", "data.fold", "data.cache", "training.threads")
"""Settings that the study gives to every run, or that change no number."""


def collect(
    study: Study,
    arms: Sequence[PlannedArm],
    runs: Sequence[Run],
    folder: Path,
    runs_folder: Path,
    failures: Mapping[str, str],
    attempts: Mapping[str, int],
) -> Tables:
    """Read all runs of a study.

    Args:
        study: the study.
        arms: its arms with their steps, the reference first.
        runs: all its runs.
        folder: the study folder.
        runs_folder: where the run folders are.
        failures: why runs failed, by key.
        attempts: how often runs were started, by key.

    Raises:
        RunError: a file of a finished run is damaged.
    """
    reference = arms[0]
    shaping = {arm.name: shaping_differences(reference, arm) for arm in arms}
    found = {run.key: _read_run(runs_folder / run.key) for run in runs}
    partners = {(run.fold, run.seed): found[run.key] for run in runs if run.arm == reference.name}
    rows, cases = [], []
    for run in runs:
        facts, partner = found[run.key], partners[run.fold, run.seed]
        relative = os.path.relpath(runs_folder / run.key, folder)
        if facts is None:
            status = "failed" if run.key in failures else "pending"
            error, tried = failures.get(run.key, ""), attempts.get(run.key, 0)
            rows.append(RunRow(run.arm, run.fold, run.seed, run.key, relative, status, error, tried))  # type: ignore[arg-type]
            continue
        reason = None if partner is None else match(partner, facts, shaping[run.arm])
        rows.append(_run_row(run, facts, relative, reason, attempts.get(run.key, 0)))
        if not (reason and study.config.require_matched):
            cases += [CaseRow(run.arm, run.fold, run.seed, **row) for row in facts["cases"]]
    return Tables(tuple(_arm_row(arm, reference, arm is reference) for arm in arms), tuple(rows), tuple(cases))


def _arm_row(arm: PlannedArm, reference: PlannedArm, is_reference: bool) -> ArmRow:
    differences = compare_flat(reference.config.model_dump(mode="json"), arm.config.model_dump(mode="json"))
    return ArmRow(
        name=arm.name,
        reference=is_reference,
        control=arm.arm.control,
        control_of=arm.arm.control_of,
        differences={key: values for key, values in differences.items() if key not in HIDDEN},
        plan_differences=arm.own_plan,
        parameters=arm.cost.parameters,
        macs=arm.cost.macs,
        kept_mb=round(arm.cost.activation_bytes / 1e6, 3),
        steps=arm.config.training.steps or 0,
        note=arm.note,
    )


def _run_row(run: Run, facts: dict[str, Any], relative: str, reason: str | None, attempts: int) -> RunRow:
    measured, provenance = facts["measured"], facts["provenance"]
    start = json.dumps(facts["start"], sort_keys=True).encode()
    return RunRow(
        arm=run.arm,
        fold=run.fold,
        seed=run.seed,
        key=run.key,
        folder=relative,
        status="finished",
        attempts=attempts,
        steps=provenance["steps"],
        seconds=provenance["seconds"],
        seconds_per_step=facts["seconds_per_step"],
        seconds_per_case=measured.get("seconds_per_case"),
        parameters=measured.get("parameters"),
        macs=measured.get("macs"),
        kept_mb=measured.get("kept_mb"),
        peak_memory_mb=provenance["peak_memory_mb"],
        stream_digest=provenance["stream_digest"],
        start_digest=hashlib.sha256(start).hexdigest(),
        matched=None if reason is None else not reason,
        unmatched_reason=reason or "",
    )


def is_complete(run: Path) -> bool:
    """Return whether a run is finished and measured."""
    return RunFolder(run).finished and bool(read_measured(run))


def _read_run(path: Path) -> dict[str, Any] | None:
    """Return what a run folder says; None where the run is not complete."""
    if not is_complete(path):
        return None
    run = RunFolder(path)
    try:
        provenance = json.loads(run.provenance.read_text(encoding="utf-8"))
        references = {name: sources[-1] for name, sources in provenance["cases"]["validation"].items()}
        with run.cases.open(encoding="utf-8", newline="") as file:
            cases = [_case(row, references) for row in csv.DictReader(file)]
        measured = read_measured(path)
        return {
            "provenance": provenance,
            "measured": measured,
            "steps": provenance["steps"],
            "stream_digest": provenance["stream_digest"],
            "train": provenance["cases"]["train"],
            "start": measured["start"],
            "cases": cases,
            "seconds_per_step": _seconds_per_step(run.metrics),
        }
    except (OSError, ValueError, KeyError) as error:
        raise RunError(f"{path}: damaged or of another version of se-med ({error}); remove the folder and go on") from None


def _case(row: dict[str, str], references: dict[str, str]) -> dict[str, Any]:
    numbers = ("dice", "hd95", "nsd", "volume_error_ml", "prediction_ml", "reference_ml")
    return {
        "case": row["case"],
        "structure": row["structure"],
        "reference_digest": references[row["case"]],
        "status": row["status"],
        **{name: None if row[name] == "" else float(row[name]) for name in numbers},
    }


def _seconds_per_step(metrics: Path) -> float | None:
    """Return the mean time of a step over the intervals of a run's table in which nothing was validated."""
    if not metrics.exists():  # a run that is shorter than an epoch
        return None
    with metrics.open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    steps, seconds = 0, 0.0
    for before, after in zip(({}, *rows[:-1]), rows, strict=True):
        validated = any(key.endswith("mean_dice") and value for key, value in before.items())
        took = float(after["seconds"]) - float(before.get("seconds", 0.0))
        if not validated and took > 0:  # a resumed run's clock goes on from its checkpoint
            steps += int(after["step"]) - int(before.get("step", 0))
            seconds += took
    return round(seconds / steps, 5) if steps else None
