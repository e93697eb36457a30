"""Peak memory, and time beside the network, of segmenting a CT volume of 512x512x400 voxels with 14 classes.

A process of its own segments the volume from a file to a file within `--limit` GiB. What it takes beyond the loaded model is the
rise of the largest resident size that the kernel recorded. The network takes most of the time on a processor; with `--network
stand-in` it gives the same logits at once, so that everything else can be timed: reading, preparation, windows, sums, labels on
the volume's own grid, writing.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from benchmarks._records import write_record
from se_med.config.experiment import Config
from se_med.data.plan import Normalisation, Plan
from se_med.inference.predictor import Predictor
from se_med.io.images import write_label
from se_med.io.nifti import read_image
from se_med.networks.build import build_network

CLASSES = 14
GIB = 2**30


class StandIn(nn.Module):
    """Gives the same random logits for every window, in the number format and memory order in which the U-Net gives them.

    They vary smoothly, so that label maps have regions as those of organs, and not noise, which takes several times as long to
    compress.
    """

    divisor = (1, 1, 1)

    def __init__(self) -> None:
        super().__init__()
        self.logits = torch.empty(0)

    def forward(self, x: Tensor) -> Tensor:
        """Return logits."""
        shape = (len(x), CLASSES, *x.shape[2:])
        if self.logits.shape != shape:
            coarse = torch.randn(len(x), CLASSES, *(-(-length // 16) for length in x.shape[2:]))
            finer = torch.nn.functional.interpolate(coarse, x.shape[2:], mode="trilinear")
            self.logits = finer.to(torch.bfloat16, memory_format=torch.channels_last_3d)
        return self.logits


@dataclass
class Clock:
    """Wall and processor seconds, those of all threads."""

    wall: float = 0.0
    processor: float = 0.0

    @classmethod
    def now(cls) -> Clock:
        """Return what both clocks say."""
        return cls(time.perf_counter(), time.process_time())

    def __sub__(self, other: Clock) -> Clock:
        """Return the time between two readings."""
        return Clock(self.wall - other.wall, self.processor - other.processor)

    def __add__(self, other: Clock) -> Clock:
        """Return the sum of two durations."""
        return Clock(self.wall + other.wall, self.processor + other.processor)


def make_predictor(kind: str, patch: int, limit: float, spacing: Sequence[float], overlap: float) -> Predictor:
    """Return a predictor with random weights."""
    features = (16, 32, 64, 128)
    plan = Plan(
        spatial_dims=3,
        slice_axis=None,
        channels=("CT",),
        labels={f"organ {value}": value for value in range(1, CLASSES)},
        spacing=tuple(spacing),
        normalisation=(Normalisation(method="ct", clip=(-1000.0, 1000.0), mean=0.0, std=300.0),),
        patch=(patch,) * 3,
        batch_size=2,
        features=features,
        strides=((2, 2, 2),) * 3,
        kernels=((3, 3, 3),) * 4,
        stem=(1, 1, 1),
        flip_axes=(),
        median_shape=(256, 256, 128),
        cases=1,
    )
    network = {"spatial_dims": 3, "features": features, "strides": plan.strides, "kernels": plan.kernels, "stem": plan.stem}
    config = Config.model_validate(
        {"network": network, "attention": None, "inference": {"max_memory": limit, "overlap": overlap, "window_batch": 1}}
    )
    torch.manual_seed(0)
    built = StandIn() if kind == "stand-in" else build_network(config.network, config.attention, 1, CLASSES, seed=0)
    return Predictor(built.eval(), config, plan)


def write_volume(path: Path, shape: Sequence[int]) -> None:
    """Write a CT-like volume at 0.8 mm."""
    import nibabel

    generator = np.random.default_rng(0)
    coarse = generator.normal(0, 300, [-(-length // 16) for length in shape])
    volume = np.kron(coarse, np.ones((16, 16, 16), np.float32))[tuple(slice(length) for length in shape)]
    nibabel.save(nibabel.Nifti1Image(volume.astype(np.int16), np.diag([0.8, 0.8, 0.8, 1.0])), path)


def child(options: argparse.Namespace) -> None:
    """Segment the volume in this process and print what it took, as JSON."""
    torch.set_num_threads(options.threads)
    spacing = (0.8 * options.resample,) * 3
    predictor = make_predictor(options.network, options.patch, options.limit, spacing, options.overlap)
    predictor.segment(np.zeros((1, 32, 32, 32), np.float32))  # libraries take their own memory
    before = resident("VmRSS")
    original, spent = predictor.network.forward, Clock()

    def timed(x: Tensor) -> Tensor:
        nonlocal spent
        start = Clock.now()
        logits: Tensor = original(x)
        spent += Clock.now() - start
        return logits

    predictor.network.forward = timed  # type: ignore[method-assign]
    start = Clock.now()
    volume = read_image(options.volume)
    read = Clock.now()
    segmentation = predictor.predict(volume)
    predicted = Clock.now()
    write_label(options.volume.with_name("labels.nii.gz"), segmentation.labels, volume)
    written = Clock.now()
    took = {"read": read - start, "segment": predicted - read - spent, "write": written - predicted, "network": spent}
    peak = (resident("VmHWM") - before) / GIB
    print(json.dumps({"peak_gib": peak, "seconds": {key: vars(clock) for key, clock in took.items()}}))


def resident(key: str) -> int:
    """Return a resident size of this process in bytes: VmRSS now, VmHWM at its largest."""
    for line in Path("/proc/self/status").read_text(encoding="utf-8").splitlines():
        if line.startswith(f"{key}:"):
            return int(line.split()[1]) * 1024
    raise OSError(f"the kernel gives no {key}")


def main(arguments: Sequence[str]) -> int:
    """Measure, print a Markdown table and write it with its numbers."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks inference_memory", description=__doc__)
    parser.add_argument("--shape", type=int, nargs=3, default=(512, 512, 400))
    parser.add_argument("--patch", type=int, default=96)
    parser.add_argument("--overlap", type=float, default=0.5)
    parser.add_argument("--limit", type=float, default=3.0, help="inference.max_memory, in GiB")
    parser.add_argument("--network", choices=("stand-in", "unet"), default="stand-in")
    parser.add_argument("--resample", type=float, nargs="+", default=(1.0, 1.5), help="the plan's spacing over the volume's")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--output", type=Path, default=Path(__file__).parent / "results" / "inference_memory")
    parser.add_argument("--volume", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    if options.volume is not None:
        options.resample = options.resample[0]
        child(options)
        return 0
    rows = {}
    with tempfile.TemporaryDirectory() as folder:
        volume = Path(folder) / "volume.nii.gz"
        write_volume(volume, options.shape)
        for resample in options.resample:
            names = ("patch", "overlap", "limit", "network", "threads")
            settings = [text for name in names for text in (f"--{name}", str(getattr(options, name)))]
            command = [sys.executable, "-m", "benchmarks", "inference_memory", *settings]
            command += ["--resample", str(resample), "--volume", str(volume)]
            run = subprocess.run(command, capture_output=True, text=True, check=True)  # noqa: S603 (this module)
            rows[f"{resample:g}"] = json.loads(run.stdout.splitlines()[-1])
    hundred = np.prod(options.shape) / 1e8
    size = "x".join(map(str, options.shape))
    lines = [
        f"{size} voxels, {CLASSES} classes, patch {options.patch}, overlap {options.overlap:g}, inference.max_memory "
        f"{options.limit:g} GiB, network: {options.network}, {options.threads} threads",
        "",
        "| plan's spacing / volume's | peak GiB beyond the model | read s | segment s, without network | write s | "
        "all of these, s per 100 million voxels | the same, processor s / threads | network s |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for resample, row in rows.items():
        took = row["seconds"]
        beside = [sum(took[key][clock] for key in ("read", "segment", "write")) / hundred for clock in ("wall", "processor")]
        lines.append(
            f"| {resample} | {row['peak_gib']:.2f} | {took['read']['wall']:.1f} | {took['segment']['wall']:.1f} | "
            f"{took['write']['wall']:.1f} | {beside[0]:.1f} | {beside[1] / options.threads:.1f} | {took['network']['wall']:.1f} |"
        )
    write_record(options.output, "\n".join(lines) + "\n", vars(options) | {"output": None}, rows)
    return 0
