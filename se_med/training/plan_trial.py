"""What a run by a plan takes: memory, disk, seconds a step and steps in the budget; and smaller plans where there are too few."""

from __future__ import annotations

import logging

import torch

from se_med.data.cache import predict_disk
from se_med.data.plan import Estimate
from se_med.inference.precision import resolve_device
from se_med.progress import Progress
from se_med.training.budget import FEWEST_STEPS, Trial, affordable_steps, budget_minutes, run_trial
from se_med.training.checkpoint import TrainingState
from se_med.training.memory import estimate_memory
from se_med.training.planned import Planned, smaller_plan
from se_med.training.provenance import machine, peak_memory_mb
from se_med.training.run_data import RunData, prepare_parts
from se_med.training.steps import build_module
from se_med.training.threads import choose_threads

log = logging.getLogger(__name__)

MOST_CASES = 8
"""Training cases that are prepared for a trial."""


def estimate_plan(planned: Planned) -> Planned:
    """Say what a run by the plan takes, as far as it can be told without computing."""
    memory = estimate_memory(planned.config, planned.plan) / 1e6
    return _with_estimate(planned, _estimate(planned, memory, measured=False))


def try_plan(planned: Planned, progress: Progress, spent: float = 0.0) -> Planned:
    """Time the plan's steps on this machine, and plan smaller ones where the budget allows fewer than 500 of them.

    A few cases are prepared for it, which a run will find prepared. Where steps are set instead of minutes, the plan stays.

    Args:
        planned: the plan by the rules.
        progress: shows long work.
        spent: seconds that starting and reading took, which a run will need too.

    Raises:
        DataError: cases cannot be used.
        RunError: the prepared cases do not fit on the disk.
    """
    before, training = torch.get_num_threads(), planned.config.training
    torch.set_num_threads(choose_threads(training.threads, None, training.processes))
    try:
        return _try(planned, progress, spent)
    finally:
        torch.set_num_threads(before)


def _try(planned: Planned, progress: Progress, spent: float) -> Planned:
    trained, held_out, _ = planned.parts()
    train, validation = prepare_parts(planned, (trained[:MOST_CASES], held_out[:1]), progress)
    while True:
        data = RunData(planned.config, planned.plan, train, validation)
        trial = run_trial(data, build_module(data, TrainingState()))
        steps = _steps(planned, trial, spent)
        if planned.config.training.steps is not None or steps >= FEWEST_STEPS:
            break
        why = (
            f"{budget_minutes(planned.config):g} minutes would be {steps} steps of {trial.step:.2f} s, fewer than {FEWEST_STEPS}"
        )
        smaller = smaller_plan(planned, why)
        if smaller is None:
            log.warning("warning: %s, and nothing that could be planned smaller; give it more minutes", why)
            break
        log.info("plan: %s", why)
        planned = planned.with_plan(smaller)
    memory = torch.cuda.max_memory_allocated() / 1e6 if _on_gpu(planned) else peak_memory_mb()
    found = _estimate(planned, memory, measured=True)
    seconds = {"seconds_per_step": float(f"{trial.step:.4g}"), "steps": steps}
    return _with_estimate(planned, found.model_copy(update=seconds))


def _steps(planned: Planned, trial: Trial, spent: float) -> int:
    if planned.config.training.steps is not None:
        return planned.config.training.steps
    fold = planned.fold
    return max(1, affordable_steps(trial, planned.config, len(fold.selection or fold.validation), len(fold.validation), spent))


def _estimate(planned: Planned, memory_mb: float, *, measured: bool) -> Estimate:
    training, facts = planned.config.training, machine()
    device = str(facts["gpu"]) if _on_gpu(planned) else f"{facts['processor']}, {torch.get_num_threads()} threads"
    cases = [case for part in planned.parts() for case in part]
    return Estimate(
        device=device,
        memory_mb=round(memory_mb, 1),
        memory_measured=measured,
        cache_mb=round(predict_disk(cases, planned.plan) / 1e6, 1),
        minutes=None if training.steps is not None else budget_minutes(planned.config),
        steps=training.steps,
    )


def _with_estimate(planned: Planned, estimate: Estimate) -> Planned:
    return planned.with_plan(planned.plan.model_copy(update={"estimate": estimate}))


def _on_gpu(planned: Planned) -> bool:
    return resolve_device(planned.config.training.device).type == "cuda"
