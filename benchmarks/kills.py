"""Kill a training run at random moments, resume it, and compare its weights with an uninterrupted run's, bit for bit.

The data are synthetic, the network small: what is under test is checkpoints and resuming, not learning. Every process is a
real ``se-med train`` of its own.
"""

from __future__ import annotations

import argparse
import hashlib
import json
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
from safetensors.numpy import load_file

CONFIG = """\
name: NAME
data: {root: data, folds: 4, cache: cache}
network: {features: [4, 8], strides: [[2, 2, 2]], stem: [1, 1, 1], dropout: 0.1}
attention: scse
training: {steps: 120, batch_size: 2, patch: [16, 16, 16], epoch_steps: 20, validations: 3, threads: 1, checkpoint_minutes: 0.002}
"""


@dataclass(frozen=True)
class Kill:
    """One killed and resumed run.

    Attributes:
        signal: name of the signal.
        after: seconds from the start of the process to the signal.
        exit_code: of the killed process.
        step: step of the checkpoint it left; -1 where there was none yet.
        equal: whether weights, metrics and stream digest are those of the uninterrupted run.
        leftovers: temporary files after the run was resumed and finished.
    """

    signal: str
    after: float
    exit_code: int
    step: int
    equal: bool
    leftovers: int


def main(arguments: list[str]) -> int:
    """Kill, resume, compare; print a Markdown table."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks kills", description=__doc__)
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--signal", choices=["SIGKILL", "SIGTERM", "SIGINT"], default="SIGKILL")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory() as folder:
        kills = run(Path(folder), options.kills, options.signal, options.seed)
    print(
        "| # | signal | after s | exit code | checkpoint at step | resumed run equal | leftovers |\n|---|---|---|---|---|---|---|"
    )
    for number, kill in enumerate(kills, 1):
        step = "none" if kill.step < 0 else kill.step
        print(f"| {number} | {kill.signal} | {kill.after:.2f} | {kill.exit_code} | {step} | {kill.equal} | {kill.leftovers} |")
    equal = sum(kill.equal for kill in kills)
    print(f"\n{equal} of {len(kills)} resumed runs end in the weights, metrics and stream digest of the uninterrupted run")
    return 0 if equal == len(kills) else 1


def run(folder: Path, kills: int, name: str, seed: int) -> list[Kill]:
    """Make the reference run, then the killed ones, in `folder`. Runs that end before their signal do not count."""
    _make_data(folder / "data")
    reference, begin = _result(_train(folder, "reference").wait, folder / "runs" / "reference"), time.monotonic()
    _train(folder, "timing").wait()
    duration = time.monotonic() - begin
    generator = random.Random(seed)  # noqa: S311  (moments of a test, no secrets)
    found: list[Kill] = []
    for number in range(10 * kills):
        if len(found) < kills:
            kill = _kill(folder, f"run{number}", name, generator.uniform(0.3, 1.0) * duration, reference)
            found += [kill] if kill.exit_code != 0 else []
    return found


def _kill(folder: Path, run: str, name: str, after: float, reference: dict[str, object]) -> Kill:
    process = _train(folder, run)
    time.sleep(after)
    process.send_signal(getattr(signal, name))
    exit_code = process.wait()
    path = folder / "runs" / run
    step = -1
    if not (path / "provenance.json").exists():
        step = _checkpoint_step(path / "checkpoints" / "last.ckpt")
        resumed = _result(_train(folder, run, "--resume").wait, path)
    else:
        resumed = _result(lambda: 0, path)
    return Kill(name, after, exit_code, step, resumed == reference, len(list(path.rglob("*.tmp"))))


def _train(folder: Path, run: str, *extra: str) -> subprocess.Popen[bytes]:
    (folder / f"{run}.yaml").write_text(CONFIG.replace("NAME", run))
    command = [sys.executable, "-m", "se_med", "train", str(folder / f"{run}.yaml"), "--runs", str(folder / "runs"), *extra]
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).resolve().parent.parent)}
    return subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)  # noqa: S603


def _result(wait: object, path: Path) -> dict[str, object]:
    """Return what two equal runs share: weights, losses and Dice per row, scores per case, digest of the stream."""
    code = wait()  # type: ignore[operator]
    if code != 0:
        return {"exit code": code}
    weights = hashlib.sha256()
    for name, tensor in sorted(load_file(path / "model.safetensors").items()):
        weights.update(name.encode() + tensor.tobytes())
    rows = (path / "metrics.csv").read_text().splitlines()
    seconds = rows[0].split(",").index("seconds")
    return {
        "weights": weights.hexdigest(),
        "metrics": [[cell for column, cell in enumerate(row.split(",")) if column != seconds] for row in rows],
        "cases": (path / "validation" / "cases.csv").read_text(),
        "digest": json.loads((path / "provenance.json").read_text())["stream_digest"],
    }


def _checkpoint_step(path: Path) -> int:
    from se_med.training.checkpoint import load_checkpoint

    return load_checkpoint(path).step if path.exists() else -1


def _make_data(root: Path) -> None:
    for part in ("imagesTr", "labelsTr"):
        (root / part).mkdir(parents=True)
    for number in range(8):
        generator = np.random.default_rng(number)
        label = np.zeros((20, 20, 20), np.uint8)
        label[4:10, 4:10, 4:10], label[11:16, 11:16, 11:16] = 1, 2
        image = (60.0 * label + generator.normal(0, 8, label.shape)).astype(np.float32)
        for part, voxels in (("imagesTr", image), ("labelsTr", label)):
            nib.save(nib.Nifti1Image(voxels, np.eye(4)), root / part / f"case_{number}.nii.gz")
