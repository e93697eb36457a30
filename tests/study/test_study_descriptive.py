"""Descriptive statistics against published examples and independent computations."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats
from study_tables import drawn_cases, row

from se_med.study.descriptive import count_failures, describe, rank_effect, worst_mean
from se_med.study.endpoints import METRICS
from se_med.study.noise import measure_noise

DICE = METRICS["dice"]


def described(rows, structure, metric):
    return next(entry for entry in describe(rows, "cse", "plain") if (entry.structure, entry.metric) == (structure, metric))


def test_wilcoxon_of_darwins_maize():
    # Darwin's 15 pairs of cross- and self-fertilised plants (1876), in eighths of an inch as Fisher (1935) has them; scipy's
    # manual gives statistic 24 and two-sided p 0.04126 for them.
    differences = [6, 8, 14, 16, 23, 24, 28, 29, 41, -48, 49, 56, 60, -67, 75]
    rows = [row("plain", case=f"{number:02d}", dice=0.5) for number in range(15)]
    rows += [row("cse", case=f"{number:02d}", dice=0.5 + value / 1000) for number, value in enumerate(differences)]
    entry = described(rows, "ball", "dice")
    assert entry.wilcoxon_p == pytest.approx(0.041259765625)
    assert (entry.wins, entry.ties, entry.losses) == (13, 0, 2)
    assert entry.rank_effect == pytest.approx((96 - 24) / 120)


@pytest.mark.parametrize("seed", range(4))
def test_rank_effect_is_the_balance_of_walsh_averages(seed):
    # The signed-rank sum is the number of positive Walsh averages (Tukey 1949): another way to the same number.
    differences = np.random.default_rng(seed).normal(0.3, 1, 12)
    walsh = [(a + b) / 2 for i, a in enumerate(differences) for b in differences[i:]]
    assert rank_effect(differences) == pytest.approx(np.mean(np.sign(walsh)))


def test_effect_size_means_and_interval():
    rows = drawn_cases({"plain": 0.0, "cse": 0.01}, folds=2, seeds=2, cases=15)
    entry = described(rows, "mean", "dice")
    by_case = {}
    for one in rows:
        by_case.setdefault((one.fold, one.case), {}).setdefault(one.arm, []).append(one.dice)
    differences = [np.mean(scores["cse"]) - np.mean(scores["plain"]) for scores in by_case.values()]
    assert entry.difference == pytest.approx(np.mean(differences))
    assert entry.arm_mean - entry.reference_mean == pytest.approx(entry.difference)
    t = stats.ttest_1samp(differences, 0).statistic
    assert entry.effect_size == pytest.approx(t / len(differences) ** 0.5)
    assert entry.low < entry.difference < entry.high


def test_ties_and_signs():
    rows = [row("plain", case=case, dice=0.5, hd95=4.0) for case in "abc"]
    rows += [
        row("cse", case=case, dice=dice, hd95=hd95) for case, dice, hd95 in (("a", 0.5, 3.0), ("b", 0.5, 2.0), ("c", 0.4, 5.0))
    ]
    dice, hd95 = described(rows, "ball", "dice"), described(rows, "ball", "hd95")
    assert (dice.wins, dice.ties, dice.losses) == (0, 2, 1)
    assert (hd95.wins, hd95.ties, hd95.losses) == (2, 0, 1)
    same = described(rows, "ball", "nsd")
    assert (same.wilcoxon_p, same.rank_effect, same.effect_size, same.ties) == (None, None, None, 3)


def test_worst_tenth_is_each_arms_own():
    scores = np.arange(1, 21) / 20
    assert worst_mean(scores, 1) == pytest.approx(0.075)
    assert worst_mean(scores, -1) == pytest.approx(0.975)
    assert worst_mean(scores[:3], 1) == pytest.approx(0.05)
    # Noise alone makes the reference's worst cases look better in the other arm; the comparison of own worst cases does not.
    generator = np.random.default_rng(0)
    mine, others = generator.normal(0, 1, (2, 4000))
    assert (mine[others < np.quantile(others, 0.1)]).mean() - worst_mean(others, 1) > 1
    assert abs(worst_mean(mine, 1) - worst_mean(others, 1)) < 0.2


def test_misses_and_false_alarms_are_counted():
    rows = [
        row("plain", case="a", status="missed"),
        row("cse", case="a"),
        row("plain", case="b", status="absent"),
        row("cse", case="b", status="spurious"),
        row("plain", case="c", status="absent"),
        row("cse", case="c", status="absent"),
    ]
    (entry,) = count_failures(rows, "cse", "plain")
    assert (entry.scored, entry.missed_arm, entry.missed_reference) == (2, 0, 1)
    assert (entry.spurious_arm, entry.spurious_reference) == (1, 0)


def test_noise_floor_is_what_unmatched_runs_exceed_in_one_study_of_twenty():
    exceeded = []
    for seed in range(80):
        # An arm that is the reference with other seeds: the cases and what is in them are the same.
        rows = drawn_cases({"plain": 0.0}, folds=2, seeds=6, cases=4, run_sd=0.003, case_sd=0.0, seed=seed)
        mine = [one for one in rows if one.seed < 3]
        others = [one for one in rows if one.seed >= 3]
        noise = measure_noise(mine, "plain", DICE, 0.005)
        exceeded.append(abs(np.mean([one.dice for one in mine]) - np.mean([one.dice for one in others])) > noise.floor)
    assert 0 < np.mean(exceeded) < 0.13


def test_reference_split_by_seeds_differs_by_nothing():
    noise = measure_noise(drawn_cases({"plain": 0.0}, folds=3, seeds=4, run_sd=0.001), "plain", DICE, 0.005)
    assert noise.split.word == "equivalent"
    assert noise.split.run_pairs == 6
    assert "as it must be" in noise.sentence
    assert 0.0003 < noise.seed_sd < 0.003


def test_one_seed_has_no_noise_floor():
    noise = measure_noise(drawn_cases({"plain": 0.0}, folds=3, seeds=1), "plain", DICE, 0.005)
    assert (noise.floor, noise.split) == (None, None)
    assert "not known" in noise.sentence


def test_a_floor_from_few_runs_is_called_a_bound_that_more_seeds_bring_down():
    few = measure_noise(drawn_cases({"plain": 0.0}, folds=1, seeds=2), "plain", DICE, 0.005)
    assert few.freedom == 1
    assert few.floor > 5 * few.largest
    assert "hardly known from so few runs" in few.sentence
    assert "more seeds would bring that bound down" in few.sentence
    many = measure_noise(drawn_cases({"plain": 0.0}, folds=3, seeds=4), "plain", DICE, 0.005)
    assert "seeds alone exceed a difference of" in many.sentence
    assert "hardly known" not in many.sentence
