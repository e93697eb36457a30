"""The report of a study tells what the gates of its arms do."""

import pytest

from se_med.study.report import write_report
from se_med.study.report.gates import watch_arms
from se_med.study.tables import read_tables


@pytest.mark.slow
def test_gates_of_each_arm_are_watched(write_study, run_study):
    folder = run_study(write_study("folds: [0]"), "training.steps=4").folder
    (found,), note = watch_arms(folder, read_tables(folder))
    assert (found.arm, found.fold, found.seed, note) == ("cse", 0, 0, "")
    assert found.cases > 1
    assert [(row["place"], row["block"]) for row in found.rows] == [("encoder 0", "cse"), ("decoder 0", "cse")]
    write_report(folder)
    text = (folder / "report.html").read_text(encoding="utf-8")
    assert "What do the gates do?" in text
    assert found.rows[0]["verdict"] in text
    write_report(folder, pictures=False)
    assert "What do the gates do?" not in (folder / "report.html").read_text(encoding="utf-8")


@pytest.mark.slow
def test_a_study_whose_weights_are_gone_has_its_report(write_study, run_study):
    folder = run_study(write_study("folds: [0]"), "training.steps=4").folder
    for weights in (folder.parent).rglob("model.safetensors"):
        weights.unlink()
    found, note = watch_arms(folder, read_tables(folder))
    assert not found
    assert "not watched" in note
