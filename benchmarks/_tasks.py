"""What is interrupted: commands on small synthetic data, and what of their results must not depend on interruptions.

Networks are tiny and random: what is under test is files and processes, not learning.
"""

from __future__ import annotations

import csv
import hashlib
import json
import os
from abc import ABC, abstractmethod
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

CASES, MANY = 6, 16
EPOCH_STEPS = 3
"""Steps between two checkpoints."""
TRAINING = """\
name: run
data: {root: ROOT, folds: 3, cache: CACHE}
network: {features: [4, 8], strides: [[2, 2, 2]], stem: [1, 1, 1], dropout: 0.1}
attention: scse
training: {steps: STEPS, batch_size: 2, patch: [16, 16, 16], epoch_steps: 3, validations: VALIDATIONS, threads: 1,
  workers: WORKERS, processes: PROCESSES, checkpoint_minutes: 1000}
"""
STUDY = """\
base: base.yaml
arms: {plain: {attention: null}, scse: {attention: scse}}
reference: plain
folds: [0]
seeds: [0]
workers: 2
"""
MOVING = ("seconds", "seconds_per_step", "seconds_per_case", "peak_memory_mb", "attempts")
"""Columns of a study that depend on the moment."""


@dataclass
class Place:
    """Where a trial works.

    Attributes:
        home: the trial's folder.
        cache: folder of prepared cases, perhaps on another device.
        temporary: `TMPDIR`, likewise.
    """

    home: Path
    cache: Path
    temporary: Path

    @property
    def folders(self) -> tuple[Path, Path, Path]:
        """All of them."""
        return self.home, self.cache, self.temporary


@dataclass
class Task(ABC):
    """A command that may be interrupted.

    Attributes:
        name: what the table calls it.
        data: the folder that `make_data` has filled.
        phase: what its progress bar calls the part whose units are counted; empty where they are not.
        unit: what `kept` counts.
        interval: the most units that may be lost by SIGKILL.
        helpers: whether it goes on when a process that it has started is killed.
        fresh: whether it must be started by an interpreter of its own.
    """

    name: str
    data: Path
    phase: str
    unit: str
    interval: int
    helpers: bool = False
    fresh: bool = False
    options: tuple[str, ...] = field(default=())

    @abstractmethod
    def lay_out(self, place: Place) -> None:
        """Write what the command needs into an empty place."""

    @abstractmethod
    def arguments(self, place: Place) -> list[str]:
        """Return the arguments of the command, which is the same the first time and every time later."""

    @abstractmethod
    def result(self, place: Place) -> Any:
        """Return what must not depend on interruptions."""

    @abstractmethod
    def kept(self, place: Place) -> int | None:
        """Return the units of work on disk that the next command will not do again; None where they cannot be counted."""

    def done(self, place: Place) -> bool:
        """Return whether the command has nothing left to do and would say so."""
        return False


class Train(Task):
    """A training; `options` are `workers=2` and the like."""

    cases, steps, validations = CASES, 15, 2

    def lay_out(self, place: Place) -> None:
        """See `Task`."""
        text = TRAINING
        set_to = {"workers": "0", "processes": "1", **dict(option.split("=") for option in self.options)}
        changes = {"ROOT": self.data / f"cases{self.cases}", "CACHE": place.cache, "STEPS": self.steps}
        for key, value in {**changes, "VALIDATIONS": self.validations, **set_to}.items():
            text = text.replace(key.upper(), str(value))
        (place.home / "run.yaml").write_text(text)

    def arguments(self, place: Place) -> list[str]:
        """See `Task`."""
        return ["train", str(place.home / "run.yaml"), "--runs", str(place.home / "runs"), "--resume"]

    def result(self, place: Place) -> Any:
        """Weights, losses and Dice per row, scores per case, digest of the stream."""
        from safetensors.numpy import load_file

        run = place.home / "runs" / "run"
        weights = hashlib.sha256()
        for name, tensor in sorted(load_file(run / "model.safetensors").items()):
            weights.update(name.encode() + tensor.tobytes())
        return {
            "weights": weights.hexdigest(),
            "metrics": _without(run / "metrics.csv", ("seconds",)) if self.steps > 1 else [],
            "cases": (run / "validation" / "cases.csv").read_text(),
            "stream": json.loads((run / "provenance.json").read_text())["stream_digest"],
        }

    def kept(self, place: Place) -> int | None:
        """Steps of the checkpoint."""
        from se_med.training.checkpoint import load_checkpoint

        path = place.home / "runs" / "run" / "checkpoints" / "last.ckpt"
        return load_checkpoint(path).step if path.exists() else 0

    def done(self, place: Place) -> bool:
        """See `Task`."""
        return (place.home / "runs" / "run" / "provenance.json").exists()


class Prepare(Train):
    """A training of a single step on many cases: nearly all of it is preparing them."""

    cases, steps, validations = MANY, 1, 1

    def result(self, place: Place) -> Any:
        """What training gives, and the bytes of every prepared array."""
        arrays = {str(path.relative_to(place.cache)): _digest(path) for path in sorted(place.cache.glob("*/*.npy"))}
        return {"arrays": arrays, **super().result(place)}

    def kept(self, place: Place) -> int | None:
        """Prepared cases."""
        return len(list(place.cache.glob("[0-9a-f]*/case.json")))


