"""The fixed rule, Holm's correction, power, and the words of a verdict."""

from __future__ import annotations

from itertools import product

import numpy as np
import pytest
from scipy import stats
from statsmodels.stats.multitest import multipletests
from statsmodels.stats.power import TTestPower

from se_med.study.endpoints import METRICS
from se_med.study.power import needed_runs, power_different, power_equivalent, smallest_detectable
from se_med.study.run_model import fit_run_model
from se_med.study.verdict import correct, decide, decide_word, holm

DICE, HD95 = METRICS["dice"], METRICS["hd95"]


def blocks(mean, folds=3, seeds=3, cases=30, run=0.001, case=0.005, seed=0):
    generator = np.random.default_rng(seed)
    return [
        mean
        + generator.normal(0, run, (seeds, 1))
        + generator.normal(0, case, (1, cases))
        + generator.normal(0, 0.002, (seeds, cases))
        for _ in range(folds)
    ]


def verdict(data, margin=0.005, metric=DICE):
    return decide({"cse": fit_run_model(data)}, "plain", metric, margin)[0]


@pytest.mark.parametrize("seed", range(5))
def test_holm_is_that_of_statsmodels(seed):
    p = np.random.default_rng(seed).uniform(0, 0.1, 6)
    assert holm(list(p)) == pytest.approx(multipletests(p, method="holm")[1])


def test_holms_example():
    # Holm (1979) as worked in many textbooks: 0.01, 0.04, 0.03, 0.005 at 5 % keep the first and the last alone.
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert np.isnan(holm([0.01, float("nan")])[1])
    assert holm([0.01, float("nan")])[0] == pytest.approx(0.01)


@pytest.mark.parametrize("seed", range(10))
def test_correction_is_the_closed_test_over_what_can_be_true_together(seed):
    generator = np.random.default_rng(seed)
    p = generator.uniform(0, 1, (2, 4)) ** 2
    different, equivalent = correct(list(p[0]), list(p[1]))
    # Each arm has no true hypothesis, or one of its two; Bonferroni's p of a set is its size times its least p.
    sets = [chosen for chosen in product((None, 0, 1), repeat=4) if any(which is not None for which in chosen)]
    for which, found in ((0, different), (1, equivalent)):
        for arm in range(4):
            within = [chosen for chosen in sets if chosen[arm] == which]
            parts = [[p[one, place] for place, one in enumerate(chosen) if one is not None] for chosen in within]
            assert found[arm] == pytest.approx(min(1.0, max(len(part) * min(part) for part in parts)))


def test_one_arm_is_not_corrected():
    assert correct([0.03], [0.4]) == ([0.03], [0.4])
    different, equivalent = correct([0.03, float("nan")], [0.4, float("nan")])
    assert (different[0], equivalent[0]) == (0.03, 0.4)
    assert np.isnan(different[1])


def test_power_is_that_of_statsmodels():
    expected = TTestPower().power(effect_size=0.5, nobs=34, alpha=0.05)
    assert power_different(0.5, 1 / 34**0.5, 33) == pytest.approx(expected, rel=1e-4)
    found = smallest_detectable(1 / 34**0.5, 33)
    assert found == pytest.approx(TTestPower().solve_power(nobs=34, alpha=0.05, power=0.8), rel=1e-4)


def test_power_of_equivalence_by_simulation():
    generator = np.random.default_rng(0)
    means = generator.normal(0.001, 1 / 8**0.5 * 0.004, 40_000)
    errors = 0.004 / 8**0.5 * np.sqrt(generator.chisquare(7, 40_000) / 7)
    within = np.maximum(stats.t.sf((0.005 - means) / errors, 7), stats.t.sf((0.005 + means) / errors, 7)) < 0.05
    assert power_equivalent(0.001, 0.005, 0.004 / 8**0.5, 7) == pytest.approx(within.mean(), abs=0.01)


