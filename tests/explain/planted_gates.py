"""Volumes with a dark and a bright box, and networks whose gates do something known."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from explain_model import make_plan, make_predictor
from small_data import write_volume

from se_med.explain.collect import CaseGates, collect_case, find_watched
from se_med.explain.gates import GateSite

AFFINE = np.diag([-1.0, 1.0, 1.0, 1.0])


def make_case(folder: Path, seed: int, shape=(16, 16, 16), related: bool = True) -> tuple[Path, Path]:
    """Write an image with a dark (3) and a bright (7) box; unrelated labels lie elsewhere, where there is noise alone."""
    generator = np.random.default_rng(seed)
    image = generator.normal(0, 0.1, shape).astype(np.float32)
    label = np.zeros(shape, np.uint8)
    half = shape[0] // 2
    image[1 : half - 1, 2:7, 2:7] -= 3
    image[half + 1 : -1, 2:7, 2:7] += 3
    across = slice(2, 7) if related else slice(9, 14)
    label[1 : half - 1, across, 2:7] = 3
    label[half + 1 : -1, across, 2:7] = 7
    name = f"case_{seed}.nii.gz"
    return write_volume(folder / "images" / name, image, AFFINE), write_volume(folder / "labels" / name, label, AFFINE)


def collect(predictor, folder: Path, cases: int = 5, labels: bool = True, **options) -> list[CaseGates]:
    records = []
    for seed in range(cases):
        image, label = make_case(folder, seed, **options)
        records.append(collect_case(predictor, f"case_{seed}", [image], label if labels else None))
    return records


def predictor_with(attention, **options):
    return make_predictor(make_plan(), attention, options.pop("inference", None), **options)


def gate_of(predictor) -> GateSite:
    return find_watched(predictor)[0]


def switch_by_brightness(predictor) -> None:
    """Let the first channel be the image, and the channel gate of stage 0 a steep function of its mean."""
    network = predictor.network
    with torch.no_grad():
        conv = network.encoder[0][0].conv
        conv.weight.zero_()
        conv.weight[0, 0, 1, 1, 1] = 1
        conv.weight[1, 0, 1, 1, 1] = -1
        gate = network.gates["encoder_0"]
        for layer in (gate.fc1, gate.fc2):
            layer.weight.zero_()
            layer.bias.zero_()
        gate.fc1.weight[0, 0] = 5
        gate.fc1.weight[1, 1] = 5
        gate.fc2.weight[:2, 0] = 3
        gate.fc2.weight[2:, 1] = 3
