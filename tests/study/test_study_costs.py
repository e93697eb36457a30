"""What the runs of a study cost: medians with the spread of runs that went on side by side."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace

from study_tables import make_tables, row

from se_med.study.report.figures import costs_of
from se_med.study.report.write import _cost_cells, _cost_note


def runs_of(*seconds):
    tables = make_tables([row(seed=seed) for seed in range(len(seconds))])
    return [replace(run, seconds_per_step=value) for run, value in zip(tables.runs, seconds, strict=True)]


def test_a_cost_is_the_median_and_the_middle_half_of_the_runs():
    cost = costs_of(runs_of(0.2, 0.21, 0.22, 0.23, 0.9), "plain")["seconds_per_step"]
    assert (cost.median, cost.low, cost.high) == (0.22, 0.21, 0.23)
    assert costs_of(runs_of(None, None), "plain")["seconds_per_step"] is None


def test_noise_stands_beside_what_varies_and_nowhere_else():
    parameters, _, seconds, *_ = _cost_cells(runs_of(0.2, 0.21, 0.22, 0.23, 0.9), "plain")
    assert parameters == "100,000"
    assert seconds == "0.22 (0.21 to 0.23)"


def test_the_note_says_how_many_runs_went_on_beside():
    facts = SimpleNamespace(machines=({"cores": 4},))
    study = SimpleNamespace(workers=None, threads=1)
    assert "beside up to 3 other runs" in _cost_note(study, facts)
    study.workers = 2
    assert "beside up to 1 other run of" in _cost_note(study, facts)
    study.workers = 1
    assert "no other run beside" in _cost_note(study, facts)
