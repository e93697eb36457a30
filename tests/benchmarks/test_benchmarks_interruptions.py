"""The campaign of interruptions itself, with a few of them."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks._kill import Kill, make_table

ROOT = Path(__file__).resolve().parent.parent.parent


def test_the_table_counts_what_must_not_be_and_says_it():
    kills = [
        Kill("train", "SIGKILL", 1.0, False, "one device", -9, "steps", lost=2),
        Kill("train", "SIGKILL", 2.0, False, "one device", -9, "steps", lost=3, orphans=1, faults=["broken: last.ckpt: cut"]),
        Kill("predict", "SIGTERM", 2.0, True, "small disk", 143, "cases", faults=["left: .a.tmp"]),
    ]
    lines = make_table(kills).splitlines()
    assert lines[0] == ("| command | SIGKILL | SIGTERM | all | broken files | other faults | processes left | largest loss |")
    assert lines[2:5] == [
        "| train | 2 |  | 2 | 1 | 0 | 1 | 3 steps |",
        "| predict |  | 1 | 1 | 0 | 1 | 0 |  |",
        "| **all** | 2 | 1 | 3 | 1 | 1 | 1 |  |",
    ]
    assert lines[-2:] == [
        "train, SIGKILL after 2.00 s: broken: last.ckpt: cut",
        "predict, SIGTERM after 2.00 s: left: .a.tmp",
    ]


@pytest.mark.slow
def test_interrupted_commands_end_as_if_nobody_had_interrupted_them(tmp_path):
    command = [sys.executable, "-m", "benchmarks", "interruptions", "--kills", "12", "--tasks", "train", "prepare", "predict"]
    done = subprocess.run([*command, "-o", str(tmp_path / "found")], cwd=ROOT, capture_output=True, text=True, timeout=1200)
    assert done.returncode == 0, done.stdout + done.stderr
    kills = json.loads((tmp_path / "found.json").read_text())["measured"]
    assert len(kills) >= 11
    assert not any(kill["faults"] for kill in kills)
