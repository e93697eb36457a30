"""Small data sets of 2D images for the tests of every room: bright discs and dark bars on noise, RGB or grey."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
from PIL import Image


def picture(seed: int, size: tuple[int, int] = (44, 36)) -> tuple[np.ndarray, np.ndarray]:
    """Return RGB pixels (rows, columns, 3) uint8 and labels (rows, columns): 1 a disc that is bright in green, 2 a bar."""
    draw = np.random.default_rng(seed)
    rows, columns = np.mgrid[: size[1], : size[0]]
    centre = draw.integers(10, [size[0] - 10, size[1] - 10])
    labels = np.zeros(size[::-1], np.uint8)
    labels[(columns - centre[0]) ** 2 + (rows - centre[1]) ** 2 < 49] = 1
    labels[3:6, 4:-4] = 2
    pixels = draw.normal(90, 10, (*labels.shape, 3))
    pixels[labels == 1, 1] += 90
    pixels[labels == 2] -= 60
    return pixels.clip(0, 255).astype(np.uint8), labels


def write_pictures(
    root: Path, names: tuple[str, ...] = ("a", "b", "c", "d"), image: str = ".png", label: str = ".png", scale: int = 1
) -> Path:
    """Write `images/` and `labels/` with a `dataset.json`; label values are multiplied by `scale`."""
    for folder in ("images", "labels"):
        (root / folder).mkdir(parents=True, exist_ok=True)
    for seed, name in enumerate(names):
        pixels, labels = picture(seed)
        Image.fromarray(pixels).save(root / "images" / f"{name}{image}")
        Image.fromarray(labels * scale).save(root / "labels" / f"{name}{label}")
    channels, values = ["R", "G", "B"], {"background": 0, "disc": scale, "bar": 2 * scale}
    (root / "dataset.json").write_text(json.dumps({"channel_names": channels, "labels": values}))
    return root
