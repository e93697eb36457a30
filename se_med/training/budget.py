"""From minutes to steps: a timed trial before the first step."""

from __future__ import annotations

import copy
import logging
import math
import statistics
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import nn

from se_med.config.experiment import Config
from se_med.config.training import DEFAULT_MINUTES
from se_med.data.cache import PreparedCase
from se_med.data.plan import Plan
from se_med.data.stream import StepSampler, make_loader
from se_med.errors import UsageError
from se_med.inference.precision import Precision, autocast, resolve_precision
from se_med.inference.predictor import Predictor
from se_med.training.losses import build_loss
from se_med.training.module import SegmentationModule
from se_med.training.optimisation import build_average, build_optimizer
from se_med.training.run_data import RunData
from se_med.training.steps import build_stream
from se_med.training.threads import Neighbours
from se_med.training.validation import Validation

log = logging.getLogger(__name__)

WARM_UP_STEPS = 2
TRIAL_STEPS = 40
TRIAL_SECONDS = 5.0
FEWEST_STEPS = 500
"""A budget should allow as many steps as this, else smaller steps are better: on the hippocampus, the plain network of
`configs/hippocampus.yaml` had a Dice of 0.86 after 500 steps, and 0.88 after 2000."""
LEAST_STEPS = 50
"""A budget that allows fewer is refused: nothing is learned in them, and whoever wants to see a run end sets the steps."""
BUSY = 0.25
"""Cores that others keep busy in a trial, on the average of it, above which its times say little about a free machine."""
SHIFT = 2
"""Voxels by which a reference is moved along each axis, to time how long scoring takes."""


@dataclass(frozen=True)
class Trial:
    """What a trial measured.

    Attributes:
        step: seconds of one optimiser step.
        case: seconds to segment and score one case.
        seconds: time of the trial itself.
    """

    step: float
    case: float
    seconds: float


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


def run_trial(data: RunData, module: SegmentationModule) -> Trial:
    """Time training steps and the validation of a case.

    Args:
        data: prepared cases, plan and configuration; one case of each part is enough.
        module: the network at its start; left untouched.
    """
    config = data.config
    begin = time.perf_counter()
    device = next(module.parameters()).device
    neighbours = Neighbours()
    needed = (WARM_UP_STEPS + TRIAL_STEPS) * config.training.accumulate
    batches = make_loader(build_stream(data), StepSampler(needed, data.plan.batch_size), config.training.workers)
    precision = resolve_precision(config.training.precision, device)
    step = seconds_per_step(module.network, config, data.plan, batches, device, precision)
    validation = Validation(data.validation, config, data.plan)
    predictor = Predictor(module.network, config, data.plan)
    case = seconds_per_case(validation, predictor, data.validation[0])
    busy = 0.0 if config.training.workers else neighbours.busy()  # workers would be taken for others
    if busy > BUSY:
        log.warning(
            "warning: other work kept %.1f cores busy while steps were timed; on a free machine they may be much faster", busy
        )
    return Trial(step, case, time.perf_counter() - begin)


def seconds_per_case(validation: Validation, predictor: Predictor, case: PreparedCase) -> float:
    """Time how long it takes to segment a case, and to score one.

    What is scored is the reference against itself, moved a little: what an untrained network finds is scattered all over the
    volume, and the distances of its surfaces take many times as long as those of what a trained one finds.
    """
    segment = min(_timed(lambda: predictor.label(case.prepared)) for _ in range(2))
    moved = np.roll(validation.reference(case).array, SHIFT, axis=(0, 1, 2))
    return segment + min(_timed(lambda: validation.compare(case, moved, surfaces=True)) for _ in range(2))


def affordable_steps(trial: Trial, config: Config, watched: int, held_out: int, spent: float = 0.0) -> int:
    """Return how many steps the budget in minutes allows; 0 or fewer where nothing of it is left.

    The budget is the wall time from the command to its end: of start and reading, the trial, the steps, and the validations
    between them and at the end.

    Args:
        trial: what was measured.
        config: the budget and the number of validations.
        watched: cases of each validation during training.
        held_out: cases of the validation at the end.
        spent: seconds that went by before the trial, without those that preparing cases took.
    """
    left = budget_minutes(config) * 60 - spent - trial.seconds - validation_seconds(trial, config, watched, held_out)
    return math.floor(left / trial.step)


def validation_seconds(trial: Trial, config: Config, watched: int, held_out: int) -> float:
    """Return the time of all validations of a run."""
    return trial.case * ((config.training.validations - 1) * watched + held_out)


def budget_minutes(config: Config) -> float:
    """Return the budget of a run whose steps are not set."""
    return config.training.max_minutes or DEFAULT_MINUTES


def steps_in_budget(data: RunData, module: SegmentationModule, spent: float = 0.0) -> tuple[Config, Trial]:
    """Turn the budget in minutes into a number of steps.

    Args:
        data: prepared cases, plan and configuration.
        module: the network at its start; left untouched.
        spent: seconds of the budget that are gone.

    Returns:
        The configuration with ``training.steps`` set and no budget any more, and what the trial measured.

    Raises:
        UsageError: fewer than `LEAST_STEPS` steps fit.
    """
    config, training = data.config, data.config.training
    trial = run_trial(data, module)
    sizes = len(data.watched), len(data.validation)
    steps = affordable_steps(trial, config, *sizes, spent)
    minutes, validations = budget_minutes(config), validation_seconds(trial, config, *sizes)
    parts = f"a step takes {trial.step:.3g} s, start and trial {spent + trial.seconds:.0f} s, validation {validations:.0f} s"
    more = math.ceil((spent + trial.seconds + validations + FEWEST_STEPS * trial.step) / 60)
    remedy = (
        f"{FEWEST_STEPS} need training.max_minutes={more}; or let `se-med plan --trial -o plan.json` plan a smaller network, and "
        "train with data.plan=plan.json"
    )
    if steps < LEAST_STEPS:
        raise UsageError(
            f"training.max_minutes: {minutes:g} {'minute is' if minutes == 1 else 'minutes are'} {max(0, steps)} steps, too few "
            f"to train: {parts}. {remedy}; or set training.steps, to train however long it takes"
        )
    log.info("budget: %g minutes are %d steps of %.3f s, and %.0f s of validation", minutes, steps, trial.step, validations)
    if steps < FEWEST_STEPS:
        log.warning("warning: %d steps are too few to learn much; %s", steps, remedy)
    return config.model_copy(update={"training": training.model_copy(update={"steps": steps, "max_minutes": None})}), trial


def _timed(work: Callable[[], object]) -> float:
    begin = time.perf_counter()
    work()
    return time.perf_counter() - begin
