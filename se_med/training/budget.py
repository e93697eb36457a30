"""From minutes to steps: a timed trial before the first step, after which steps alone drive the run."""

from __future__ import annotations

import copy
import statistics
import time
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import nn

from se_med.config.experiment import Config
from se_med.training.losses import build_loss
from se_med.training.optimisation import build_average, build_optimizer

WARM_UP_STEPS = 2
TRIAL_STEPS = 12
TRIAL_SECONDS = 15.0


def seconds_per_step(
    network: nn.Module,
    config: Config,
    batches: Iterable[dict[str, Any]],
    device: torch.device,
    precision: str,
) -> float:
    """Time training steps, loading of batches included, on a copy of the network.

    Args:
        network: left untouched.
        config: loss, optimiser and accumulation.
        batches: at least ``(WARM_UP_STEPS + 1) * accumulate`` batches of the training stream.
        device: where the network is.
        precision: ``bf16`` or ``fp32``.

    Returns:
        The median time of one optimiser step in seconds.
    """
    trial = copy.deepcopy(network).train()
    loss_function = build_loss(config.training, config.network.deep_supervision)
    optimizer = build_optimizer(trial, config.training)
    average = None if config.training.ema is None else build_average(trial, config.training.ema)
    times: list[float] = []
    begin = time.perf_counter()
    iterator = iter(batches)
    for step in range(WARM_UP_STEPS + TRIAL_STEPS):
        start = time.perf_counter()
        for _ in range(config.training.accumulate):
            batch = next(iterator)
            image, label = batch["image"].to(device), batch["label"].to(device)
            with torch.autocast(device.type, torch.bfloat16, enabled=precision == "bf16"):
                loss = loss_function(trial(image), label.long())
            loss.backward()
        if config.training.gradient_clip is not None:
            nn.utils.clip_grad_norm_(trial.parameters(), config.training.gradient_clip)
        optimizer.step()
        optimizer.zero_grad()
        if average is not None:
            average.update_parameters(trial)
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        if step >= WARM_UP_STEPS:
            times.append(time.perf_counter() - start)
        if times and time.perf_counter() - begin > TRIAL_SECONDS:
            break
    return statistics.median(times)


def steps_in_budget(minutes: float, step_seconds: float, validation_seconds: Callable[[], float], validations: int) -> int:
    """Turn a budget into a number of steps.

    Args:
        minutes: wall time of training, validations included.
        step_seconds: time of one step.
        validation_seconds: times one validation of all held-out cases.
        validations: validations during the run.

    Returns:
        At least 1 step.
    """
    left = minutes * 60 - validations * validation_seconds()
    return max(1, int(left / step_seconds))
