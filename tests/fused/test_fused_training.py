"""Training with the kernels ends where training without them ends.

Training itself makes roundings grow: on this network, weights that start one rounding apart are 1e-4 apart after 50 steps, the
kernels or not. So the kernels are held to that, and to 1e-5 where that is smaller.
"""

from __future__ import annotations

import copy

import pytest
import torch

from se_med.config.experiment import Config
from se_med.config.training import TrainingConfig
from se_med.fused import convolution, kernels, winograd
from se_med.fused import loss as fused_loss
from se_med.networks.build import build_network
from se_med.training.losses import build_loss

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(kernels.library() is None, reason="the kernels were not compiled when se-med was installed"),
]

STEPS = 50
ROUNDING = 2.0**-24
"""Relative rounding of float32."""


def train(network):
    """Train on batches that the step names; returns all weights."""
    optimizer = torch.optim.SGD(network.parameters(), lr=0.01, momentum=0.9, nesterov=True)
    loss = build_loss(TrainingConfig())
    for step in range(STEPS):
        image = torch.randn(2, 1, 16, 16, 16, generator=torch.Generator().manual_seed(step))
        label = (image > 0.5).long() + (image > 1).long()
        optimizer.zero_grad()
        loss(network(image), label).backward()
        torch.nn.utils.clip_grad_norm_(network.parameters(), 1.0)
        optimizer.step()
    return weights_of(network)


def weights_of(network):
    return torch.cat([parameter.detach().flatten() for parameter in network.parameters()])


def rounded(network, seed):
    """A copy whose weights differ by about one rounding."""
    copied, generator = copy.deepcopy(network), torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in copied.parameters():
            parameter.mul_(1 + ROUNDING * torch.randn(parameter.shape, generator=generator))
    return copied


@pytest.mark.parametrize("block", [None, "cse", "sse", "scse", "pe", "cbam", "eca"])
def test_fifty_steps_end_in_the_same_weights(block, monkeypatch):
    config = Config.model_validate(
        {
            "network": {
                "spatial_dims": 3,
                "features": [16, 32],  # enough for every kernel
                "strides": [[2, 2, 2]],
                "kernels": [[3, 3, 3]] * 2,
                "stem": [1, 1, 1],
            },
            "attention": block,
        }
    )
    network = build_network(config.network, config.attention, 1, 3, seed=0)
    start, found = weights_of(network), train(copy.deepcopy(network))
    for module in (kernels, convolution, winograd, fused_loss):
        monkeypatch.setattr(module, "library", lambda: None)
    expected = train(copy.deepcopy(network))
    assert float((expected - start).norm() / expected.norm()) > 0.05  # it has learned
    apart = [float((train(rounded(network, seed)) - expected).norm() / expected.norm()) for seed in (0, 1)]
    assert float((found - expected).norm() / expected.norm()) < max(1e-5, 3 * max(apart))
