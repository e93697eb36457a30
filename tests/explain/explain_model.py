"""Small networks with gates, and their predictors."""

from __future__ import annotations

from typing import Any

import torch

from se_med.config.experiment import Config
from se_med.data.plan import Normalisation, Plan
from se_med.inference.predictor import Predictor
from se_med.networks.build import build_network
from se_med.networks.unet import UNet


def make_plan(dims: int = 3, patch: tuple[int, ...] | None = None, spacing=(1.0, 1.0, 1.0)) -> Plan:
    return Plan(
        spatial_dims=dims,
        slice_axis=None if dims == 3 else 2,
        channels=("image",),
        labels={"dark": 3, "bright": 7},
        spacing=spacing,
        normalisation=(Normalisation(method="zscore"),),
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


def make_config(plan: Plan, attention: Any, inference: dict[str, Any] | None = None, **network: Any) -> Config:
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
                **network,
            },
            "attention": attention,
            "training": {"patch": plan.patch, "batch_size": 2, "steps": 1},
            "inference": {"precision": "fp32", **(inference or {})},
        }
    )


def make_network(attention: Any, dims: int = 3, **network: Any) -> UNet:
    """A network in evaluation mode whose gates are strong: their last weights are far from 0."""
    plan = make_plan(dims)
    config = make_config(plan, attention, **network)
    unet = build_network(config.network, config.attention, len(plan.channels), plan.num_classes, config.seed).eval()
    generator = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for name, parameter in unet.named_parameters():
            if name.endswith("strength"):
                parameter.fill_(0.5)
            elif "gates" in name:
                parameter.add_(torch.randn(parameter.shape, generator=generator))
    return unet


def make_predictor(plan: Plan, attention: Any, inference: dict[str, Any] | None = None, **network: Any) -> Predictor:
    config = make_config(plan, attention, inference, **network)
    unet = build_network(config.network, config.attention, len(plan.channels), plan.num_classes, config.seed)
    return Predictor(unet, config, plan, "digest")
