"""Small networks for tests: configurations and images."""

import torch

from se_med.config.attention import AttentionConfig
from se_med.config.network import NetworkConfig
from se_med.networks.build import build_network

SITES = ("encoder", "skip", "bottleneck", "upsample", "concat", "decoder", "head")


def configure(rank=3, **options):
    """Three stages, isotropic; override anything."""
    features = options.get("features", (4, 6, 8))
    defaults = {
        "spatial_dims": rank,
        "features": features,
        "strides": ((2,) * rank,) * (len(features) - 1),
        "kernels": ((3,) * rank,) * len(features),
        "encoder_units": 1,
        "decoder_units": 1,
        "stem": (1,) * rank,
    }
    return NetworkConfig.model_validate({**defaults, **options})


def build(rank=3, attention=None, seed=0, in_channels=1, num_classes=3, **options):
    gates = AttentionConfig.model_validate(attention)
    return build_network(configure(rank, **options), gates, in_channels, num_classes, seed)


def image(rank=3, batch=2, channels=1, size=8, seed=1):
    return torch.randn(batch, channels, *(size,) * rank, generator=torch.Generator().manual_seed(seed))
