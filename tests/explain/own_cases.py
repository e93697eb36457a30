"""Cases whose references are what a network predicts itself, so that every knock-out can only lose."""

from __future__ import annotations

from pathlib import Path

import nibabel
import numpy as np
import torch
from explain_model import make_config, make_network, make_plan

from se_med.data.case import Case
from se_med.explain.collect import collect_case
from se_med.explain.knockout import mean_factors
from se_med.inference.predictor import Predictor


def strong_predictor(attention, dims=3, inference=None, patch=None, **network):
    """A random network whose gates matter, with its plan."""
    plan = make_plan(dims, patch)
    config = make_config(plan, attention, inference, **network)
    return Predictor(make_network(attention, dims, **network), config, plan, "digest")


def write_cases(folder: Path, predictor: Predictor, count=4, shape=(16, 14, 16)) -> list[Case]:
    """Noise of several scales, brighter from case to case, and what the network predicts there."""
    cases = []
    for number in range(count):
        generator = np.random.default_rng(number)
        size = tuple(length + 2 * (number % 3) for length in shape)
        coarse = np.kron(generator.normal(size=(7, 7, 7)), np.ones((4, 4, 4)))[tuple(map(slice, size))]
        image, label = folder / f"case_{number}.nii.gz", folder / f"label_{number}.nii.gz"
        folder.mkdir(parents=True, exist_ok=True)
        skewed = np.sign(coarse) * np.abs(coarse) ** (1 + number)  # cases differ in more than z-scores take out
        write(image, (skewed + 0.3 * generator.normal(size=size)).astype(np.float32))
        write(label, predictor.predict(image).labels)
        cases.append(Case(f"case_{number}", (image,), label))
    return cases


def write(path: Path, array: np.ndarray) -> None:
    nibabel.save(nibabel.Nifti1Image(array, np.eye(4)), path)


def means_of(predictor: Predictor, cases) -> dict[str, torch.Tensor]:
    return mean_factors([collect_case(predictor, case.name, case.images, case.label) for case in cases])
