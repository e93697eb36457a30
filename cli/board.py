"""The runs of a study while they are made: a live table on a terminal, nothing elsewhere (log lines tell instead)."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from se_med.cli.console import make_console

if TYPE_CHECKING:
    from rich.table import Table

    from se_med.study.board import Board, Entry

STYLES = {"waiting": "dim", "running": "cyan", "finished": "green", "failed": "bold red", "stopped": "yellow"}
WAITING = 8
"""Runs that wait and are shown at most, so that the table of a large study fits on the screen."""


@contextmanager
def show_board(board: Board) -> Iterator[None]:
    """Show the board on stderr while the block runs; where stderr is no terminal, show nothing."""
    if not sys.stderr.isatty():
        yield
        return
    from rich.live import Live

    with Live(get_renderable=lambda: board_table(board), console=make_console(stderr=True), refresh_per_second=1):
        yield


def board_table(board: Board) -> Table:
    """Return the runs with their states as a table."""
    from rich import box
    from rich.table import Table

    board.refresh()
    minutes = (time.time() - board.begin) / 60
    counts = ", ".join(f"{board.count(state)} {state}" for state in STYLES if board.count(state))  # type: ignore[arg-type]
    table = Table(title=f"{counts}; {minutes:.0f} minutes gone", title_justify="left", box=box.SIMPLE_HEAD, pad_edge=False)
    table.add_column("arm", overflow="fold")
    for name in ("fold", "seed", "step", "Dice"):
        table.add_column(name, justify="right", no_wrap=True)
    table.add_column("state", overflow="fold")
    waiting = 0
    for entry in board.entries:
        waiting += entry.state == "waiting"
        if entry.state != "waiting" or waiting <= WAITING:
            table.add_row(*_cells(entry), style=STYLES[entry.state])
    if waiting > WAITING:
        table.add_row(f"and {waiting - WAITING} more", "", "", "", "", "waiting", style="dim")
    return table


def _cells(entry: Entry) -> tuple[str, ...]:
    run, steps = entry.run, entry.run.config.training.steps
    step = f"{entry.step}/{steps}" if entry.state == "running" else "" if entry.state == "waiting" else str(steps)
    dice = "" if entry.dice is None else f"{entry.dice:.4f}"
    state = f"{entry.state}: {entry.note}" if entry.note else entry.state
    return run.arm, str(run.fold), str(run.seed), step, dice, state