@pytest.mark.parametrize(
    ("estimate", "pairs", "different", "equivalent", "sign", "word"),
    [
        (0.01, 4, 0.01, 0.9, 1, "better"),
        (-0.01, 4, 0.01, 0.9, 1, "worse"),
        (-0.01, 4, 0.01, 0.9, -1, "better"),
        (0.001, 4, 0.3, 0.01, 1, "equivalent"),
        (0.001, 4, 0.01, 0.01, 1, "equivalent"),
        (0.01, 4, 0.2, 0.2, 1, "inconclusive"),
        (0.01, 3, 1e-9, 0.9, 1, "inconclusive"),
        (0.0, 3, 1.0, 1e-9, 1, "inconclusive"),
        (0.01, 9, float("nan"), float("nan"), 1, "inconclusive"),
    ],
)
def test_rule(estimate, pairs, different, equivalent, sign, word):
    assert decide_word(estimate, pairs, different, equivalent, sign) == word


def test_words():
    better = verdict(blocks(0.01))
    assert better.word == "better"
    assert better.sentence.startswith("cse is better than plain by 0.0")
    assert verdict(blocks(0.01), metric=HD95).word == "worse"
    same = verdict(blocks(0.0))
    assert same.word == "equivalent"
    assert "within the margin of 0.0050" in same.sentence
    small = verdict(blocks(0.002, run=0.0003, case=0.001))
    assert small.word == "equivalent"
    assert "surely better, but by less than what would matter" in small.sentence


def test_few_runs_never_decide():
    data = blocks(0.05, folds=3, seeds=1, run=1e-5, case=1e-4)
    found = verdict(data)
    assert found.word == "inconclusive"
    assert "4 are the least" in found.sentence
    assert found.p_different < 0.01
    single = verdict(blocks(0.05, folds=1, seeds=1))
    assert (single.low, single.p_different, single.word) == (None, None, "inconclusive")


def test_inconclusive_says_how_many_runs_would_decide_and_they_do():
    data = blocks(0.004, folds=2, seeds=2, run=0.003, case=0.003, seed=10)
    found = verdict(data)
    assert found.word == "inconclusive"
    assert found.more_run_pairs
    assert f"About {2 * found.more_run_pairs} more runs" in found.sentence
    model = fit_run_model(data)
    seeds = 2 + found.more_run_pairs // 2
    # Studies of that size, drawn with the model's variances around its estimate, are decided in four of five or a little more.
    generator = np.random.default_rng(1)
    run, case, rest = (float(part) ** 0.5 for part in (model.run_variance, model.case_variance, model.rest_variance))
    drawn = [
        model.estimate
        + generator.normal(0, run, (1000, seeds, 1))
        + generator.normal(0, case, (1000, 1, 30))
        + generator.normal(0, rest, (1000, seeds, 30))
        for _ in range(2)
    ]
    larger = fit_run_model(drawn)
    decided = (larger.p_different() < 0.05) | (larger.p_equivalent(0.005) < 0.05)
    assert 0.7 < decided.mean() < 0.95


def test_where_cases_are_the_limit_more_seeds_are_not_promised():
    data = blocks(0.0026, folds=2, seeds=2, cases=6, run=0.0005, case=0.02, seed=4)
    found = verdict(data)
    assert found.word == "inconclusive"
    assert needed_runs(fit_run_model(data), 0.005, 0.05).seeds is None
    assert "more folds" in found.sentence


def test_arms_are_corrected_for_each_other():
    models = {
        name: fit_run_model(blocks(mean, seed=seed)) for seed, (name, mean) in enumerate([("a", 0.004), ("b", 0.0), ("c", 0.0)])
    }
    alone = decide({"a": models["a"]}, "plain", DICE, 0.005)[0]
    together = decide(models, "plain", DICE, 0.005)[0]
    assert together.p_different > alone.p_different
    assert (together.low, together.high) == (alone.low, alone.high)
    assert "Holm" in decide(models, "plain", DICE, 0.0001)[0].sentence
