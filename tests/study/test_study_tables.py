"""Tables on disk read as they were written, and damage is told."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from se_med.errors import RunError, UsageError
from se_med.study.tables import ArmRow, CaseRow, RunRow, Tables, pair_cases, read_rows, read_tables, write_rows, write_tables

NUMBERS = st.none() | st.floats(allow_nan=False, allow_infinity=False)
TEXT = st.text(st.characters(codec="utf-8", exclude_categories=["Cs", "Cc"]), min_size=1, max_size=20)
ROWS = st.builds(
    CaseRow,
    arm=TEXT,
    fold=st.integers(0, 9),
    seed=st.integers(0, 2**40),
    case=TEXT,
    structure=TEXT,
    reference_digest=st.just("ab"),
    status=st.sampled_from(["present", "missed", "spurious", "absent"]),
    dice=NUMBERS,
    hd95=NUMBERS,
    nsd=NUMBERS,
    volume_error_ml=st.floats(-1e9, 1e9),
    prediction_ml=st.floats(0, 1e9),
    reference_ml=st.floats(0, 1e9),
)
RUN = RunRow(
    "plain", 0, 1, "abc", "../runs/abc", "finished", steps=3, seconds=0.1, matched=False, unmatched_reason="other, batches"
)


def case(arm="plain", fold=0, seed=0, name="a", structure="ball", digest="d", dice=0.5) -> CaseRow:
    return CaseRow(arm, fold, seed, name, structure, digest, "present", dice, 1.0, 0.9, 0.1, 1.1, 1.0)


@given(st.lists(ROWS, max_size=4))
def test_rows_read_as_they_were_written(tmp_path_factory, rows):
    path = tmp_path_factory.mktemp("rows") / "cases.csv"
    write_rows(path, CaseRow, rows)
    assert read_rows(path, CaseRow) == rows


def test_tables_read_as_they_were_written(tmp_path):
    arms = (ArmRow("plain", True), ArmRow("cse", False, differences={"attention.encoder.block": [None, "cse"]}, note="x"))
    tables = Tables(arms, (RUN, RunRow("cse", 0, 1, "k", "f", "failed", "it, diverged", 2)), (case(), case("cse")))
    write_tables(tmp_path, tables)
    assert read_tables(tmp_path) == tables
    assert tables.reference == "plain"


@pytest.mark.parametrize(("before", "after"), [("0.5", "half"), ("present", "there"), ("dice", "dise"), ("plain,0", "plain,x")])
def test_damage_is_told(tmp_path, before, after):
    write_tables(tmp_path, Tables((ArmRow("plain", True),), (RUN,), (case(),)))
    path = tmp_path / "cases.csv"
    path.write_text(path.read_text().replace(before, after))
    with pytest.raises(RunError, match=r"cases.csv:\d"):
        read_tables(tmp_path)


def test_folder_that_is_no_study_is_told(tmp_path):
    with pytest.raises(UsageError, match=r"arms.json is missing"):
        read_tables(tmp_path)


def test_cases_pair_by_fold_seed_case_structure_and_reference():
    plain = [case(name=name, dice=0.5) for name in "abc"] + [case(name="a", seed=1)]
    cse = [
        case("cse", name="a", dice=0.7),
        case("cse", name="b", digest="e"),
        case("cse", name="d"),
        case("cse", name="a", fold=1),
    ]
    pairs, alone = pair_cases([*plain, *cse, case("other")], "cse", "plain")
    assert [(pair.arm.dice, pair.reference.dice) for pair in pairs] == [(0.7, 0.5)]
    assert alone == [*plain[1:], *cse[1:]]
