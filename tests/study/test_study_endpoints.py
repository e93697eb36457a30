"""Pairing: what is compared with what, and what counts where a structure is absent."""

from __future__ import annotations

import pytest
from study_tables import row

from se_med.study.endpoints import METRICS, paired_scores, paired_seeds, run_means

DICE, HD95, NSD, VOLUME = (METRICS[name] for name in ("dice", "hd95", "nsd", "volume_error_ml"))


def test_mean_over_structures_of_each_case_paired_by_fold_seed_and_case():
    rows = [
        row("plain", 0, 0, "a", "ball", dice=0.8),
        row("plain", 0, 0, "a", "box", dice=0.6),
        row("cse", 0, 0, "a", "box", dice=0.9),
        row("cse", 0, 0, "a", "ball", dice=0.7),
        row("plain", 2, 1, "b", "ball", dice=0.5),
        row("cse", 2, 1, "b", "ball", dice=0.6),
    ]
    paired = paired_scores(rows, "cse", "plain", DICE, None)
    assert [(fold.fold, fold.seeds, fold.cases) for fold in paired.folds] == [(0, (0,), ("a",)), (2, (1,), ("b",))]
    assert [float(fold.difference[0, 0]) for fold in paired.folds] == pytest.approx([0.1, 0.1])
    assert paired.run_pairs == 2
    box = paired_scores(rows, "cse", "plain", DICE, "box")
    assert box.differences[0] == pytest.approx(0.3)


def test_runs_and_cases_without_partner_are_left_out_and_counted():
    rows = [
        *(row(arm, 0, seed, case) for arm in ("plain", "cse") for seed in (0, 1) for case in "ab"),
        row("plain", 0, 2, "a"),
        row("cse", 1, 0, "c", digest="old"),
        row("plain", 1, 0, "c", digest="new"),
    ]
    rows.remove(row("cse", 0, 1, "b"))
    paired = paired_scores(rows, "cse", "plain", DICE, None)
    assert [(fold.seeds, fold.cases) for fold in paired.folds] == [((0, 1), ("a",))]
    assert paired.unpaired == 4


def test_false_alarm_counts_against_the_arm_that_gives_it():
    rows = [
        row("plain", structure="ball", dice=0.8),
        row("plain", structure="box", status="absent"),
        row("cse", structure="ball", dice=0.8),
        row("cse", structure="box", status="spurious", dice=0.0, hd95=40.0, nsd=0.0),
    ]
    assert paired_scores(rows, "cse", "plain", DICE, None).differences[0] == pytest.approx(-0.5)
    assert paired_scores(rows, "cse", "plain", HD95, "box").differences[0] == pytest.approx(40)


def test_structure_absent_everywhere_enters_no_mean():
    rows = [row(arm, structure=name, dice=0.8) for arm in ("plain", "cse") for name in ("ball",)]
    rows += [row(arm, structure="box", status="absent") for arm in ("plain", "cse")]
    paired = paired_scores(rows, "cse", "plain", DICE, None)
    assert paired.folds[0].arm == pytest.approx(0.8)
    assert paired_scores(rows, "cse", "plain", DICE, "box").folds == ()


def test_scores_that_were_not_computed_give_no_pairs():
    rows = [row(arm, hd95=None, nsd=None) for arm in ("plain", "cse")]
    assert paired_scores(rows, "cse", "plain", NSD, None).folds == ()
    assert paired_scores(rows, "cse", "plain", DICE, None).folds


def test_volume_error_is_absolute():
    rows = [row("plain", volume_error_ml=-0.3), row("cse", volume_error_ml=0.1)]
    assert paired_scores(rows, "cse", "plain", VOLUME, None).differences[0] == pytest.approx(-0.2)


def test_seeds_are_paired_first_half_against_second():
    rows = [row("plain", 0, seed, "a", dice=0.8 + seed / 100) for seed in (0, 1, 2, 3, 4)]
    paired = paired_seeds(rows, "plain", DICE)
    assert paired is not None
    assert paired.folds[0].difference.ravel() == pytest.approx([-0.02, -0.02])
    assert paired_seeds(rows[:1], "plain", DICE) is None


def test_run_means():
    rows = [
        row("plain", 1, seed, case, dice=value)
        for seed, case, value in ((0, "a", 0.5), (0, "b", 0.7), (3, "a", 0.4), (3, "b", 0.4))
    ]
    assert run_means(rows, "plain", DICE) == {1: {0: pytest.approx(0.6), 3: pytest.approx(0.4)}}
