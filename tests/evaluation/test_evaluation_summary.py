from __future__ import annotations

import csv
import io
import json

import pytest
from rich.console import Console

from se_med.evaluation.metrics import StructureScore
from se_med.evaluation.summary import SCHEMA_VERSION, summarise


def score(case, structure, status="present", dice=None, hd95=None, nsd=None, found=0.0, expected=0.0, spacing=1.0, missing=False):
    return StructureScore(case, structure, status, dice, hd95, nsd, found, expected, spacing, missing)


SCORES = [
    score("a", "liver", dice=0.9, hd95=2.0, nsd=0.8, found=10.0, expected=12.0),
    score("a", "tumour", "absent"),
    score("b", "liver", dice=0.7, hd95=4.0, nsd=0.6, found=11.0, expected=10.0),
    score("b", "tumour", "spurious", 0.0, 100.0, 0.0, 1.0, 0.0),
    score("c", "liver", "missed", 0.0, 300.0, 0.0, 0.0, 9.0, missing=True),
    score("c", "tumour", "missed", 0.0, 300.0, 0.0, 0.0, 2.0, missing=True),
    score("d", "liver", dice=0.8, hd95=6.0, nsd=0.4, found=5.0, expected=5.0),
    score("d", "tumour", dice=0.5, hd95=20.0, nsd=0.3, found=1.0, expected=2.0),
]


def text(renderable, width=160) -> str:
    console = Console(width=width, file=io.StringIO())
    console.print(renderable)
    return console.file.getvalue()


def test_means_hold_misses_and_false_alarms_and_leave_out_only_what_is_absent():
    liver, tumour = summarise(SCORES, tolerance=1.0).structures
    assert liver.dice == pytest.approx((0.9 + 0.7 + 0.0 + 0.8) / 4)
    assert liver.hd95 == pytest.approx((2 + 4 + 300 + 6) / 4)
    assert liver.volume_error_ml == pytest.approx((-2 + 1 - 9 + 0) / 4)
    assert tumour.dice == pytest.approx(0.5 / 3)
    assert tumour.nsd == pytest.approx(0.3 / 3)
    assert (liver.counted, liver.missed, liver.spurious, liver.absent, liver.missing) == (4, 1, 0, 0, 1)
    assert (tumour.counted, tumour.missed, tumour.spurious, tumour.absent, tumour.missing) == (3, 1, 1, 1, 1)


def test_the_mean_over_structures_and_the_mean_over_cases_are_different_things():
    summary = summarise(SCORES, tolerance=1.0)
    assert summary.mean_dice == pytest.approx((2.4 / 4 + 0.5 / 3) / 2)
    assert summary.case_mean_dice == pytest.approx((0.9 + 0.35 + 0.0 + 0.65) / 4)
    assert summary.dice == {"liver": pytest.approx(0.6), "tumour": pytest.approx(0.5 / 3)}
    assert summary.cases == 4


def test_a_structure_that_is_nowhere_has_no_mean_and_takes_no_part_in_any():
    summary = summarise([score("a", "x", "absent"), score("a", "y", dice=0.5, hd95=1.0, nsd=1.0)], tolerance=1.0)
    assert summary.dice == {"x": None, "y": 0.5}
    assert summary.mean_dice == summary.case_mean_dice == 0.5
    empty = summarise([], tolerance=1.0)
    assert empty.mean_dice is empty.case_mean_dice is empty.mean_hd95 is None


def test_a_tolerance_below_the_voxel_size_is_flagged():
    scores = [
        score("a", "x", dice=0.5, hd95=1.0, nsd=0.9, spacing=1.0000001),
        score("b", "x", dice=0.5, hd95=1.0, nsd=0.9, spacing=5.0),
    ]
    summary = summarise(scores, tolerance=1.0)
    assert summary.coarse == ("b",)
    (warning,) = summary.warnings
    assert "1 mm is below the voxel size (up to 5 mm) of 1 of 2 cases" in warning
    assert summarise(scores, tolerance=5.0).warnings == ()
    unscored = [score("b", "x", dice=0.5, spacing=5.0)]
    assert summarise(unscored, tolerance=1.0).warnings == ()


@pytest.mark.parametrize("width", [80, 160])
def test_the_table_shows_means_beside_counts_on_narrow_terminals_too(width):
    lines = text(summarise(SCORES, tolerance=1.5).table(), width).splitlines()
    assert max(map(len, lines)) <= width
    liver = next(line for line in lines if "liver" in line).split()
    assert liver == ["liver", "0.6000", "78.00", "0.4500", "-2.500", "4", "1", "0", "0", "1"]
    mean = next(line for line in lines if "mean" in line).split()
    assert mean == ["mean", "0.3833", "109.00", "0.2750", "-"]
    header = " ".join(lines[:5])
    assert all(name in header for name in ("Dice", "HD95", "1.5 mm", "counted", "missed", "spurious", "absent", "missing"))


def test_the_case_table_names_what_is_odd():
    lines = text(summarise(SCORES, tolerance=1.0).case_table(), 80).splitlines()
    rows = [line.split() for line in lines]
    assert ["a", "tumour", "absent", "-", "-", "-", "-"] in rows
    assert ["b", "tumour", "spurious", "0.0000", "100.00", "0.0000", "+1.000"] in rows
    assert ["c", "liver", "no", "prediction", "0.0000", "300.00", "0.0000", "-9.000"] in rows
    assert ["d", "liver", "0.8000", "6.00", "0.4000", "+0.000"] in rows


def test_csv_and_json_hold_every_score(tmp_path):
    summary = summarise(SCORES, tolerance=1.0)
    summary.write(tmp_path / "cases.csv", tmp_path / "summary.json")
    with (tmp_path / "cases.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == len(SCORES)
    assert rows[0]["dice"] == "0.9"
    assert float(rows[0]["volume_error_ml"]) == -2.0
    assert (rows[1]["status"], rows[1]["dice"], rows[1]["hd95"]) == ("absent", "", "")
    content = json.loads((tmp_path / "summary.json").read_text())
    assert content == json.loads(json.dumps(summary.to_dict()))
    assert content["version"] == SCHEMA_VERSION
    assert content["mean_dice"] == summary.mean_dice
    assert [entry["missed"] for entry in content["structures"]] == [1, 1]
    assert content["scores"][4]["prediction_missing"] is True
    assert "95th" in content["conventions"]["hd95"]
