"""Optimiser, learning rate and weight average, each a plain function of the step where it can be."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel

from se_med.attention import Gate
from se_med.config.training import TrainingConfig
from se_med.training.muon import Muon

MUON_SHARE = 2.5
"""Of the learning rate, which Muon has where its own is not given (see benchmarks/NOTES.md)."""

Tensors = tuple[Tensor, ...] | list[Tensor]


def build_optimizer(network: nn.Module, training: TrainingConfig) -> torch.optim.Optimizer:
    """Make the optimiser; weight decay applies to weights of convolutions and linear layers, never to norms and biases.

    Muon trains what it is meant for, the layers between others: the weights of convolutions, but not those of heads and of
    attention, which AdamW trains with the norms and the biases. Groups whose rate is not ``training.learning_rate`` have a
    ``share`` of it.
    """
    matrices = _between_others(network) if training.optimizer == "muon" else []
    known = {id(parameter) for parameter in matrices}
    trained = [p for p in network.parameters() if p.requires_grad and id(p) not in known]
    groups: list[dict[str, Any]] = [
        {"params": [p for p in trained if p.ndim > 1], "weight_decay": training.weight_decay},
        {"params": [p for p in trained if p.ndim <= 1], "weight_decay": 0.0},
    ]
    groups = [group for group in groups if group["params"]]
    if training.optimizer == "sgd":
        momentum = 0.99 if training.momentum is None else training.momentum
        return torch.optim.SGD(groups, lr=training.learning_rate, momentum=momentum, nesterov=momentum > 0)
    if training.optimizer == "muon":
        momentum = 0.95 if training.momentum is None else training.momentum
        share = MUON_SHARE if training.muon_rate is None else training.muon_rate / training.learning_rate
        return Muon(matrices, groups, training.learning_rate, share, momentum, training.weight_decay)
    return torch.optim.AdamW(groups, lr=training.learning_rate, fused=True)


def _between_others(network: nn.Module) -> list[nn.Parameter]:
    apart: list[nn.Module] = [module for module in network.modules() if isinstance(module, Gate)]
    apart.extend(module for name, module in network.named_children() if name == "heads")
    excluded = {id(parameter) for module in apart for parameter in module.parameters()}
    weights = (p for p in network.parameters() if p.requires_grad and p.ndim > 2)
    return [p for p in weights if id(p) not in excluded]


def learning_rate(share: float, training: TrainingConfig) -> float:
    """Return the learning rate of a step: a function of the schedule alone, so that resuming needs no state of it.

    Args:
        share: of the schedule that the steps already made are, from 0 to below 1.
        training: highest rate, schedule and share of warm-up. `one_cycle` rises along a half cosine from 1/25 of the highest
            rate and falls along another to 1/10000 of where it started (Smith and Topin 2018, arXiv 1708.07120, in the form of
            torch's OneCycleLR); the others rise linearly from 1/100. None falls below ``final_rate`` of the highest rate.
    """
    top, warm = training.learning_rate, training.warmup
    one_cycle = training.schedule == "one_cycle"
    if share < warm:
        progress = share / warm
        return _half_cosine(top / 25, top, progress) if one_cycle else top * (0.01 + 0.99 * progress)
    progress = (share - warm) / (1 - warm)
    if training.schedule == "constant":
        return top
    last = top * training.final_rate
    if training.schedule == "polynomial":
        return float(last + (top - last) * (1 - progress) ** 0.9)
    return _half_cosine(top, max(last, top / 25e4) if one_cycle else last, progress)


def _half_cosine(start: float, end: float, progress: float) -> float:
    return end + (start - end) * (1 + math.cos(math.pi * progress)) / 2


def build_average(network: nn.Module, decay: float) -> AveragedModel:
    """Make an exponential moving average of the weights.

    The decay of update n is ``min(decay, (1 + n) / (10 + n))``, so that a short run is not held back by its random start.
    Buffers (running statistics of batch norm) are averaged too.
    """

    @torch.no_grad()
    def update(averaged: Tensors, current: Tensors, count: Tensor | int) -> None:
        n = int(count)
        weight = 1 - min(decay, (1 + n) / (10 + n))
        if torch.is_floating_point(averaged[0]):
            torch._foreach_lerp_(averaged, current, weight)
        else:
            torch._foreach_copy_(averaged, current)

    average = AveragedModel(network, multi_avg_fn=update, use_buffers=True)
    average.eval()
    average.requires_grad_(False)
    return average
