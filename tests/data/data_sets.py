"""Small data sets written to disk, and fingerprints without files, for the tests of this folder."""

from __future__ import annotations

import json
import os
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from se_med.config.experiment import Config
from se_med.data.case import Case, Dataset
from se_med.data.fingerprint import CaseFacts, Fingerprint, Intensities


def save(path: Path, voxels: np.ndarray, affine: np.ndarray | None = None) -> Path:
    """Write a volume, 4D voxels with channels last."""
    path.parent.mkdir(parents=True, exist_ok=True)
    nib.save(nib.Nifti1Image(voxels, np.eye(4) if affine is None else affine), path)
    return path


def image(shape: tuple[int, ...] = (6, 7, 8), seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(100, 10, shape).astype(np.float32)


def label(shape: tuple[int, ...] = (6, 7, 8), values: tuple[int, ...] = (1,)) -> np.ndarray:
    """One voxel plane per value, from the start of the first axis."""
    voxels = np.zeros(shape, np.uint8)
    for position, value in enumerate(values):
        voxels[position] = value
    return voxels


def make_folders(root: Path, names: tuple[str, ...] = ("a", "b", "c"), images: str = "images", labels: str = "labels") -> Path:
    for seed, name in enumerate(names):
        save(root / images / f"{name}.nii.gz", image(seed=seed))
        save(root / labels / f"{name}.nii.gz", label())
    return root


def make_msd(root: Path, names: tuple[str, ...] = ("a", "b", "c"), **description: object) -> Path:
    make_folders(root, names, "imagesTr", "labelsTr")
    content = {
        "modality": {"0": "MRI"},
        "labels": {"0": "background", "1": "liver"},
        "training": [{"image": f"./imagesTr/{name}.nii.gz", "label": f"./labelsTr/{name}.nii.gz"} for name in names],
    }
    describe(root, **(content | description))
    return root


def describe(root: Path, **content: object) -> None:
    root.mkdir(parents=True, exist_ok=True)
    (root / "dataset.json").write_text(json.dumps(content))


def cases(*names: str, groups: dict[str, str] | None = None) -> tuple[Case, ...]:
    return tuple(Case(name, (Path(f"{name}.nii"),), Path(f"{name}_label.nii"), (groups or {}).get(name)) for name in names)


def dataset(*names: str, groups: dict[str, str] | None = None, channels: tuple[str, ...] = (), **changes: object) -> Dataset:
    fields = {"labels": None, "channels": channels, "modality": "other", "layout": "folders", "root": Path("set")}
    return Dataset(cases(*(names or ("a",)), groups=groups), **(fields | changes))  # type: ignore[arg-type]


def fingerprint(
    shape: tuple[int, int, int] = (64, 64, 64),
    spacing: tuple[float, float, float] = (1.0, 1.0, 1.0),
    labels: dict[str, int] | None = None,
    centroids: list[dict[int, tuple[float, float, float]]] | None = None,
    voxels: int = 5000,
    channels: int = 1,
    count: int = 10,
) -> Fingerprint:
    """A fingerprint of cases that are alike; `centroids` gives one mapping per case, in mm."""
    labels = labels or {"organ": 1}
    centroids = centroids or [dict.fromkeys(labels.values(), (10.0, 10.0, 10.0))] * count
    facts = tuple(
        CaseFacts(
            f"case{number}",
            shape,
            spacing,
            {0: int(np.prod(shape)) - voxels} | dict.fromkeys(centres, voxels),
            centres,
            np.zeros((channels, 0), np.float32),
        )
        for number, centres in enumerate(centroids)
    )
    return Fingerprint(facts, labels, channels, (Intensities(-90.0, 210.0, 60.0, 40.0),) * channels)


def config(**parts: dict[str, object]) -> Config:
    """A configuration for a processor, so that plans do not depend on the machine that runs the tests."""
    parts["training"] = {"device": "cpu"} | parts.get("training", {})
    return Config.model_validate(parts)


def real_data(name: str) -> Path:
    """Folder of a real data set, or skip."""
    root = os.environ.get("SE_MED_DATA")
    if not root:
        pytest.skip("SE_MED_DATA is not set: no real data")
    if not (Path(root) / name).is_dir():
        pytest.skip(f"SE_MED_DATA has no folder {name}")
    return Path(root) / name
