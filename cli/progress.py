"""A progress bar with the time left, on a terminal only."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager

from se_med.cli.console import make_console, printable
from se_med.progress import Advance, silent


@contextmanager
def progress_bar(description: str, total: int | None) -> Iterator[Advance]:
    """Show a bar on stderr while the block runs; where stderr is no terminal, show nothing (log lines tell instead)."""
    if not sys.stderr.isatty():
        with silent(description, total) as advance:
            yield advance
        return
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

    columns = (
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(),
        TextColumn("{task.fields[note]}", markup=False),
    )
    with Progress(*columns, console=make_console(stderr=True)) as bar:
        task = bar.add_task(printable(description), total=total, note="")
        yield lambda done, note: bar.update(task, completed=done, note=printable(note))
