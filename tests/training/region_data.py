"""Small data sets of nested balls: value 2 outside, 1 inside of it, 3 in the middle, as of a tumour's parts."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image
from small_data import write_volume

REGIONS = {"whole": [1, 2, 3], "core": [1, 3], "enhancing": [3]}
VALUES = "{whole: [1, 2, 3], core: [1, 3], enhancing: 3}"


def subject(seed: int, dims: int = 3) -> tuple[np.ndarray, np.ndarray]:
    """Return an image float32 and its label; values are brighter the deeper they lie."""
    generator = np.random.default_rng(seed)
    shape = tuple(generator.integers(18, 23, dims))
    distance = np.linalg.norm(np.indices(shape).T - generator.uniform(8, 11, dims), axis=-1).T
    label = np.select([distance < 2.6, distance < 4.6, distance < 6.6], [3, 1, 2], 0).astype(np.uint8)
    brightness = np.array([60, 150, 105, 195], np.float32)[label]
    return (brightness + generator.normal(0, 6, shape)).astype(np.float32), label


def write_volumes(root: Path, cases: int = 6) -> Path:
    """Write `images/` and `labels/`, volumes."""
    for seed in range(cases):
        for folder, array in zip(("images", "labels"), subject(seed), strict=True):
            write_volume(root / folder / f"case_{seed}.nii.gz", array)
    return root


def write_images(root: Path, cases: int = 6) -> Path:
    """Write `images/` and `labels/`, PNG."""
    for seed in range(cases):
        for folder, array in zip(("images", "labels"), subject(seed, 2), strict=True):
            (root / folder).mkdir(parents=True, exist_ok=True)
            Image.fromarray(array.clip(0, 255).astype(np.uint8)).save(root / folder / f"case_{seed}.png")
    return root
