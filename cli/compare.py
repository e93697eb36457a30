"""`se-med compare`: train the arms of a study alike, compare them case by case, and say what follows."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

from cyclopts import Parameter

from se_med.cli.console import make_console

if TYPE_CHECKING:
    from rich.console import Console

    from se_med.study.compare import Result
    from se_med.study.forecast import Forecast


def compare(
    study: Path,
    *overrides: Annotated[str, Parameter(allow_leading_hyphen=False)],
    studies: Path | None = None,
    dry_run: bool = False,
    engine: Literal["local", "dask"] | None = None,
    workers: int | None = None,
    threads: int | None = None,
    address: str | None = None,
) -> int:
    """Make every run of a study (arms x folds x seeds) and compare the arms with the reference.

    Runs that are there already are not made again: a study that was stopped goes on by the same command, and an arm or a seed
    more costs only its own runs.

    Args:
        study: study file (YAML): base, arms, reference, folds, seeds, endpoint, margin.
        overrides: settings laid over the base, as key=value, e.g. data.root=FOLDER training.steps=2000.
        studies: folder of studies, in place of that of the study file. Default: studies.
        dry_run: list the runs and predict time, memory and disk from a short trial of each arm; train nothing.
        engine: where runs are made, in place of that of the study file.
        workers: runs at a time, likewise.
        threads: CPU threads of each run, likewise.
        address: address of a Dask scheduler, likewise.
    """
    from se_med.cli.loading import loading
    from se_med.data.root import require_root
    from se_med.study.arms import load_study

    read = load_study(study, overrides)
    require_root(read.arms[0].config.data)
    with loading():
        from se_med.cli.board import show_board
        from se_med.cli.progress import progress_bar
        from se_med.study.compare import compare as make_study
        from se_med.study.engine import with_machine
        from se_med.study.forecast import forecast
    read = with_machine(read, engine=engine, workers=workers, threads=threads, address=address)
    console = make_console()
    if dry_run:
        _print_forecast(forecast(read, studies, progress=progress_bar), console)
        return 0
    result = make_study(read, studies, progress=progress_bar, show=show_board)
    _print_result(result, console)
    return 1 if result.failures else 0


def _print_forecast(found: Forecast, console: Console) -> None:
    from rich import box
    from rich.table import Table

    table = Table(title="arms", title_justify="left", box=box.SIMPLE_HEAD, padding=0, show_edge=False)
    table.add_column("arm", overflow="fold", min_width=12)
    for name in ("parameters", "GMACs", "steps", "s a\nstep", "minutes\na run", "memory\nMB", "runs to\nmake", "matched"):
        table.add_column(name, justify="right", no_wrap=True)
    for arm in found.arms:
        trial, steps = found.trials[arm.name], arm.config.training.steps or 0
        to_make, runs = (sum(run.arm == arm.name for run in some) for some in (found.missing, found.runs))
        table.add_row(
            arm.name,
            f"{arm.cost.parameters:,}",
            f"{arm.cost.macs / 1e9:.2f}",
            str(steps),
            f"{trial.seconds_per_step:.3f}",
            f"{trial.seconds(steps) / 60:.1f}",
            f"{trial.peak_memory_mb:.0f}",
            f"{to_make} of {runs}",
            "no" if found.reasons[arm.name] else "yes",
        )
    console.print(table)
    for arm in found.arms:
        for said in (arm.note, f"unmatched: {found.reasons[arm.name]}" if found.reasons[arm.name] else ""):
            if said:
                console.print(f"{arm.name}: {said}", soft_wrap=True)
    for run in found.missing:
        console.print(f"{run.title}: run {run.key}", soft_wrap=True)
    console.print(
        f"{len(found.missing)} of {len(found.runs)} runs to make, {found.workers} at a time: about "
        f"{found.total_seconds / 60:.0f} minutes, {found.memory_mb:.0f} MB of memory, {found.disk_mb:.0f} MB of disk; "
        "predicted from a short trial of each arm",
        soft_wrap=True,
    )


def _print_result(result: Result, console: Console) -> None:
    from se_med.cli.progress import progress_bar
    from se_med.errors import UsageError
    from se_med.study.conclusion import conclude
    from se_med.study.terminal import verdict_text

    for title, error in result.failures.items():
        console.print(f"excluded: {title}: {error}", soft_wrap=True, style="red")
    try:
        statistics = conclude(result.folder, progress_bar)
    except UsageError as error:
        console.print(f"no comparison: {error.message}", soft_wrap=True)
    else:
        console.print(verdict_text(statistics))
    finished, runs = sum(run.status == "finished" for run in result.tables.runs), len(result.tables.runs)
    console.print(f"{finished} of {runs} runs finished, {result.made} of them made now", soft_wrap=True)
    console.print(f"study folder {result.folder}, with report.html, summary.json, cases.csv and runs.csv", soft_wrap=True)
