"""Seconds of a forward pass in inference, with every attention block, against the plain network as torch runs it in float32.

`blocks`: a U-Net of 38 GFLOP per patch. The baseline is the plain network with the same weights in float32, by torch's layers.
All take turns in one process, so that whatever else the machine does meets all of them; each block is timed between two passes of
our plain network, and its ratio is the median over rounds of its time to the mean of these two.

`growth`: how the time of our plain network, and of one block, grows with patch, batch and threads.
"""

from __future__ import annotations

import argparse
import math
import os
import statistics
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn

from benchmarks._records import write_record
from benchmarks.train_step import build, by_torch, without_kernels
from se_med.inference.precision import autocast, resolve_precision

BLOCKS = ("cse", "sse", "scse", "pe", "cbam", "eca")
PATCH = (40, 56, 40)
PATCHES = ((24, 32, 24), (32, 40, 32), PATCH, (64, 80, 64), (96, 96, 96))
FASTER, DEARER = 3.0, 1.05
"""How many times as fast as torch in float32 the plain network is meant to be, and what a block may take, times plain."""

CPU = torch.device("cpu")


def make_pass(network: nn.Module, patch: Sequence[int], batch: int) -> Callable[[], float]:
    """Return what makes one pass as `se_med.inference` does, and returns its seconds."""
    image = torch.randn(batch, 1, *patch, generator=torch.Generator().manual_seed(0))
    precision = resolve_precision("auto", CPU)
    network.eval()

    def forward() -> float:
        with torch.inference_mode(), autocast(precision, CPU):
            start = time.perf_counter()
            network(image)
            return time.perf_counter() - start

    return forward


def make_baseline(network: nn.Module, patch: Sequence[int], batch: int) -> Callable[[], float]:
    """Return what makes one pass as torch does without us: float32, torch's layers, contiguous memory."""
    image = torch.randn(batch, 1, *patch, generator=torch.Generator().manual_seed(0))
    network = by_torch(network).eval()

    def forward() -> float:
        with torch.inference_mode(), without_kernels():
            start = time.perf_counter()
            network(image)
            return time.perf_counter() - start

    return forward


def compare_blocks(options: argparse.Namespace) -> tuple[list[str], dict[str, Any]]:
    """Return the rows of the table of blocks, and the seconds and ratios of each round."""
    baseline = make_baseline(build(None, options.features, (1, 1, 1)), PATCH, options.batch)
    plain = make_pass(build(None, options.features, (1, 1, 1)), PATCH, options.batch)
    blocks = {name: make_pass(build(name, options.features, (1, 1, 1)), PATCH, options.batch) for name in options.blocks}
    seconds: dict[str, list[float]] = {"torch, fp32": [], "plain": [], **{name: [] for name in blocks}}
    ratios: dict[str, list[float]] = {name: [] for name in blocks}
    for turn in range(options.rounds + 1):
        if turn == 1:  # the first round warms up
            seconds, ratios = {name: [] for name in seconds}, {name: [] for name in ratios}
        seconds["torch, fp32"].append(baseline())
        before = plain()
        for name, forward in blocks.items():
            took, after = forward(), plain()
            seconds[name].append(took)
            seconds["plain"].append(after)
            ratios[name].append(2 * took / (before + after))
            before = after
        if not blocks:
            seconds["plain"].append(before)
    slow, fast = statistics.median(seconds["torch, fp32"]), statistics.median(seconds["plain"])
    rows = [
        f"| plain, torch's layers, fp32 | {1000 * slow:.1f} | 1.00 | | |",
        f"| plain, se-med | {1000 * fast:.1f} | {slow / fast:.2f} | 1.000 | {_met(slow / fast >= FASTER, f'{FASTER:g} times')} |",
    ]
    for name, values in ratios.items():
        median, ratio = statistics.median(seconds[name]), statistics.median(values)
        met = _met(ratio <= DEARER, f"{DEARER:g} times plain") if name != "eca" else ""
        rows.append(f"| {name}, se-med | {1000 * median:.1f} | {slow / median:.2f} | {ratio:.3f} | {met} |")
    return rows, {"seconds": seconds, "ratios": ratios}


def grow(block: str | None, features: Sequence[int], most: int, rounds: int) -> dict[str, dict[str, list[float]]]:
    """Time passes of one network that grow in patch, batch and threads; returns seconds by what grows and to what."""
    network = build(block, features, (1, 1, 1))
    cores = sorted({min(2**power, most) for power in range(most.bit_length() + 1)})
    tries = {
        "patch": {"x".join(map(str, patch)): (most, make_pass(network, patch, 1)) for patch in PATCHES},
        "batch": {str(size): (most, make_pass(network, PATCH, size)) for size in (1, 2, 4, 8)},
        "threads": {str(threads): (threads, make_pass(network, PATCH, 2)) for threads in cores},
    }
    found: dict[str, dict[str, list[float]]] = {}
    for what, steps in tries.items():
        found[what] = {to: [] for to in steps}
        for turn in range(rounds + 1):
            for to, (threads, forward) in steps.items():
                torch.set_num_threads(threads)
                took = forward()
                if turn:
                    found[what][to].append(took)
    torch.set_num_threads(most)
    return found


def growth_rows(block: str, measured: dict[str, dict[str, list[float]]]) -> list[str]:
    """Return the rows of the table of growth."""
    rows = []
    for what, steps in measured.items():
        for to, seconds in steps.items():
            batch = {"patch": 1, "threads": 2}.get(what) or int(to)
            voxels = batch * math.prod(map(int, to.split("x")) if what == "patch" else PATCH)
            median = statistics.median(seconds)
            rows.append(f"| {block} | {what} | {to} | {1000 * median:.1f} | {voxels / median / 1e6:.2f} |")
    return rows


def _met(met: bool, bar: str) -> str:
    return f"{'met' if met else 'MISSED'} ({bar})"


def main(arguments: Sequence[str]) -> int:
    """Measure, print Markdown tables and write them with their numbers."""
    cores = len(os.sched_getaffinity(0))
    parser = argparse.ArgumentParser(prog="python -m benchmarks forward", description=__doc__)
    parser.add_argument("--features", type=int, nargs="+", default=(32, 64, 128, 256))
    parser.add_argument("--batch", type=int, default=2, help="of the table of blocks")
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--threads", type=int, default=cores, help="and the most of the table of growth")
    parser.add_argument("--blocks", nargs="*", default=BLOCKS)
    parser.add_argument("--grow", nargs="*", default=("plain", "scse"), help="networks of the table of growth: plain, or a block")
    parser.add_argument("--output", type=Path, default=Path(__file__).parent / "results" / "forward")
    options = parser.parse_args(arguments)
    torch.set_num_threads(options.threads)
    rows, measured = compare_blocks(options)
    size, features = "x".join(map(str, PATCH)), "-".join(map(str, options.features))
    lines = [
        f"patch {size}, batch {options.batch}, features {features}, {options.threads} threads, "
        f"se-med in {resolve_precision('auto', CPU)}, median of {options.rounds} rounds",
        "",
        "| network | ms | times as fast as torch, fp32 | ratio to plain | bar |",
        "|---|---|---|---|---|",
        *rows,
    ]
    if options.grow:
        lines += ["", "| network | what grows | to | ms per pass | million voxels per second |", "|---|---|---|---|---|"]
    for name in options.grow:
        found = grow(None if name == "plain" else name, options.features, options.threads, max(3, options.rounds // 3))
        lines += growth_rows(name, found)
        measured[f"growth of {name}"] = found
    write_record(options.output, "\n".join(lines) + "\n", vars(options) | {"output": None}, measured)
    return 0
