"""Time ``se-med predict`` as a user sees it, from the shell: one volume, many, with flips along three axes, and when all is done.

Each row is a command of its own, start-up included. Beside it stand the times of nnU-Net's command line as published.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

PUBLISHED = {("", 1): 18.0, ("", 52): 37.1, ("--test-time-flips", 52): 165.0}
"""Seconds of nnU-Net 2.8.1 (3d_fullres, hippocampus) by flips and number of volumes, published for the same two cores."""


@dataclass(frozen=True)
class Row:
    """One command.

    Attributes:
        what: what it was to do.
        volumes: number of volumes.
        seconds: from start to end, of each repetition.
        processor: seconds of processor time of the fastest repetition, which a busy neighbour changes little.
        published: seconds of nnU-Net for the same.
    """

    what: str
    volumes: int
    seconds: list[float]
    processor: float
    published: float | None


def main(arguments: list[str]) -> int:
    """Run the commands and print a Markdown table."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks predict_shell", description=__doc__)
    parser.add_argument("run", type=Path, help="run folder of a hippocampus network")
    parser.add_argument("data", type=Path, help="folder of the data set, with imagesTr and imagesTs or more of imagesTr")
    parser.add_argument("--split", type=Path, default=Path("configs/hippocampus-split.json"))
    parser.add_argument("--repeats", type=int, default=2)
    parser.add_argument("--plain", action="store_true", help="one pass per volume: no test-time shifts and rotations")
    options = parser.parse_args(arguments)
    held_out = json.loads(options.split.read_text())[0]["validation"]
    rest = sorted(path.name.removesuffix(".nii.gz") for path in (options.data / "imagesTr").glob("*.nii.gz"))
    more = [*held_out, *(name for name in rest if name not in held_out)]
    files = [options.data / "imagesTr" / f"{name}.nii.gz" for name in more]
    with tempfile.TemporaryDirectory() as folder:
        single = {"test_time_shifts": 1, "test_time_rotation": 0.0} if options.plain else {}
        run, flipped = (
            _copy(options.run, Path(folder) / "run", single),
            _copy(options.run, Path(folder) / "flips", single, (0, 1, 2)),
        )
        rows = [
            _row("one volume", run, files[:1], "", options.repeats),
            _row("validation cases of fold 0", run, files[: len(held_out)], "", options.repeats),
            _row("volumes", run, files[:52], "", options.repeats),
            _row("volumes", flipped, files[:52], "--test-time-flips", options.repeats),
            _row("volumes, results there", run, files[:52], "", options.repeats, again=True),
        ]
    print("| what | volumes | flips | seconds (each) | processor seconds | nnU-Net 2.8.1, published |\n|---|---|---|---|---|---|")
    for row in rows:
        seconds = ", ".join(f"{one:.1f}" for one in row.seconds)
        flips = "yes" if row.what.endswith("flips") else "no"
        published = "" if row.published is None else f"{row.published:.1f}"
        print(f"| {row.what} | {row.volumes} | {flips} | {seconds} | {row.processor:.1f} | {published} |")
    one, many = rows[0], rows[2]
    seconds, processor = (min(many.seconds) - min(one.seconds)) / 51, (many.processor - one.processor) / 51
    load = f"load average at the end {os.getloadavg()[0]:.1f} on {os.cpu_count()} cores"
    print(f"\nper further volume: {seconds:.3f} s, {processor:.3f} s of processor time; {load}")
    return 0


def _row(what: str, run: Path, files: list[Path], flips: str, repeats: int, *, again: bool = False) -> Row:
    seconds, processor = [], []
    for _ in range(repeats):
        with tempfile.TemporaryDirectory() as folder:
            if again:
                _predict(run, files, Path(folder), flips)
            begin, used = time.monotonic(), _processor_seconds()
            _predict(run, files, Path(folder), flips)
            seconds.append(time.monotonic() - begin)
            processor.append(_processor_seconds() - used)
    label = f"{what}, flips" if flips else what
    published = None if again or what.startswith("validation") else PUBLISHED.get((flips, len(files)))
    return Row(label, len(files), seconds, processor[seconds.index(min(seconds))], published)


def _processor_seconds() -> float:
    """Return what all ended commands have used."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def _predict(run: Path, files: list[Path], output: Path, flips: str) -> None:
    command = [sys.executable, "-m", "se_med", "predict", str(run), *map(str, files), "-o", str(output), *flips.split()]
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).resolve().parent.parent)}
    subprocess.run(command, env=environment, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)  # noqa: S603


def _copy(run: Path, copy: Path, inference: dict[str, int], flips: tuple[int, ...] | None = None) -> Path:
    """Copy a model and change its settings. Flips along axes that were not flipped in training cost the same, but are no gain."""
    import yaml

    copy.mkdir()
    for name in ("model.safetensors", "plan.json"):
        (copy / name).write_bytes((run / name).read_bytes())
    config = yaml.safe_load((run / "config.yaml").read_text())
    config["inference"] |= inference
    if flips is not None:
        config["augmentation"]["flip"] = {"probability": 0.5, "axes": list(flips)}
    (copy / "config.yaml").write_text(yaml.safe_dump(config))
    return copy
