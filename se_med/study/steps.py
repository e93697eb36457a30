"""The number of steps of every arm: from the trials that were made before, and from new ones where these are not enough."""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Literal

from se_med.config.dump import dump_config
from se_med.config.training import DEFAULT_MINUTES
from se_med.executor import Executor
from se_med.study.job import End, Job
from se_med.study.places import Places
from se_med.study.planning import PlannedArm, PlannedStudy
from se_med.study.runs import Run, make_runs
from se_med.study.trials import Trial, Trials, arm_key, basis_of, decide_steps, open_arms, read_trials

log = logging.getLogger(__name__)

Work = Callable[[Job], End]
"""Does a job, in the executor's worker."""


def steps_of_arms(
    planned: PlannedStudy, places: Places, executor: Executor, work: Work, workers: int, *, everything: bool
) -> tuple[list[PlannedArm], Trials, dict[str, Trial]]:
    """Return the arms with their steps, the trials to be kept, and the trial of each arm that was tried."""
    study = planned.study.config
    trials = read_trials(places.folder)
    basis = basis_of(study, _basis(planned), planned.arms, workers)
    if trials.basis != basis:
        trials = Trials(basis=basis)
    wanted = planned.arms if everything else open_arms(planned.arms)
    keys = {arm.name: arm_key(arm, study.threads) for arm in wanted}
    found = {arm.name: trials.arms[keys[arm.name]] for arm in wanted if keys[arm.name] in trials.arms}
    missing = [arm for arm in wanted if arm.name not in found]
    if missing:
        log.info("trial of %d arms, some seconds each", len(missing))
        found |= _try(missing, planned, places, executor, work)
    minutes = planned.config.training.max_minutes or DEFAULT_MINUTES
    arms, trials = decide_steps(study, planned.arms, minutes, trials, found)
    return arms, trials, found


def _try(arms: Sequence[PlannedArm], planned: PlannedStudy, places: Places, executor: Executor, work: Work) -> dict[str, Trial]:
    study = planned.study.config
    runs = {run.arm: run for run in make_runs(arms, study.seeds[:1], study.threads) if run.fold == study.folds[0]}
    jobs = {name: make_job("trial", run, places.runs, places.stop) for name, run in runs.items()}
    found = {}
    for outcome in executor.run(work, jobs):
        end = outcome.value or End("failed", outcome.error)
        if end.status == "finished":
            timed = end.result.pop("timed_seconds")
            found[outcome.key] = Trial(**end.result, start_seconds=round(max(0.0, outcome.seconds - timed), 1))
        elif end.status == "failed":
            log.warning("arm %s: its trial failed: %s", outcome.key, end.error)
    return found


def _basis(planned: PlannedStudy) -> dict[str, Any]:
    """Return what the number of steps depends on, besides arms and machine: the base, its plan and the cases."""
    base = planned.config.model_dump(mode="json", exclude={"name": True, "data": {"root", "cache", "split", "plan"}})
    reference = planned.arms[0]
    cases = {name: case.digest for name, case in sorted(reference.cases.items())}
    return {"base": base, "cases": hashlib.sha256(json.dumps(cases).encode()).hexdigest()}


def make_job(kind: Literal["train", "trial"], run: Run, folder: Path, stop: Path) -> Job:
    """Return the job that makes a run, or tries it.

    Args:
        kind: which of both.
        run: the run; for a trial its number of steps may be open.
        folder: the run folder.
        stop: the file whose existence asks all jobs to stop.
    """
    fold = {"train": list(run.cases.train), "validation": list(run.cases.validation), "selection": list(run.cases.selection)}
    config = run.config
    if kind == "trial" and config.training.steps is None:
        config = config.model_copy(update={"training": config.training.model_copy(update={"steps": 1, "max_minutes": None})})
    text, plan = dump_config(config), run.plan.model_dump_json()
    return Job(kind, run.title, str(folder.absolute()), text, plan, fold, config.training.threads or 1, str(stop.absolute()))
