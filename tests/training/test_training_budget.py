"""From minutes to steps: what counts, and what is said where too few are left."""

from __future__ import annotations

import logging
import time
from types import SimpleNamespace

import numpy as np
import pytest

from se_med.config.experiment import Config
from se_med.config.load import load_config
from se_med.errors import UsageError
from se_med.training import budget, fit, run_data
from se_med.training.budget import FEWEST_STEPS, LEAST_STEPS, Trial, affordable_steps, seconds_per_case, steps_in_budget

HELD_OUT = 40


def one_minute(**training: object) -> Config:
    return Config.model_validate({"training": {"max_minutes": 1.0, "validations": 3, **training}})


@pytest.fixture
def turn(monkeypatch):
    """``turn(trial, spent)`` turns one minute into steps, with a trial that was not made."""

    def run(trial: Trial, spent: float = 0.0) -> int:
        monkeypatch.setattr(budget, "run_trial", lambda data, module: trial)
        data = SimpleNamespace(config=one_minute(), watched=[0] * 10, validation=[0] * HELD_OUT)
        return steps_in_budget(data, None, spent)[0].training.steps

    return run


def test_the_minutes_hold_start_trial_steps_and_all_validations():
    # 60 s - 12 s before the trial - 8 s of trial - (2 * 10 + 40) cases of 0.1 s = 34 s
    assert affordable_steps(Trial(0.05, 0.1, 8.0), one_minute(), 10, HELD_OUT, spent=12.0) == 680
    assert affordable_steps(Trial(0.05, 5.0, 8.0), one_minute(), 10, HELD_OUT) < 0


def test_a_budget_for_hardly_any_steps_is_refused_with_what_to_do(turn):
    with pytest.raises(UsageError) as caught:
        turn(Trial(1.2, 0.5, 14.0), spent=11.0)
    message = caught.value.message
    assert "\n" not in message
    assert "training.max_minutes: 1 minute is 4 steps, too few to train" in message
    assert "a step takes 1.2 s, start and trial 25 s, validation 30 s" in message
    assert "500 need training.max_minutes=11" in message  # 25 + 30 + 600 s
    assert "training.steps" in message
    with pytest.raises(UsageError, match="1 minute is 0 steps"):
        turn(Trial(1.2, 8.0, 14.0))
    assert turn(Trial(1.0, 0.0, 60.0 - LEAST_STEPS)) == LEAST_STEPS


def test_few_steps_are_warned_of_once(turn, monkeypatch):
    said = []
    monkeypatch.setattr(logging.getLogger(budget.__name__), "warning", lambda message, *values: said.append(message % values))
    assert turn(Trial(0.2, 0.0, 10.0)) == 250
    assert len(said) == 1
    assert "250 steps are too few to learn much; 500 need training.max_minutes=2" in said[0]
    assert turn(Trial(0.1, 0.0, 60.0 - 0.1 * FEWEST_STEPS - 0.01)) == FEWEST_STEPS
    assert len(said) == 1


def test_scoring_is_timed_on_the_reference_and_not_on_what_an_untrained_network_finds():
    reference = np.zeros((12, 12, 12), np.uint8)
    reference[3:7, 4:8, 2:6] = 1
    scattered = np.random.default_rng(0).integers(0, 2, reference.shape)
    compared = []

    class Validation:
        def reference(self, case):
            return SimpleNamespace(array=reference)

        def compare(self, case, prediction, *, surfaces):
            assert surfaces
            compared.append(prediction)
            time.sleep(0.01)

    def label(prepared):
        time.sleep(0.02)
        return scattered

    seconds = seconds_per_case(Validation(), SimpleNamespace(label=label), SimpleNamespace(prepared=None))
    assert seconds >= 0.03
    for found in compared:
        overlap = 2 * ((found == 1) & (reference == 1)).sum() / ((found == 1).sum() + (reference == 1).sum())
        assert 0 < overlap < 1
        assert (found == 1).sum() == (reference == 1).sum()


def test_the_budget_counts_from_the_command_and_leaves_preparing_out(small_config, tmp_path, monkeypatch):
    slow, seen = 3.0, {}
    prepare = run_data.prepare_parts

    def prepare_slowly(*arguments):
        time.sleep(slow)
        return prepare(*arguments)

    def turned(data, module, spent):
        seen["spent"], seen["gone"] = spent, time.monotonic() - begun
        config = data.config.model_copy(update={"training": data.config.training.model_copy(update={"steps": 1})})
        return config, Trial(1.0, 0.0, 0.0)

    monkeypatch.setattr(run_data, "prepare_parts", prepare_slowly)
    monkeypatch.setattr(fit, "steps_in_budget", turned)
    begun = time.monotonic() - 1000
    config = load_config(small_config, ["training.steps=null", "training.validations=1"])
    fit.fit(config, tmp_path / "run", begun=begun)
    assert 1000 < seen["spent"] <= seen["gone"] - slow


def test_a_refused_budget_leaves_nothing(small_config, tmp_path, monkeypatch):
    monkeypatch.setattr(budget, "run_trial", lambda data, module: Trial(10.0, 0.0, 1.0))
    config = load_config(small_config, ["training.max_minutes=0.5"])
    with pytest.raises(UsageError, match=r"0\.5 minutes are 2 steps"):
        fit.fit(config, tmp_path / "run")
    assert not (tmp_path / "run").exists()
