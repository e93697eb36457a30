"""A CT volume to labels, and logits to labels on a finer grid, against what the field's tools do.

Windows: tensor to labels of 256x256x128 voxels with 14 classes, our engine against MONAI's `sliding_window_inference` and argmax,
with the same network, overlap, weights and windows per pass. MONAI's runs as its users run it: float32, torch's layers. Both take
turns in one process; peak memory is measured in a process of its own for each.

Resampling: 4-class logits at half the resolution to labels of 256x256x128, ours by planes and class by class, against
`scipy.ndimage.affine_transform` of order 1 for each class and argmax.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from benchmarks._records import write_record
from benchmarks.inference_memory import CLASSES, GIB, make_predictor, resident
from benchmarks.train_step import by_torch, without_kernels
from se_med.data.grids import find_grids
from se_med.data.preparation import Preparation, Prepared
from se_med.io.volume import Geometry

SHAPE = (256, 256, 128)


def windows(options: argparse.Namespace) -> dict[str, Callable[[], NDArray[np.integer]]]:
    """Return, by name, what takes the volume to labels."""
    from monai.inferers.utils import sliding_window_inference

    predictor = make_predictor("unet", options.patch, 16.0, (1.0, 1.0, 1.0), options.overlap)
    array = np.random.default_rng(0).normal(size=(1, *options.shape)).astype(np.float32)
    prepared = Prepared(array, np.eye(4), Geometry(tuple(options.shape), np.eye(4), (1.0, 1.0, 1.0)))
    tensor = torch.from_numpy(array)[None]
    network = by_torch(predictor.network)

    def monai() -> NDArray[np.integer]:
        with torch.inference_mode(), without_kernels():
            logits = sliding_window_inference(tensor, (options.patch,) * 3, options.batch, network, options.overlap, "gaussian")
            classes: Tensor = torch.softmax(logits, 1).argmax(1)
        return classes[0].numpy()

    predictor.config = predictor.config.model_copy(
        update={"inference": predictor.config.inference.model_copy(update={"window_batch": options.batch})}
    )
    return {"MONAI, fp32": monai, f"se-med, {predictor.precision}": lambda: predictor.label(prepared)}


def resampling(options: argparse.Namespace) -> dict[str, Callable[[], NDArray[np.integer]]]:
    """Return, by name, what takes logits at half the resolution to labels."""
    from scipy import ndimage

    predictor = make_predictor("stand-in", options.patch, 16.0, (2.0, 2.0, 2.0), options.overlap)
    plan = predictor.plan.model_copy(update={"labels": {"a": 1, "b": 2, "c": 3}})
    native = Geometry(tuple(options.shape), np.eye(4), (1.0, 1.0, 1.0))
    grids = find_grids(native, plan.spacing)
    noise = np.random.default_rng(0).normal(size=(4, *grids.shape)).astype(np.float32)
    logits = ndimage.gaussian_filter(noise, (0, 3, 3, 3)) * 100
    preparation, prepared = Preparation(plan), Prepared(np.empty(0, np.float32), np.eye(4), native)
    start, size = [-0.5 * offset for offset in grids.offset], tuple(options.shape)

    def scipy() -> NDArray[np.integer]:
        finer = [ndimage.affine_transform(one, [0.5] * 3, start, size, order=1, mode="nearest") for one in logits]
        return np.stack(finer).argmax(0)

    return {"scipy, order 1": scipy, "se-med": lambda: preparation.restore(torch.from_numpy(logits), prepared)}


TABLES = {"windows": windows, "resampling": resampling}


def take_turns(contestants: dict[str, Callable[[], NDArray[np.integer]]], rounds: int) -> tuple[dict[str, list[float]], float]:
    """Return the seconds of each round, and the share of voxels on which both agree."""
    seconds: dict[str, list[float]] = {name: [] for name in contestants}
    results = []
    for turn in range(rounds):
        for name, work in contestants.items():
            start = time.perf_counter()
            result = work()
            seconds[name].append(time.perf_counter() - start)
            if turn == 0:
                results.append(result)
    return seconds, float((results[0] == results[1]).mean())


def peak(table: str, name: str, options: argparse.Namespace) -> float:
    """Return the GiB by which the resident size rises in a process that does one thing once."""
    settings = [f"--{key}={getattr(options, key)}" for key in ("patch", "overlap", "batch", "threads")]
    settings += ["--shape", *map(str, options.shape), "--peak", table, name]
    command = [sys.executable, "-m", "benchmarks", "inference", *settings]
    run = subprocess.run(command, capture_output=True, text=True, check=True)  # noqa: S603 (this module)
    return float(json.loads(run.stdout.splitlines()[-1]))


def main(arguments: Sequence[str]) -> int:
    """Measure, print a Markdown table and write it with its numbers."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks inference", description=__doc__)
    parser.add_argument("--shape", type=int, nargs=3, default=SHAPE)
    parser.add_argument("--patch", type=int, default=96)
    parser.add_argument("--overlap", type=float, default=0.5)
    parser.add_argument("--batch", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--tables", nargs="+", choices=sorted(TABLES), default=sorted(TABLES))
    parser.add_argument("--output", type=Path, default=Path(__file__).parent / "results" / "inference")
    parser.add_argument("--peak", nargs=2, help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    torch.set_num_threads(options.threads)
    if options.peak is not None:
        table, name = options.peak
        work = TABLES[table](options)[name]
        before = resident("VmRSS")
        work()
        print(json.dumps((resident("VmHWM") - before) / GIB))
        return 0
    size = "x".join(map(str, options.shape))
    lines = [
        f"{size} voxels, {CLASSES} classes (resampling: 4), windows of {options.patch} with overlap {options.overlap:g}, "
        f"{options.batch} together, {options.threads} threads, median of {options.rounds} rounds",
        "",
        "| table | way | s | times as fast | peak GiB | labels agree |",
        "|---|---|---|---|---|---|",
    ]
    measured = {}
    for table in options.tables:
        seconds, agreement = take_turns(TABLES[table](options), options.rounds)
        theirs = statistics.median(next(iter(seconds.values())))
        memory = {name: peak(table, name, options) for name in seconds}
        for name, values in seconds.items():
            median = statistics.median(values)
            lines.append(f"| {table} | {name} | {median:.2f} | {theirs / median:.2f} | {memory[name]:.2f} | {agreement:.6f} |")
        measured[table] = {"seconds": seconds, "peak_gib": memory, "agreement": agreement}
    write_record(options.output, "\n".join(lines) + "\n", vars(options) | {"output": None}, measured)
    return 0
