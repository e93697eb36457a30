"""Seconds until a command has answered: wall clock and processor, each in a fresh process, beside what it cannot do without.

All take turns; the median of the rounds is reported. With ``--run FOLDER --volume FILE`` the prediction of one volume is measured
too. The file cache is warm: the first round is not counted.
"""

from __future__ import annotations

import argparse
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from benchmarks._records import write_record

COMMANDS = {
    "python -c pass": ("-c", "pass"),
    "python -c 'import torch'": ("-c", "import torch"),
    "python -c 'import monai.transforms'": ("-c", "import monai.transforms"),
    "se-med --help": ("-m", "se_med", "--help"),
    "se-med --version": ("-m", "se_med", "--version"),
    "se-med train --help": ("-m", "se_med", "train", "--help"),
    "se-med list blocks": ("-m", "se_med", "list", "blocks"),
}
BARS = {"se-med --help": 0.3, "se-med predict, one volume": 5.0}
"""Seconds by the clock that a command may take."""


def run(arguments: Sequence[str]) -> tuple[float, float]:
    """Run Python in a process of its own; returns seconds by the clock and of the processor.

    Raises:
        RuntimeError: the command failed.
    """
    before, begin = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    done = subprocess.run([sys.executable, *arguments], capture_output=True, text=True, check=False)  # noqa: S603  (ours)
    elapsed, after = time.perf_counter() - begin, resource.getrusage(resource.RUSAGE_CHILDREN)
    if done.returncode:
        raise RuntimeError(f"{' '.join(arguments)}: {done.stderr.strip()[-400:]}")
    return elapsed, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def table(measured: dict[str, list[tuple[float, float]]]) -> str:
    """Return a Markdown table: the medians, and whether each is within its bar."""
    lines = ["| command | s | processor s | bar |", "|---|---|---|---|"]
    for name, rounds in measured.items():
        wall, cpu = (statistics.median(values) for values in zip(*rounds, strict=True))
        bar = BARS.get(name)
        judged = "" if bar is None else f"{bar}, {'met' if wall <= bar else 'missed'}"
        lines.append(f"| {name} | {wall:.2f} | {cpu:.2f} | {judged} |")
    return "\n".join(lines) + "\n"


def main(arguments: Sequence[str]) -> int:
    """Measure, print a Markdown table and write it with its numbers."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks startup", description=__doc__)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--run", type=Path, help="run folder to predict with")
    parser.add_argument("--volume", type=Path, help="the volume to predict")
    parser.add_argument("--output", type=Path, default=Path(__file__).parent / "results" / "startup")
    options = parser.parse_args(arguments)
    measured: dict[str, list[tuple[float, float]]] = {}
    with tempfile.TemporaryDirectory() as folder:
        for turn in range(options.rounds + 1):
            commands = dict(COMMANDS)
            if options.run is not None and options.volume is not None:
                predict = ("-m", "se_med", "predict", str(options.run), str(options.volume), "--output")
                commands["se-med predict, one volume"] = (*predict, str(Path(folder) / str(turn)))
            for name, command in commands.items():
                seconds = run(command)
                if turn:
                    measured.setdefault(name, []).append(seconds)
    write_record(options.output, table(measured), vars(options), measured)
    return 0
