"""Writes what a measurement found, with where it was measured."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from se_med.training.provenance import machine, software


def write_record(output: Path, text: str, setting: Mapping[str, Any], measured: Any) -> None:
    """Print a Markdown table and write it, and beside it its numbers as JSON with machine, versions and commit.

    Args:
        output: path without suffix.
        text: the table.
        setting: what was chosen.
        measured: the numbers.
    """
    print(text)
    git = ["/usr/bin/env", "git", "rev-parse", "--short", "HEAD"]
    record = {
        "setting": dict(setting),
        "commit": subprocess.run(git, capture_output=True, text=True, check=False).stdout.strip(),  # noqa: S603  (fixed)
        "machine": machine(),
        "software": software(),
        "measured": measured,
    }
    output.parent.mkdir(parents=True, exist_ok=True)
    output.with_suffix(".md").write_text(text, encoding="utf-8")
    output.with_suffix(".json").write_text(json.dumps(record, indent=1, default=str) + "\n", encoding="utf-8")
