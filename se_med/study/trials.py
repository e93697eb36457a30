"""From minutes to one number of steps for all arms, by a short trial of each arm; decided once and then kept for the study."""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from se_med.config.training import DEFAULT_MINUTES
from se_med.errors import RunError
from se_med.io.atomic import write_json
from se_med.study.config import StudyConfig
from se_med.study.planning import PlannedArm, with_steps
from se_med.study.runs import run_key

log = logging.getLogger(__name__)

TRIALS = "trials.json"


@dataclass(frozen=True)
class Trial:
    """What a short trial of an arm has measured.

    Attributes:
        seconds_per_step: mean time of a step.
        seconds_per_case: mean time to segment and score a held-out case.
        cases: cases scored over the whole run.
        peak_memory_mb: largest resident memory of the process, in MB.
        disk_mb: size of the run folder at its end, in MB.
        start_seconds: time to start a process and to read data and plan; no part of the budget.
    """

    seconds_per_step: float
    seconds_per_case: float
    cases: int
    peak_memory_mb: float
    disk_mb: float
    start_seconds: float = 0.0

    def steps_in(self, minutes: float) -> int:
        """Return how many steps fit, with all validations; 1 at least."""
        return max(1, int((minutes * 60 - self.seconds_per_case * self.cases) / self.seconds_per_step))

    def seconds(self, steps: int) -> float:
        """Return the time of a run, its start included."""
        return self.start_seconds + self.seconds_per_step * steps + self.seconds_per_case * self.cases


@dataclass(frozen=True)
class Trials:
    """The trials of a study and what followed from them.

    Attributes:
        steps: the number of steps that the budget of the base means; None while no arm has needed it.
        basis: digest of all that the number was decided from.
        arms: trial of each arm, by `arm_key`.
    """

    steps: int | None = None
    basis: str = ""
    arms: dict[str, Trial] = field(default_factory=dict)


def read_trials(folder: Path) -> Trials:
    """Return the trials of a study; none where there is no file of this version."""
    try:
        content = json.loads((folder / TRIALS).read_text(encoding="utf-8"))
        return Trials(content["steps"], content["basis"], {key: Trial(**trial) for key, trial in content["arms"].items()})
    except (OSError, ValueError, KeyError, TypeError):
        return Trials()


def write_trials(folder: Path, trials: Trials) -> None:
    """Write the trials of a study, atomically."""
    write_json(folder / TRIALS, asdict(trials))


def arm_key(arm: PlannedArm, threads: int) -> str:
    """Return the key of an arm, whatever its steps, on its first fold and with the seed of the base."""
    training = arm.config.training.model_copy(update={"steps": None, "max_minutes": None})
    fold = next(iter(arm.folds.values()))
    return run_key(arm.config.model_copy(update={"training": training}), arm.plan, fold, arm.cases, threads)


def open_arms(arms: Sequence[PlannedArm]) -> list[PlannedArm]:
    """Return the arms whose number of steps is still to be decided."""
    return [arm for arm in arms if arm.config.training.steps is None]


def basis_of(study: StudyConfig, base: dict[str, Any], arms: Sequence[PlannedArm], workers: int) -> str:
    """Return a digest of what the common number of steps is decided from, but for the arms: more arms change no steps."""
    content = {
        "base": base,
        "budget": study.budget,
        "threads": study.threads,
        "workers": workers,
        "reference": arm_key(arms[0], study.threads) if study.budget == "reference" else None,
    }
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:20]


def decide_steps(
    study: StudyConfig, arms: Sequence[PlannedArm], minutes: float, trials: Trials, measured: Mapping[str, Trial]
) -> tuple[list[PlannedArm], Trials]:
    """Give every arm its number of steps.

    Args:
        study: says whose time the budget means.
        arms: the arms, the reference first; those with ``training.steps`` keep them.
        minutes: the budget of the base.
        trials: what was decided before; its steps are kept.
        measured: trial of each arm by name; those with a number of steps may be left out.

    Returns:
        The arms with their steps, and the trials with what was decided now.

    Raises:
        RunError: the trial of an arm that decides is missing.
    """
    waiting = open_arms(arms)
    common = [arm for arm in waiting if not _own_budget(study, arm)]
    steps = trials.steps
    if common and steps is None:
        deciding = [arms[0]] if study.budget == "reference" else common
        missing = [arm.name for arm in deciding if arm.name not in measured]
        if missing:
            raise RunError(f"arm {missing[0]}: its trial failed, so that there is no number of steps; set training.steps")
        steps = min(measured[arm.name].steps_in(minutes) for arm in deciding)
        slowest = max(deciding, key=lambda arm: measured[arm.name].seconds(steps or 1))
        log.info(
            "budget: %g minutes of %s are %d steps of %.3f s, for every arm",
            minutes,
            slowest.name,
            steps,
            measured[slowest.name].seconds_per_step,
        )
    decided = []
    for arm in arms:
        if arm in waiting:
            own = measured.get(arm.name)
            if _own_budget(study, arm):
                if own is None:
                    raise RunError(f"arm {arm.name}: its trial failed, so that there is no number of steps; set training.steps")
                decided.append(with_steps(arm, own.steps_in(arm.config.training.max_minutes or DEFAULT_MINUTES)))
            else:
                decided.append(with_steps(arm, steps or 1))
        else:
            decided.append(arm)
    known = {arm_key(arm, study.threads): measured[arm.name] for arm in arms if arm.name in measured}
    return decided, replace(trials, steps=steps, arms=trials.arms | known)


def _own_budget(study: StudyConfig, arm: PlannedArm) -> bool:
    return study.budget == "each" or ("training", "max_minutes") in arm.arm.keys
