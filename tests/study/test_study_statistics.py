"""Whole tables in, verdicts out: planted differences are found, planted nulls are not, small studies say so."""

from __future__ import annotations

import json

import pytest
from rich.console import Console
from study_tables import drawn_cases, make_tables, spoilt_cases

from se_med.errors import UsageError
from se_med.study.statistics import compute_statistics
from se_med.study.terminal import verdict_text


def words(tables, margin=0.01):
    return {verdict.arm: verdict.word for verdict in compute_statistics(tables, "mean_dice", margin).verdicts}


def test_eroded_predictions_are_found_and_equal_ones_are_not():
    tables = make_tables(spoilt_cases({"plain": 0.2, "eroded": 0.6, "same": 0.2}))
    statistics = compute_statistics(tables, "mean_dice", 0.01)
    assert words(tables) == {"eroded": "worse", "same": "equivalent"}
    eroded = statistics.verdicts[0]
    assert eroded.high < -0.05
    assert "worse than plain" in eroded.sentence
    volumes = next(entry for entry in statistics.descriptions if (entry.arm, entry.metric) == ("eroded", "volume_error_ml"))
    assert volumes.difference > 0


def test_planted_difference_and_planted_null():
    tables = make_tables(drawn_cases({"plain": 0.0, "cse": 0.012, "sse": 0.0}, folds=3, seeds=3, run_sd=0.001, case_sd=0.004))
    assert words(tables) == {"cse": "better", "sse": "equivalent"}


def test_underpowered_study_says_so():
    few = make_tables(drawn_cases({"plain": 0.0, "cse": 0.05}, folds=1, seeds=3, run_sd=0.001))
    assert words(few) == {"cse": "inconclusive"}
    noisy = make_tables(drawn_cases({"plain": 0.0, "cse": 0.004}, folds=2, seeds=2, cases=6, run_sd=0.006, case_sd=0.02))
    statistics = compute_statistics(noisy, "mean_dice", 0.003)
    assert statistics.verdicts[0].word == "inconclusive"
    assert "would" in statistics.verdicts[0].sentence


def test_less_is_better_for_distances():
    tables = make_tables(drawn_cases({"plain": 0.0, "cse": 0.02}, run_sd=0.001, case_sd=0.004))
    (verdict,) = compute_statistics(tables, "mean_hd95", 0.01).verdicts
    assert (verdict.word, verdict.estimate < 0) == ("better", True)


def test_everything_is_json_and_text():
    rows = drawn_cases({"plain": 0.0, "cse": 0.01, "sse": 0.0}, folds=2, seeds=2)
    rows = [row for row in rows if not (row.arm == "sse" and row.fold == 1)]
    statistics = compute_statistics(make_tables(rows), "mean_dice", 0.005)
    document = json.loads(json.dumps(statistics.to_dict(), allow_nan=False))
    assert [entry["run_pairs"] for entry in document["verdicts"]] == [4, 2]
    assert document["verdicts"][0]["matched"] is True
    console = Console(width=100, record=True, file=None, quiet=False, force_terminal=False)
    with console.capture() as captured:
        console.print(verdict_text(statistics))
    text = captured.get()
    assert "A/A" in text
    assert text.index("A/A") < text.index("inconclusive")
    assert "95 % interval" in text


def test_arm_without_pairs_is_left_out_and_none_at_all_is_an_error():
    rows = drawn_cases({"plain": 0.0, "cse": 0.0}, folds=2, seeds=1)
    alone = [row for row in rows if row.arm == "plain" or row.fold == 9]
    with pytest.raises(UsageError, match="finish the study"):
        compute_statistics(make_tables(alone), "mean_dice", 0.005)