class Predict(Task):
    """A prediction of many cases."""

    def lay_out(self, place: Place) -> None:
        """See `Task`."""

    def arguments(self, place: Place) -> list[str]:
        """See `Task`."""
        images = self.data / f"cases{MANY}" / "imagesTr"
        return ["predict", str(self.data / "run"), str(images), "-o", str(place.home / "out"), *self.options]

    def result(self, place: Place) -> Any:
        """The bytes of every label file, the keys of the sidecars, and the cases of the table."""
        folder = place.home / "out"
        sidecars = [json.loads(path.read_text()) for path in sorted(folder.glob("*.json"))]
        rows = _without(folder / "predictions.csv", ("seconds", "status"))
        return {
            "labels": {path.name: _digest(path) for path in sorted(folder.glob("[!.]*.nii.gz"))},
            "keys": [(sidecar["label"], sidecar["key"], sidecar["files"], sidecar["volumes_ml"]) for sidecar in sidecars],
            "rows": sorted(rows),
        }

    def kept(self, place: Place) -> int | None:
        """Label files."""
        return len(list((place.home / "out").glob("[!.]*.nii.gz")))


class Compare(Task):
    """A study of two runs at the same time."""

    def lay_out(self, place: Place) -> None:
        """See `Task`."""
        Train("", self.data, "", "", 0).lay_out(place)
        text = (place.home / "run.yaml").read_text().replace("name: run\n", "").replace("attention: scse\n", "")
        (place.home / "base.yaml").write_text(text)
        (place.home / "study.yaml").write_text(STUDY)

    def arguments(self, place: Place) -> list[str]:
        """See `Task`."""
        return ["compare", str(place.home / "study.yaml"), "--studies", str(place.home / "studies")]

    def result(self, place: Place) -> Any:
        """The tables, without what depends on the moment."""
        folder = place.home / "studies" / "study"
        return {
            "arms": (folder / "arms.json").read_text(),
            "cases": (folder / "cases.csv").read_text(),
            "runs": _without(folder / "runs.csv", MOVING),
        }

    def kept(self, place: Place) -> int | None:
        """Steps of all checkpoints: the command itself does not tell its steps, so there is nothing to compare them with."""
        return None


def make_tasks(data: Path) -> dict[str, Task]:
    """Return the tasks by name."""
    from se_med.data.cache import WAITING

    lanes = WAITING * (os.cpu_count() or 1)  # cases that are prepared at the same time
    steps, cases = ("training", "steps", EPOCH_STEPS), ("predict", "cases", 0)
    dask = ("--workers", "2", "--engine", "dask")
    return {
        "train": Train("train", data, *steps),
        "train-loaders": Train("train, 2 loader processes", data, *steps, options=("workers=2",)),
        "train-processes": Train("train, 2 processes", data, *steps, fresh=True, options=("processes=2",)),
        "prepare": Prepare("prepare", data, "preparing", "cases", lanes),
        "predict": Predict("predict", data, *cases),
        "predict-workers": Predict("predict, 2 workers", data, *cases, helpers=True, options=dask[:2]),
        "predict-dask": Predict("predict, 2 Dask workers", data, *cases, helpers=True, options=dask),
        "compare": Compare("compare", data, "", "steps", EPOCH_STEPS, helpers=True),
    }


def make_data(folder: Path) -> None:
    """Write the data sets and a model: blocks in noise, and a network that is random."""
    import nibabel as nib
    import numpy as np

    for count in (CASES, MANY):
        root = folder / f"cases{count}"
        for part in ("imagesTr", "labelsTr"):
            (root / part).mkdir(parents=True)
        for number in range(count):
            generator = np.random.default_rng(number)
            label = np.zeros((20, 20, 20), np.uint8)
            label[4:10, 4:10, 4:10], label[11:16, 11:16, 11:16] = 1, 2
            image = (60.0 * label + generator.normal(0, 8, label.shape)).astype(np.float32)
            for part, voxels in (("imagesTr", image), ("labelsTr", label)):
                nib.save(nib.Nifti1Image(voxels, np.eye(4)), root / part / f"case_{number:02}.nii.gz")
    _make_run(folder / "run")


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
        patch=(20, 20, 20),
        batch_size=2,
        flip_axes=(),
        median_shape=(20, 20, 20),
        cases=1,
        **network,
    )
    training = {"patch": plan.patch, "batch_size": 2, "steps": 1}
    config = Config.model_validate({"name": "random", "network": network, "attention": "scse", "training": training})
    folder.mkdir()
    save_model(folder, build_network(config.network, config.attention, 1, 3, seed=0).state_dict(), config, plan)


def _without(path: Path, columns: tuple[str, ...]) -> list[list[str]]:
    with path.open(encoding="utf-8", newline="") as file:
        return [[cell for column, cell in row.items() if column not in columns] for row in csv.DictReader(file)]


def _digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()
