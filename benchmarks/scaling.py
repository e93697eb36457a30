"""How a training step grows with the volume of the patch, the batch, the threads, and with several runs at once.

One network, plain or with a block, in the precision that training takes; a step is forward pass, loss and backward pass. Volumes,
batches and threads take turns in one process; runs at once are processes of their own that share the cores. The median of the
rounds is reported.
"""

from __future__ import annotations

import argparse
import math
import multiprocessing
import os
import statistics
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch

from benchmarks._records import write_record
from benchmarks.train_step import build
from se_med.config.training import TrainingConfig
from se_med.inference.precision import autocast, resolve_precision
from se_med.training.losses import build_loss

FEATURES, STEM = (32, 64, 128), (2, 2, 2)
PATCHES = ((24, 32, 24), (32, 40, 32), (40, 56, 40), (56, 72, 56))


def make_step(block: str | None, patch: Sequence[int], batch: int) -> Callable[[], float]:
    """Return what makes one step and returns its seconds."""
    network, loss = build(block, FEATURES, STEM), build_loss(TrainingConfig())
    torch.manual_seed(0)
    image, label = torch.randn(batch, 1, *patch), torch.randint(0, 3, (batch, 1, *patch))
    cpu = torch.device("cpu")
    precision = resolve_precision("auto", cpu)

    def step() -> float:
        start = time.perf_counter()
        with autocast(precision, cpu):
            logits = network(image)
        loss(logits, label).backward()
        network.zero_grad()
        return time.perf_counter() - start

    return step


def time_all(steps: dict[Any, tuple[int, Callable[[], float]]], rounds: int) -> dict[Any, list[float]]:
    """Time steps in turn, each with its number of threads, after a round that warms up."""
    seconds: dict[Any, list[float]] = {key: [] for key in steps}
    for turn in range(rounds + 1):
        for key, (threads, step) in steps.items():
            torch.set_num_threads(threads)
            elapsed = step()
            if turn:
                seconds[key].append(elapsed)
    return seconds


def run_at_once(processes: int, threads: int, block: str | None, batch: int, rounds: int) -> list[float]:
    """Return the seconds of every step of several processes that run at once."""
    spawn = multiprocessing.get_context("spawn")
    results, ready = spawn.Queue(), spawn.Barrier(processes)
    workers = [spawn.Process(target=_work, args=(threads, block, batch, rounds, ready, results)) for _ in range(processes)]
    for worker in workers:
        worker.start()
    seconds = [value for _ in workers for value in results.get()]
    for worker in workers:
        worker.join()
    return seconds


def _work(threads: int, block: str | None, batch: int, rounds: int, ready: Any, results: Any) -> None:
    torch.set_num_threads(threads)
    step = make_step(block, PATCHES[2], batch)
    step()
    ready.wait()
    results.put([step() for _ in range(rounds)])


def table(measured: dict[str, dict[Any, list[float]]], batch: int) -> str:
    """Return a Markdown table: seconds of a step, and samples or voxels per second."""
    lines = ["| what grows | to | s per step | per second |", "|---|---|---|---|"]
    for what, rows in measured.items():
        for key, seconds in rows.items():
            median = statistics.median(seconds)
            if what == "patch":
                label, rate = "x".join(map(str, key)), f"{batch * math.prod(key) / median / 1e6:.2f} million voxels"
            elif what == "batch":
                label, rate = str(key), f"{key / median:.2f} samples"
            elif what == "threads":
                label, rate = str(key), f"{batch / median:.2f} samples"
            else:
                label, rate = f"{key[0]} of {key[1]} threads", f"{key[0] * batch / median:.2f} samples, all together"
            lines.append(f"| {what} | {label} | {median:.3f} | {rate} |")
    return "\n".join(lines) + "\n"


def main(arguments: Sequence[str]) -> int:
    """Measure, print a Markdown table and write it with its numbers."""
    cores = len(os.sched_getaffinity(0))
    parser = argparse.ArgumentParser(prog="python -m benchmarks scaling", description=__doc__)
    parser.add_argument("--block", help="attention block in every stage; none by default")
    parser.add_argument("--batch", type=int, default=4)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--threads", type=int, default=cores, help="of the steps whose patch or batch grows, and the most tried")
    parser.add_argument("--output", type=Path, default=Path(__file__).parent / "results" / "scaling")
    options = parser.parse_args(arguments)
    most, batch, block = options.threads, options.batch, options.block
    powers = sorted({min(2**power, most) for power in range(most.bit_length() + 1)})
    same = make_step(block, PATCHES[2], batch)
    measured: dict[str, dict[Any, list[float]]] = {
        "patch": time_all({patch: (most, make_step(block, patch, batch)) for patch in PATCHES}, options.rounds),
        "batch": time_all({size: (most, make_step(block, PATCHES[2], size)) for size in (1, 2, 4, 8)}, options.rounds),
        "threads": time_all({threads: (threads, same) for threads in powers}, options.rounds),
        "runs at once": {
            (runs, max(1, most // runs)): run_at_once(runs, max(1, most // runs), block, batch, options.rounds) for runs in powers
        },
    }
    record = {what: {str(key): seconds for key, seconds in rows.items()} for what, rows in measured.items()}
    write_record(options.output, table(measured, batch), vars(options), record)
    return 0
