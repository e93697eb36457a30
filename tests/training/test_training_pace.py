"""A run with a budget in minutes keeps to it, however fast the machine becomes, and can be repeated."""

from __future__ import annotations

import logging
import signal
from types import SimpleNamespace

import pytest
import torch
import yaml
from test_training_exact_runs import signal_at

from se_med.training import budget
from se_med.training.checkpoint import TrainingState
from se_med.training.interruption import InterruptedRunError
from se_med.training.pace import Pace
from se_med.training.schedule import Schedule


def run(seconds_of, steps: int, deadline: float, validation: float = 0.0) -> tuple[float, Schedule]:
    """Make steps of `seconds_of(step)` seconds, with a validation half-way; return when they ended, and the schedule."""
    state = TrainingState(deadline=deadline, validation_seconds=1.3 * validation)
    module = SimpleNamespace(progress=state, schedule=Schedule(steps), device=torch.device("cpu"))
    now, pace, validated = 0.0, Pace(module, 0.0), False
    while state.step < module.schedule.steps:
        now += seconds_of(state.step)
        state.step += 1
        if validation and not validated and module.schedule.share(state.step) >= 0.5:
            now, validated = now + validation, True
            pace.validated(validation)
        pace.correct(module, now, int(bool(validation) and not validated))
    return now, module.schedule


@pytest.mark.parametrize("foreseen", [300, 1000, 3000])
def test_a_wrong_trial_is_corrected(foreseen):
    end, schedule = run(lambda step: 0.1, foreseen, 100.0)
    assert end == pytest.approx(100, rel=0.01)
    assert schedule.steps == pytest.approx(1000, rel=0.01)
    assert not schedule.former if foreseen == 1000 else schedule.former


@pytest.mark.parametrize("change", [0.5, 1.6])
def test_a_machine_that_becomes_faster_or_slower_does_not_move_the_end(change):
    end, schedule = run(lambda step: 0.1 if step < 400 else 0.1 * change, 1000, 100.0)
    assert end == pytest.approx(100, rel=0.01)
    assert schedule.steps == pytest.approx(400 + 600 / change, rel=0.02)


def test_validations_are_part_of_the_minutes():
    end, schedule = run(lambda step: 0.1, 700, 100.0, validation=30.0)
    assert end == pytest.approx(100, rel=0.01)
    assert schedule.steps == pytest.approx(700, rel=0.01)


def test_minutes_that_are_over_end_the_run():
    end, schedule = run(lambda step: 0.1 if step < 500 else 10, 1000, 100.0)
    assert schedule.steps < 600
    assert end < 100 + 10 * 52


def test_steps_that_were_given_are_never_corrected():
    end, schedule = run(lambda step: 0.1, 300, 0.0)
    assert (end, schedule) == (pytest.approx(30), Schedule(300))


def test_a_large_correction_is_told_once(caplog):
    logging.getLogger("se_med").propagate = True
    with caplog.at_level(logging.INFO, logger="se_med"):
        run(lambda step: 0.1, 3000, 100.0)
    said = [record.getMessage() for record in caplog.records if record.levelno == logging.INFO]
    assert said == ["budget: a step took 0.100 s on the way to step 150, so there will be 1000 steps instead of 3000"]


OPTIONS = ("training.steps=null", "training.max_minutes=0.15", "training.ema=0.9", "network.dropout=0.2")


@pytest.mark.parametrize("interrupted", [False, True])
def test_the_stored_configuration_repeats_a_run_whose_steps_were_corrected(train, monkeypatch, interrupted):
    monkeypatch.setattr(budget, "run_trial", lambda data, module: budget.Trial(0.1, 0.0, 0.0))
    if interrupted:
        with pytest.raises(InterruptedRunError):
            train("timed", *OPTIONS, progress=signal_at(20, signal.SIGTERM))
    timed = train("timed", *OPTIONS, resume=interrupted)
    stored = yaml.safe_load((timed.folder / "config.yaml").read_text())["training"]
    assert stored["max_minutes"] is None
    assert stored["former_steps"]
    assert stored["steps"] == timed.provenance["steps"] != 90
    again = train("again", *OPTIONS[2:], f"training.steps={stored['steps']}", f"training.former_steps={stored['former_steps']}")
    assert again.weights == timed.weights
    assert again.digest == timed.digest
    assert [row["learning_rate"] for row in again.rows] == [row["learning_rate"] for row in timed.rows]
