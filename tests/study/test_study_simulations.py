"""Thousands of simulated studies at the presets' folds and seeds: what docs/statistics.md states holds."""

from __future__ import annotations

import numpy as np
import pytest

from benchmarks.verdicts import (
    DESIGNS,
    MARGIN,
    World,
    coverage,
    coverage_of_methods,
    false_by_cases,
    false_verdicts,
    study_words,
    worlds,
)

STUDIES = 2000
ERROR = 3 * (0.05 * 0.95 / STUDIES) ** 0.5
"""Three standard errors of a share of 5 %."""


@pytest.mark.slow
@pytest.mark.parametrize(("folds", "seeds"), DESIGNS)
@pytest.mark.parametrize("heavy", [False, True])
def test_interval_holds_the_truth_as_often_as_it_says(folds, seeds, heavy):
    generator = np.random.default_rng(1)
    found = [coverage(generator, world, folds, seeds, STUDIES) for world in worlds(heavy=heavy)]
    assert min(found) > 0.93 - ERROR / 3
    assert max(found) < 0.97 + ERROR / 3
    assert 0.94 < np.mean(found) < 0.96


@pytest.mark.slow
@pytest.mark.parametrize(("folds", "seeds"), DESIGNS)
@pytest.mark.parametrize("truths", [(0.0,) * 3, (MARGIN,) * 3, (0.0, MARGIN, 0.0)])
def test_at_most_one_study_in_twenty_gives_a_false_verdict(folds, seeds, truths):
    generator = np.random.default_rng(2)
    found = [false_verdicts(generator, world, folds, seeds, STUDIES, truths) for world in worlds()]
    assert max(found) < 0.055 + ERROR
    assert np.mean(found) < 0.05


@pytest.mark.slow
def test_tests_over_cases_alone_are_wrong_where_runs_vary():
    found = false_by_cases(np.random.default_rng(3), World(0.004, 0.01, 52), 2, 2, 600)
    assert min(found["t test"], found["Wilcoxon"], found["bootstrap"]) > 0.25
    assert found["this model"] < 0.08


@pytest.mark.slow
def test_power_at_the_margin():
    words = [word for (word,) in study_words(np.random.default_rng(4), World(0.002, 0.01, 52), 3, 3, STUDIES, (MARGIN,))]
    assert words.count("better") / STUDIES > 0.78
    assert words.count("worse") / STUDIES < 0.005


@pytest.mark.slow
def test_too_few_runs_are_inconclusive_whatever_they_show():
    words = {word for (word,) in study_words(np.random.default_rng(5), World(0.0001, 0.001, 20), 3, 1, 50, (0.05,))}
    assert words == {"inconclusive"}


def test_other_ways_to_an_interval_are_worse_in_the_ways_that_are_written():
    generator = np.random.default_rng(3)
    found = coverage_of_methods(generator, World(run=0.004, case=0.005, cases=12), 2, 2, 2000)
    small = coverage_of_methods(generator, World(run=0.001, case=0.02, cases=12), 2, 2, 2000)
    for shares in (found, small):
        assert 0.93 < shares["this model"] < 0.975
        assert 0.93 < shares["folds alone"] < 0.97
    assert small["run pairs as if independent"] < 0.92  # seeds repeat the cases
    assert small["run pairs - 1 degrees of freedom"] > 0.97
    assert np.isnan(coverage_of_methods(generator, World(0.001, 0.01, 12), 5, 1, 10)["run variance within folds"])
