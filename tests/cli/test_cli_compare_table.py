"""The table of `se-med compare --dry-run` on a terminal of 80 columns."""

from __future__ import annotations

import io
from types import SimpleNamespace

from rich.console import Console

from se_med.cli.compare import _print_forecast


def forecast(arms):
    """A forecast of arms with the numbers of large networks; two folds and three seeds."""
    runs = [SimpleNamespace(arm=arm, title=f"{arm}, fold {fold}", key="0" * 32) for arm in arms for fold in range(12)]
    trial = SimpleNamespace(seconds_per_step=12.345, peak_memory_mb=12345.6, seconds=lambda steps: 123456.0)
    return SimpleNamespace(
        arms=[
            SimpleNamespace(
                name=arm,
                note="",
                config=SimpleNamespace(training=SimpleNamespace(steps=100000)),
                cost=SimpleNamespace(parameters=123_456_789, macs=1234.5e9),
            )
            for arm in arms
        ],
        trials=dict.fromkeys(arms, trial),
        reasons=dict.fromkeys(arms, ""),
        runs=runs,
        missing=runs[:-2],
        workers=2,
        total_seconds=98765.0,
        memory_mb=24691.0,
        disk_mb=4321.0,
    )


def test_every_number_is_whole_in_80_columns():
    arms = ["plain", "scse-in-every-stage-of-the-decoder"]
    text = io.StringIO()
    _print_forecast(forecast(arms), Console(file=text, width=80))
    table = text.getvalue().split("plain, fold")[0]
    assert "…" not in table
    assert all(len(line) <= 80 for line in table.splitlines())
    (row,) = (line for line in table.splitlines() if line.startswith("plain "))
    assert row.split() == ["plain", "123,456,789", "1234.50", "100000", "12.345", "2057.6", "12346", "12", "of", "12", "yes"]
    assert arms[1] in "".join(line.split(" ")[0] for line in table.splitlines())
