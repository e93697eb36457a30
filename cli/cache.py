"""`se-med cache`: what the prepared cases take on disk, and clearing them."""

from __future__ import annotations

import json as json_format
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from cyclopts import App, Parameter

from se_med.cli.console import make_console

if TYPE_CHECKING:
    from se_med.data.cache_list import Entry

app = App(name="cache", help_format="markdown", help="List and clear the prepared cases that training keeps.")

Folder = Annotated[Path | None, Parameter(name=["--folder", "-f"])]


@app.command(name="list")
def list_cache(*, folder: Folder = None, json: bool = False) -> int:
    """List the data sets that have prepared cases: number, size, age, last use.

    Args:
        folder: the cache; default: the one that training uses where data.cache is not set.
        json: print one JSON document instead of a table.
    """
    from se_med.data.cache_folder import default_cache
    from se_med.data.cache_list import UNUSABLE, list_entries, sum_up

    folder = folder or default_cache()
    entries = list_entries(folder)
    holdings = sum_up(entries)
    if json:
        rows = [holding.__dict__ for holding in holdings]
        sys.stdout.write(json_format.dumps({"folder": str(folder), "datasets": rows}, indent=2) + "\n")
        return 0
    from rich import box
    from rich.table import Table

    console = make_console()
    if not holdings:
        console.print(f"{folder}: no prepared cases", soft_wrap=True, highlight=False)
        return 0
    table = Table(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0), pad_edge=False)
    table.add_column("data set")
    for name in ("cases", "size", "oldest", "last use", "in use"):
        table.add_column(name, justify="right", no_wrap=True)
    for holding in holdings:
        busy = str(holding.in_use) if holding.in_use else ""
        cells = (str(holding.cases), _size(holding.size), _ago(holding.prepared), _ago(holding.used), busy)
        table.add_row(holding.dataset or "(no name)", *cells)
    table.add_section()
    table.add_row("all", str(len(entries)), _size(sum(entry.size for entry in entries)), "", "", "")
    console.print(table)
    console.print(str(folder), soft_wrap=True, highlight=False)
    if any(holding.dataset == UNUSABLE for holding in holdings):
        console.print(
            f"{UNUSABLE}: damaged, or of another version of se-med; nothing uses it. "
            f"`se-med cache clear '{UNUSABLE}'` makes room",
            soft_wrap=True,
            highlight=False,
        )
    return 0


@app.command
def clear(
    dataset: str | None = None,
    *,
    older_than: Annotated[float | None, Parameter(name="--older-than")] = None,
    all: bool = False,  # noqa: A002 - the name of the option
    folder: Folder = None,
) -> int:
    """Remove prepared cases; training makes again what it needs. Those that a run uses or writes stay.

    Args:
        dataset: name of the data set, with wildcards.
        older_than: only cases that nobody has used for this many days.
        all: remove everything.
        folder: the cache; default: the one that training uses where data.cache is not set.
    """
    from se_med.data.cache_folder import default_cache
    from se_med.data.cache_list import choose_entries, clear_entries, list_entries
    from se_med.errors import UsageError

    if all == (dataset is not None or older_than is not None):
        raise UsageError("cache clear: say what to remove: the name of a data set, --older-than DAYS, or --all alone")
    if older_than is not None and older_than < 0:
        raise UsageError(f"--older-than {older_than:g}: must be a number of days")
    folder = folder or default_cache()
    entries = list_entries(folder)
    chosen = choose_entries(entries, "*" if dataset is None else dataset, older_than or 0.0)
    if not chosen and dataset is not None and not choose_entries(entries, dataset):
        known = ", ".join(sorted({entry.dataset for entry in entries})) or "nothing"
        raise UsageError(f"cache clear: {folder} holds no data set named {dataset}; it holds {known}")
    removed = clear_entries(folder, chosen)
    _report(removed, len(chosen))
    return 0


def _report(removed: list[Entry], chosen: int) -> None:
    kept = f"; {chosen - len(removed)} are in use and stay" if chosen > len(removed) else ""
    sys.stdout.write(f"removed {len(removed)} prepared cases, {_size(sum(entry.size for entry in removed))}{kept}\n")


def _size(size: int) -> str:
    return f"{size / 1e9:.2f} GB" if size >= 1e9 else f"{size / 1e6:.1f} MB"


def _ago(moment: float) -> str:
    seconds = max(0.0, time.time() - moment)
    for length, unit in ((86400, "day"), (3600, "hour"), (60, "minute")):
        if seconds >= length:
            number = int(seconds // length)
            return f"{number} {unit}{'' if number == 1 else 's'} ago"
    return "now"
