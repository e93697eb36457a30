"""Kill ``se-med predict`` at random moments of a batch, or its workers, and compare what is left with an undisturbed batch.

The network is small and random, the data synthetic: what is under test is files and processes. Every command is a real
``se-med predict`` of its own.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import nibabel as nib
import numpy as np

ROOT = Path(__file__).resolve().parent.parent


@dataclass(frozen=True)
class Kill:
    """One batch that was killed.

    Attributes:
        after: seconds from its first result to the kill.
        made: label files that it had left.
        right: those that were equal to the undisturbed batch's, byte by byte.
        new: label files that the next command made.
        whole: whether all label files were right then, and nothing temporary was left.
    """

    after: float
    made: int
    right: int
    new: int
    whole: bool


def main(arguments: list[str]) -> int:
    """Kill batches, then workers, and print Markdown tables."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks predict_kills", description=__doc__)
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--cases", type=int, default=30)
    parser.add_argument("--dask-cases", type=int, default=40)
    parser.add_argument(
        "--parts", nargs="+", choices=["batch", "local", "dask", "speed"], default=["batch", "local", "dask", "speed"]
    )
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        _make_run(folder / "run")
        _make_images(folder / "images", options.cases)
        _make_images(folder / "more", options.dask_cases)
        good = True
        if "batch" in options.parts:
            good &= _batches(folder, options.kills, options.seed)
        for engine in ("local", "dask"):
            if engine in options.parts:
                good &= _workers(folder, engine)
        if "speed" in options.parts:
            _speed(folder)
    return 0 if good else 1


def _batches(folder: Path, kills: int, seed: int) -> bool:
    process = _predict(folder, "images", "reference")
    _wait_for_first(folder / "reference", process)
    begin = time.monotonic()
    process.wait()
    working = time.monotonic() - begin
    reference = _digests(folder / "reference")
    generator = random.Random(seed)  # noqa: S311  (moments of a test, no secrets)
    found: list[Kill] = []
    while len(found) < kills:
        kill = _kill(folder, f"out{len(found)}", generator.uniform(0, working), reference)
        found += [kill] if kill is not None else []
    print("| # | killed, s after the first file | files then | of them right | made by the next | all right |")
    print("|---|---|---|---|---|---|")
    for number, kill in enumerate(found, 1):
        print(f"| {number} | {kill.after:.2f} | {kill.made} | {kill.right} | {kill.new} | {kill.whole} |")
    good = sum(kill.made == kill.right and kill.made + kill.new == len(reference) and kill.whole for kill in found)
    print(f"\n{good} of {len(found)} killed batches of {len(reference)} cases left only right files, finished by the next\n")
    return good == len(found)


def _kill(folder: Path, name: str, after: float, reference: dict[str, str]) -> Kill | None:
    """Kill one batch some seconds after its first result, and finish it; None when it had ended before."""
    process = _predict(folder, "images", name)
    _wait_for_first(folder / name, process)
    time.sleep(after)
    process.kill()
    if process.wait() == 0:
        return None
    before = _digests(folder / name)
    right = sum(reference[file] == digest for file, digest in before.items())
    kept = {file: (folder / name / file).stat().st_mtime_ns for file in before}
    code = _predict(folder, "images", name).wait()
    untouched = all((folder / name / file).stat().st_mtime_ns == kept[file] for file in kept)
    after_all = _digests(folder / name)
    whole = code == 0 and untouched and after_all == reference and not list((folder / name).glob(".*"))
    return Kill(after, len(before), right, len(after_all) - len(before), whole)


def _wait_for_first(folder: Path, process: subprocess.Popen[bytes]) -> None:
    while process.poll() is None and not list(folder.glob("*.nii.gz")):
        time.sleep(0.005)


def _workers(folder: Path, engine: str) -> bool:
    """Kill one of two workers after the first results."""
    _predict(folder, "more", "reference-more").wait()
    output = f"workers-{engine}"
    process = _predict(folder, "more", output, "--engine", engine, "--workers", "2")
    while len(list((folder / output).glob("*.nii.gz"))) < 4:
        time.sleep(0.01)
    victims = _workers_of(process.pid)
    os.kill(victims[0], signal.SIGKILL)
    left = len(list((folder / output).glob("*.nii.gz")))
    code = process.wait()
    reference, found = _digests(folder / "reference-more"), _digests(folder / output)
    statuses = (folder / output / "predictions.csv").read_text().count(",done,")
    good = code == 0 and found == reference and statuses == len(reference)
    print(
        f"{engine}: two workers, one killed after {left} of {len(reference)} cases: exit code {code}, "
        f"{sum(found.get(file) == digest for file, digest in reference.items())} results right, {statuses} done\n"
    )
    return good


def _speed(folder: Path) -> None:
    """Time one worker against two, one thread each."""
    print("| engine | workers | seconds from the shell |\n|---|---|---|")
    for engine, count in (("local", 1), ("local", 2), ("dask", 1), ("dask", 2)):
        begin = time.monotonic()
        options = ("--engine", engine, "--workers", str(count), "--threads", str(count))
        _predict(folder, "more", f"speed-{engine}-{count}", *options).wait()
        print(f"| {engine} | {count} | {time.monotonic() - begin:.1f} |")


def _workers_of(parent: int) -> list[int]:
    """Return the processes that hold a model: the largest children of a command."""
    sizes = {}
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = path.read_text().rsplit(")", 1)[1].split()
        except (FileNotFoundError, ProcessLookupError):
            continue
        if int(fields[1]) == parent:
            sizes[int(path.parent.name)] = int(fields[21])
    return sorted(sizes, key=lambda pid: sizes[pid], reverse=True)[:2]


def _predict(folder: Path, images: str, output: str, *extra: str) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-m", "se_med", "predict", str(folder / "run"), str(folder / images), "-o", str(folder / output)]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    return subprocess.Popen([*command, *extra], env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)  # noqa: S603


def _digests(folder: Path) -> dict[str, str]:
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in folder.glob("*.nii.gz") if path.name[0] != "."}


def _make_run(folder: Path) -> None:
    from se_med.config.experiment import Config
    from se_med.data.plan import Normalisation, Plan
    from se_med.inference.model import save_model
    from se_med.networks.build import build_network

    network = {"features": (8, 16), "strides": ((2, 2, 2),), "kernels": ((3, 3, 3),) * 2, "stem": (1, 1, 1)}
    plan = Plan(
        spatial_dims=3,
        slice_axis=None,
        channels=("mri",),
        labels={"front": 1, "back": 2},
        spacing=(1.0, 1.0, 1.0),
        normalisation=(Normalisation(method="zscore"),),
        patch=(48, 48, 48),
        batch_size=2,
        flip_axes=(),
        median_shape=(48, 48, 48),
        cases=1,
        **network,
    )
    training = {"patch": plan.patch, "batch_size": 2, "steps": 1}
    config = Config.model_validate({"name": "kills", "network": network, "attention": "scse", "training": training})
    folder.mkdir()
    save_model(folder, build_network(config.network, config.attention, 1, 3, seed=0).state_dict(), config, plan)


def _make_images(folder: Path, count: int) -> None:
    folder.mkdir()
    for number in range(count):
        coarse = np.random.default_rng(number).normal(size=(8, 8, 8))
        voxels = np.kron(coarse, np.ones((6, 6, 6))).astype(np.float32)
        nib.save(nib.Nifti1Image(voxels, np.eye(4)), folder / f"case_{number:02}.nii.gz")
