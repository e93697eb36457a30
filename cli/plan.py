"""`se-med plan`: what training would decide for a data set, and why."""

from __future__ import annotations

import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from cyclopts import Parameter

from se_med.cli.console import make_console

if TYPE_CHECKING:
    from rich.table import Table

    from se_med.data.plan import Plan
    from se_med.training.planned import Planned

SPLIT = "split.json"


def plan(
    config: Path,
    *overrides: Annotated[str, Parameter(allow_leading_hyphen=False)],
    trial: bool = False,
    output: Annotated[Path | None, Parameter(name=["--output", "-o"])] = None,
    json: bool = False,
) -> int:
    """Read a data set and plan a run: spacing, normalisation, patch, network, batch; each with its reason.

    With --trial a few steps are timed on this machine. Where the minutes of the budget allow fewer than 500, a smaller batch or
    network is planned. Train by the plan, and let several runs share it, with data.plan=plan.json.

    Args:
        config: configuration file (YAML).
        overrides: settings that replace those of the file, as key=value, e.g. data.root=FOLDER training.max_minutes=30.
        trial: time some steps, and fit the plan to the budget in minutes.
        output: file to write the plan to. Folds that were made are written beside it, as split.json.
        json: print the plan as JSON instead of a table.
    """
    begun = time.monotonic()
    from se_med.cli.loading import loading
    from se_med.config.load import load_config
    from se_med.data.root import require_root

    configuration = load_config(config, overrides)
    require_root(configuration.data)
    with loading():
        from se_med.cli.progress import progress_bar
        from se_med.training.plan_trial import estimate_plan, try_plan
        from se_med.training.planned import plan_run

    planned = plan_run(configuration, progress_bar)
    planned = try_plan(planned, progress_bar, time.monotonic() - begun) if trial else estimate_plan(planned)
    written = [] if output is None else _write(planned, output)
    if json:
        sys.stdout.write(planned.plan.model_dump_json(indent=2) + "\n")
        return 0

    console = make_console()
    console.print(_table(planned.plan))
    for line in _takes(planned):
        console.print(line, soft_wrap=True, highlight=False)
    for path in written:
        console.print(f"written: {path}", soft_wrap=True, highlight=False)
    return 0


def _write(planned: Planned, output: Path) -> list[Path]:
    """Write the plan, and beside it the folds where they were made; returns what was written."""
    from se_med.data.folds import read_split, split_cases, write_split
    from se_med.errors import UsageError
    from se_med.io.atomic import write_text

    data, beside = planned.given.data, output.parent / SPLIT
    folds = () if data.split is not None else split_cases(planned.dataset, data, planned.fingerprint)
    if folds and beside.exists() and read_split(beside) != folds:
        raise UsageError(f"{beside}: holds other folds; use them with data.split={beside}, or write the plan to another folder")
    output.parent.mkdir(parents=True, exist_ok=True)
    if folds:
        write_split(beside, folds)
    write_text(output, planned.plan.model_dump_json(indent=2) + "\n")
    return [output, beside] if folds else [output]


def _table(plan: Plan) -> Table:
    from rich import box
    from rich.table import Table
    from rich.text import Text

    from se_med.training.run_data import plain

    table = Table(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0), pad_edge=False)
    table.add_column("setting", no_wrap=True)
    table.add_column("plan")
    table.add_column("why")
    for key, reason in plan.reasons.items():
        table.add_row(key, Text(plain(getattr(plan, key))), Text(reason))
    return table


def _takes(planned: Planned) -> list[str]:
    """Return what a run takes, a line each."""
    plan, estimate = planned.plan, planned.plan.estimate
    if estimate is None:
        return []
    how = "measured" if estimate.memory_measured else "estimated"
    lines = [
        f"device: {estimate.device}",
        f"memory: {estimate.memory_mb:,.0f} MB ({how})",
        f"disk: {estimate.cache_mb:,.0f} MB of prepared cases",
    ]
    if estimate.seconds_per_step is None:
        budget = f"{estimate.steps} steps" if estimate.minutes is None else f"{estimate.minutes:g} minutes"
        return [*lines, f"time: {budget}; --trial tells how long a step takes"]
    steps, second = estimate.steps or 0, estimate.seconds_per_step
    passes = steps * plan.batch_size * planned.config.training.accumulate / max(1, len(planned.fold.train))
    budget = "" if estimate.minutes is None else f" in {estimate.minutes:g} minutes"
    return [*lines, f"time: {second:.3g} s a step, {steps} steps{budget} (with validation), {passes:,.0f} patches of every case"]
