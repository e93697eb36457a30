"""Where a run stands in its schedule, when its number of steps was corrected on the way."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from pydantic import ValidationError

from se_med.config.training import TrainingConfig
from se_med.training.optimisation import learning_rate
from se_med.training.schedule import Schedule


@st.composite
def corrected(draw: st.DrawFn) -> Schedule:
    """A schedule that was corrected up to four times, each time to at least one more step."""
    schedule = Schedule(draw(st.integers(1, 400)))
    for _ in range(draw(st.integers(0, 4))):
        begin = schedule.former[-1][0] + 1 if schedule.former else 1
        if begin >= schedule.steps:
            break
        step = draw(st.integers(begin, schedule.steps - 1))
        schedule = schedule.corrected(step, step + draw(st.integers(1, 400)))
    return schedule


@given(corrected())
def test_the_share_rises_with_every_step_from_nothing_to_all(schedule):
    shares = [schedule.share(step) for step in range(schedule.steps + 1)]
    assert shares[0] == 0
    assert shares[-1] == 1
    assert all(before < after for before, after in pairwise(shares))


@given(corrected(), st.integers(1, 1000))
def test_a_correction_changes_nothing_behind_it_in_the_last_bit(schedule, more):
    step = schedule.steps - 1
    assume(step > (schedule.former[-1][0] if schedule.former else 0))
    new = schedule.corrected(step, step + more)
    assert [new.share(at) for at in range(step + 1)] == [schedule.share(at) for at in range(step + 1)]
    assert new.share(step + more) == 1


@given(corrected())
def test_each_step_is_found_by_its_share(schedule):
    assert all(schedule.step_at(schedule.share(step)) == step for step in range(schedule.steps + 1))


@given(st.integers(1, 5000))
def test_without_corrections_the_schedule_is_even(steps):
    schedule = Schedule(steps)
    assert [schedule.share(step) for step in range(0, steps, 7)] == [step / steps for step in range(0, steps, 7)]
    assert schedule.step_at(0.5) == round(steps / 2)


def test_the_rate_goes_on_from_where_it_was_and_ends_at_its_end():
    training = TrainingConfig(steps=1000, learning_rate=0.01)
    before = Schedule(1000)
    after = before.corrected(500, 700)
    rates = [learning_rate(after.share(step), training) for step in range(700)]
    assert rates[:500] == [learning_rate(before.share(step), training) for step in range(500)]
    assert max(abs(b - a) for a, b in pairwise(rates)) < 0.01 * 0.02
    assert rates[-1] == pytest.approx(0.003, rel=0.01)


@pytest.mark.parametrize(
    "given",
    [
        {"steps": 10, "former_steps": [[10, 12]]},
        {"steps": 10, "former_steps": [[5, 20], [5, 30]]},
        {"steps": 10, "former_steps": [[5, 5]]},
        {"former_steps": [[5, 20]]},
    ],
)
def test_former_steps_of_another_run_are_refused_with_what_to_do(given):
    with pytest.raises(ValidationError, match=r"remove former_steps \(null\)"):
        TrainingConfig.model_validate(given)
