"""A tiny random network with its configuration and plan."""

from __future__ import annotations

from pathlib import Path

import nibabel
import numpy as np
import torch

from se_med.config.experiment import Config
from se_med.data.plan import Normalisation, Plan
from se_med.inference.predictor import Predictor
from se_med.networks.build import build_network


def make_plan(dims: int = 3, channels: int = 1, patch: tuple[int, ...] | None = None, spacing=(1.0, 1.0, 1.0)) -> Plan:
    return Plan(
        spatial_dims=dims,
        slice_axis=None if dims == 3 else 2,
        channels=tuple(f"c{index}" for index in range(channels)),
        labels={"front": 3, "back": 7},
        spacing=spacing,
        normalisation=tuple(Normalisation(method="zscore") for _ in range(channels)),
        patch=patch or (16,) * dims,
        batch_size=2,
        features=(4, 8),
        strides=((2,) * dims,),
        kernels=((3,) * dims,) * 2,
        stem=(1,) * dims,
        flip_axes=(),
        median_shape=(16, 16, 16),
        cases=1,
    )


def make_config(plan: Plan, **inference: object) -> Config:
    return Config.model_validate(
        {
            "name": "tiny",
            "seed": 3,
            "network": {
                "spatial_dims": plan.spatial_dims,
                "features": plan.features,
                "strides": plan.strides,
                "kernels": plan.kernels,
                "stem": plan.stem,
                "encoder_units": 1,
                "decoder_units": 1,
            },
            "attention": "scse",
            "training": {"patch": plan.patch, "batch_size": 2, "steps": 1},
            "inference": {"precision": "fp32", **inference},
        }
    )


def make_network(config: Config, plan: Plan) -> torch.nn.Module:
    return build_network(config.network, config.attention, len(plan.channels), plan.num_classes, config.seed)


def make_predictor(plan: Plan, **inference: object) -> Predictor:
    config = make_config(plan, **inference)
    return Predictor(make_network(config, plan), config, plan, "digest")


def write_image(path: Path, array: np.ndarray, affine: np.ndarray | None = None) -> Path:
    nibabel.save(nibabel.Nifti1Image(array, np.eye(4) if affine is None else affine), path)
    return path
