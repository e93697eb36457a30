"""Kill a study at random moments, go on with it each time, and compare its tables with those of an uninterrupted study.

The data are synthetic, the network small: what is under test is resuming. Every command is a real ``se-med compare`` of its own,
and a kill takes the whole tree of processes: the command, its workers and the processes of the runs.
"""

from __future__ import annotations

import argparse
import csv
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from benchmarks.kills import _make_data

BASE = """\
data: {root: data, folds: 4, cache: cache}
network: {features: [4, 8], strides: [[2, 2, 2]], stem: [1, 1, 1], dropout: 0.1}
training: {steps: 150, batch_size: 2, patch: [16, 16, 16], epoch_steps: 20, validations: 2, checkpoint_minutes: 0.002}
"""
STUDY = """\
base: base.yaml
arms: {plain: {attention: null}, scse: {attention: scse}}
reference: plain
folds: [0, 1]
seeds: [0, 1]
workers: 2
"""
MOVING = ("seconds", "seconds_per_step", "seconds_per_case", "peak_memory_mb", "attempts")
"""Columns that depend on the moment."""


def main(arguments: list[str]) -> int:
    """Make the reference, then kill and go on; print a Markdown table."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks study_kills", description=__doc__)
    parser.add_argument("--kills", type=int, default=10)
    parser.add_argument("--signal", choices=["SIGKILL", "SIGTERM", "SIGINT", "mixed"], default="mixed")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--least", type=float, default=6.0, help="seconds that a command is left alone at least")
    parser.add_argument("--most", type=float, default=25.0, help="seconds after which it is killed at the latest")
    options = parser.parse_args(arguments)
    generator = random.Random(options.seed)  # noqa: S311  (moments of a test, no secrets)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        _make_data(folder / "data")
        (folder / "base.yaml").write_text(BASE)
        (folder / "study.yaml").write_text(STUDY)
        begin = time.monotonic()
        if _start(folder, "whole").wait() != 0:
            print("the uninterrupted study failed")
            return 1
        print(f"uninterrupted study: {time.monotonic() - begin:.1f} s\n")
        print("| # | signal | after s | exit code | runs finished |\n|---|---|---|---|---|")
        for number in range(1, options.kills + 1):
            names = ["SIGKILL", "SIGTERM", "SIGINT"] if options.signal == "mixed" else [options.signal]
            kind, after = generator.choice(names), generator.uniform(options.least, options.most)
            code = _kill(_start(folder, "parted"), kind, after)
            finished = len(list((folder / "parted" / "runs").glob("*/measured.json")))
            print(f"| {number} | {kind} | {after:.1f} | {code} | {finished} of 8 |", flush=True)
        code = _start(folder, "parted").wait()
        same = code == 0 and _tables(folder / "whole") == _tables(folder / "parted")
        left = len(list((folder / "parted").rglob("*.tmp")))
    print(f"\nstudy killed {options.kills} times: tables {'equal' if same else 'DIFFER'}, {left} temporary files left")
    return 0 if same and left == 0 else 1


def _start(folder: Path, studies: str) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-m", "se_med", "compare", str(folder / "study.yaml"), "--studies", str(folder / studies)]
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).resolve().parent.parent)}
    return subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)  # noqa: S603


def _kill(process: subprocess.Popen[bytes], name: str, after: float) -> int:
    try:
        return process.wait(after)
    except subprocess.TimeoutExpired:
        pass
    if name == "SIGKILL":
        for child in _tree(process.pid):
            try:
                os.kill(child, signal.SIGKILL)
            except ProcessLookupError:
                continue
    else:
        process.send_signal(getattr(signal, name))
    return process.wait()


def _tree(process: int) -> list[int]:
    """Return a process and all that it has started, itself first (Linux)."""
    parents: dict[int, list[int]] = {}
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            parent = int(path.read_text().rpartition(")")[2].split()[1])
        except (OSError, ValueError):
            continue
        parents.setdefault(parent, []).append(int(path.parent.name))
    found = [process]
    for known in found:
        found += parents.get(known, [])
    return found


def _tables(studies: Path) -> tuple[str, str, list[dict[str, str]]]:
    folder = studies / "study"
    with (folder / "runs.csv").open(encoding="utf-8", newline="") as file:
        runs = [{key: cell for key, cell in row.items() if key not in MOVING} for row in csv.DictReader(file)]
    return (folder / "arms.json").read_text(), (folder / "cases.csv").read_text(), runs
