"""A small synthetic data set that trains in seconds, and its configuration."""

from __future__ import annotations

import json
from pathlib import Path

import nibabel as nib
import numpy as np

SMALL_CONFIG = """\
name: small
data:
  root: {root}
  folds: 4
  cache: {cache}
network: {{features: [4, 8], strides: [[2, 2, 2]], stem: [1, 1, 1], encoder_units: 1, decoder_units: 1}}
attention: scse
training:
  steps: 8
  batch_size: 2
  patch: [16, 16, 16]
  epoch_steps: 4
  validations: 2
  precision: fp32
  threads: 1
"""


def write_volume(path: Path, voxels: np.ndarray, affine: np.ndarray | None = None) -> Path:
    """Write a NIfTI volume."""
    path.parent.mkdir(parents=True, exist_ok=True)
    image = nib.Nifti1Image(voxels, np.eye(4) if affine is None else affine)
    image.set_sform(image.affine, 1)
    image.set_qform(image.affine, 1)
    nib.save(image, path)
    return path


def make_subject(seed: int) -> tuple[np.ndarray, np.ndarray]:
    """A bright ball and a brighter box in noise, at random places: image float32 and label uint8, about 20 voxels wide."""
    generator = np.random.default_rng(seed)
    shape = tuple(generator.integers(18, 23, 3))
    grid = np.stack(np.meshgrid(*[np.arange(size) for size in shape], indexing="ij"), -1)
    label = np.zeros(shape, np.uint8)
    centre = np.array([6, 6, 6]) + generator.uniform(-1, 1, 3)
    label[((grid - centre) ** 2).sum(-1) < 16] = 1
    corner = generator.integers(10, 12, 3)
    label[tuple(slice(start, start + 5) for start in corner)] = 2
    image = 100 + 60.0 * label + generator.normal(0, 8, shape)
    return image.astype(np.float32), label


def make_small_data(root: Path, cases: int = 8) -> Path:
    """Write a data set in the MSD layout."""
    names = [f"case_{number:02d}" for number in range(cases)]
    for seed, name in enumerate(names):
        image, label = make_subject(seed)
        write_volume(root / "imagesTr" / f"{name}.nii.gz", image)
        write_volume(root / "labelsTr" / f"{name}.nii.gz", label)
    description = {
        "modality": {"0": "MRI"},
        "labels": {"0": "background", "1": "ball", "2": "box"},
        "training": [{"image": f"./imagesTr/{name}.nii.gz", "label": f"./labelsTr/{name}.nii.gz"} for name in names],
    }
    (root / "dataset.json").write_text(json.dumps(description))
    return root
