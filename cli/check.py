"""`se-med check`: what is wrong with a data set, before an hour is spent on it."""

from __future__ import annotations

import json as json_format
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from cyclopts import Parameter

from se_med.cli.console import make_console

if TYPE_CHECKING:
    from se_med.config.experiment import Config
    from se_med.data.checks.check import Check

_MOST_OF_A_KIND = 8  # findings of one kind on the screen


def check(
    source: Path,
    *overrides: Annotated[str, Parameter(allow_leading_hyphen=False)],
    output: Annotated[Path | None, Parameter(name=["--output", "-o"])] = None,
    json: bool = False,
) -> int:
    """Read every case of a data set and tell what is wrong: errors stop training (exit code 3), warnings do not.

    Writes check.json, and check.html with pictures of the suspicious cases.

    Args:
        source: configuration file (YAML), or folder of a data set.
        overrides: settings that replace those of the file, as key=value, e.g. data.labels.liver=1.
        output: folder of check.json and check.html, or the page's own name, as in -o liver.html; the JSON file is beside it.
            Default: check-NAME in the current folder.
        json: print the JSON document instead of tables.
    """
    from se_med.cli.loading import loading
    from se_med.data.root import require_root

    configuration, name = _configuration(source, overrides)
    require_root(configuration.data)
    with loading():
        from se_med.cli.progress import progress_bar
        from se_med.data.checks.check import check_dataset
        from se_med.data.checks.report import write_check
    found = check_dataset(configuration.data, progress_bar, folds=source.is_file())
    page = _page(output if output is not None else Path(f"check-{name}"))
    write_check(found, page.parent, progress_bar, page.stem)
    if json:
        sys.stdout.write(json_format.dumps(found.to_dict(), indent=2) + "\n")
    else:
        _print(found, page)
    return 3 if found.errors else 0


def _page(output: Path) -> Path:
    """Return the path of the page: a name with the suffix of one of both files is that of a file, every other of a folder."""
    if output.suffix in (".html", ".json") and not output.is_dir():
        return output.with_suffix(".html")
    return output / "check.html"


def _configuration(source: Path, overrides: tuple[str, ...]) -> tuple[Config, str]:
    """Return the configuration, and the name of what is checked."""
    from se_med.config.load import load_config, parse_config

    if not source.is_dir():
        configuration = load_config(source, overrides)
        return configuration, source.stem if configuration.name == "run" else configuration.name
    # JSON is YAML, whatever the folder is called.
    text = json_format.dumps({"data": {"root": str(source.resolve())}})
    return parse_config(text, str(source), overrides=overrides), source.resolve().name


def _print(found: Check, page: Path) -> None:
    from itertools import groupby

    from se_med.data.checks.finding import KINDS

    console = make_console()
    for (severity, kind), group in groupby(found.findings, key=lambda one: (one.severity, one.kind)):
        findings = list(group)
        style = "bold red" if severity == "error" else "bold yellow"
        console.print(f"{severity}: {KINDS[kind]} ({len(findings)})", style=style, markup=False, highlight=False)
        for finding in findings[:_MOST_OF_A_KIND]:
            console.print(f"  {finding.line}", soft_wrap=True, markup=False, highlight=False)
        if len(findings) > _MOST_OF_A_KIND:
            console.print(f"  and {len(findings) - _MOST_OF_A_KIND} more, in {page}", soft_wrap=True, markup=False)
    if found.structures:
        console.print(_table(found))
    verdict = "training would not start" if found.errors else "nothing that stops training"
    counts = f"{_count(found.errors, 'error')}, {_count(found.warnings, 'warning')}"
    console.print(f"{_count(len(found.examined), 'case')}: {counts}; {verdict}. Page: {page}", soft_wrap=True, markup=False)


def _table(found: Check) -> object:
    from rich import box
    from rich.table import Table
    from rich.text import Text

    from se_med.data.checks.statistics import structure_rows

    table = Table(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0), pad_edge=False)
    table.add_column("structure")
    for name in ("label", "cases", "share of voxels", f"min {found.unit}", "median", "max"):
        table.add_column(name, justify="right", no_wrap=True)
    for row in structure_rows(found.examined, found.structures):
        sizes = ["-"] * 3 if row.volumes is None else [f"{value:.4g}" for value in row.volumes]
        values = ", ".join(map(str, row.values))
        table.add_row(Text(row.name), values, f"{row.cases} of {row.total}", f"{100 * row.share:.3g} %", *sizes)
    return table


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}{'' if number == 1 else 's'}"
