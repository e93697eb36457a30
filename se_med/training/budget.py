"""From minutes to steps: a timed trial before the first step, after which steps alone drive the run."""

from __future__ import annotations

import copy
import logging
import statistics
import time
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import nn

from se_med.config.experiment import Config
from se_med.config.training import DEFAULT_MINUTES
from se_med.data.plan import Plan
from se_med.data.stream import StepSampler, make_loader
from se_med.inference.precision import Precision, autocast, resolve_precision
from se_med.inference.predictor import Predictor
from se_med.training.losses import build_loss
from se_med.training.module import SegmentationModule
from se_med.training.optimisation import build_average, build_optimizer
from se_med.training.run_data import RunData
from se_med.training.steps import build_stream
from se_med.training.validation import Validation

log = logging.getLogger(__name__)

WARM_UP_STEPS = 2
TRIAL_STEPS = 40
TRIAL_SECONDS = 10.0


def seconds_per_step(
    network: nn.Module,
    config: Config,
    plan: Plan,
    batches: Iterable[dict[str, Any]],
    device: torch.device,
    precision: Precision,
) -> float:
    """Time training steps, loading of batches included, on a copy of the network.

    Args:
        network: left untouched.
        config: loss, optimiser and accumulation.
        plan: what the loss has to know about the data.
        batches: at least ``(WARM_UP_STEPS + 1) * accumulate`` batches of the training stream.
        device: where the network is.
        precision: ``bf16`` or ``fp32``.

    Returns:
        The mean time of one optimiser step in seconds: some batches take much longer to augment than most.
    """
    trial = copy.deepcopy(network).train()
    loss_function = build_loss(config.training, config.network.deep_supervision, plan).to(device)
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
            with autocast(precision, device):
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
    return statistics.fmean(times)


def steps_in_budget(data: RunData, module: SegmentationModule) -> Config:
    """Turn the budget in minutes into a number of steps.

    The budget is the wall time of the steps, of the validations between them and at the end, and of this trial.

    Args:
        data: prepared cases, plan and configuration.
        module: the network at its start; left untouched.

    Returns:
        The configuration with ``training.steps`` set, 1 at least, and no budget any more.
    """
    config, training = data.config, data.config.training
    minutes = training.max_minutes or DEFAULT_MINUTES
    begin = time.perf_counter()
    device = next(module.parameters()).device
    needed = (WARM_UP_STEPS + TRIAL_STEPS) * training.accumulate
    batches = make_loader(build_stream(data), StepSampler(needed, data.plan.batch_size), training.workers)
    precision = resolve_precision(training.precision, device)
    step = seconds_per_step(module.network, config, data.plan, batches, device, precision)
    validation = Validation(data.validation, config, data.plan)
    predictor = Predictor(module.network, config, data.plan)
    case = min(_timed(lambda: validation.score(predictor, data.validation[0], surfaces=True)) for _ in range(2))
    validations = case * ((training.validations - 1) * len(data.watched) + len(data.validation))
    steps = max(1, int((minutes * 60 - (time.perf_counter() - begin) - validations) / step))
    log.info("budget: %g minutes are %d steps of %.3f s, and %.0f s of validation", minutes, steps, step, validations)
    return config.model_copy(update={"training": training.model_copy(update={"steps": steps, "max_minutes": None})})


def _timed(work: Callable[[], object]) -> float:
    begin = time.perf_counter()
    work()
    return time.perf_counter() - begin
