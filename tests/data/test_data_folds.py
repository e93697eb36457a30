from __future__ import annotations

import json
import random
from pathlib import Path

import data_sets
import pytest
from hypothesis import given
from hypothesis import strategies as st

from se_med.config.data import DataConfig
from se_med.data.folds import Fold, make_folds, read_split, select_fold, write_split
from se_med.data.layouts import find_dataset
from se_med.errors import DataError, UsageError

FROZEN = Path(__file__).parents[2] / "configs" / "hippocampus-split.json"
NAMES = tuple(f"case{number:02d}" for number in range(23))


@given(st.integers(2, 8), st.integers(0, 5), st.randoms(use_true_random=False))
def test_every_case_is_held_out_once_whatever_the_order(folds, seed, shuffler: random.Random):
    cases = list(data_sets.cases(*NAMES))
    made = make_folds(cases, folds, seed)
    shuffler.shuffle(cases)
    assert make_folds(cases, folds, seed) == made
    assert sorted(name for fold in made for name in fold.validation) == sorted(NAMES)
    for fold in made:
        assert sorted(fold.train + fold.validation) == sorted(NAMES)
    sizes = [len(fold.validation) for fold in made]
    assert max(sizes) - min(sizes) <= 1


def test_the_seed_decides():
    cases = data_sets.cases(*NAMES)
    assert make_folds(cases, 5, 0) != make_folds(cases, 5, 1)


@given(st.lists(st.integers(0, 6), min_size=10, max_size=40).filter(lambda groups: len(set(groups)) >= 3))
def test_groups_stay_together(groups):
    names = [f"c{number:02d}" for number in range(len(groups))]
    group_of = {name: f"g{group}" for name, group in zip(names, groups, strict=True)}
    for fold in make_folds(data_sets.cases(*names, groups=group_of), 3, 0):
        assert fold.validation
        assert not {group_of[name] for name in fold.train} & {group_of[name] for name in fold.validation}


def test_too_few_cases_or_groups():
    with pytest.raises(UsageError, match="5 folds need at least 5 cases, there are 3"):
        make_folds(data_sets.cases("a", "b", "c"), 5, 0)
    with pytest.raises(UsageError, match="3 folds need at least 3 groups, there are 2"):
        make_folds(data_sets.cases("a", "b", "c", groups={"a": "x", "b": "x", "c": "y"}), 3, 0)


def test_written_folds_are_read_again(tmp_path):
    folds = make_folds(data_sets.cases(*NAMES, 'quote"d', "ümlaut"), 4, 0)
    write_split(tmp_path / "split.json", folds)
    assert read_split(tmp_path / "split.json") == folds


def test_the_key_of_nnunet_is_read(tmp_path):
    path = tmp_path / "splits_final.json"
    path.write_text(json.dumps([{"train": ["a", "b"], "val": ["c"]}]))
    assert read_split(path) == (Fold(("a", "b"), ("c",)),)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ([{"train": ["a", "a"], "validation": ["b"]}], "fold 0: case 'a' occurs 2 times in train"),
        ([{"train": ["a"], "val": ["b"]}, {"train": ["a", "b"], "val": ["b"]}], "fold 1: case 'b' is in train and in validation"),
        ([{"train": ["a"]}], "fold 0: must be"),
        ([{"train": [], "validation": ["b"]}], "fold 0: must be"),
        ([{"train": [1], "validation": ["b"]}], "fold 0: must be"),
        (["a"], "fold 0: must be"),
        ({"train": ["a"]}, "must be a list"),
        ([], "must be a list"),
    ],
)
def test_a_wrong_split_names_fold_and_case(tmp_path, content, message):
    path = tmp_path / "split.json"
    path.write_text(json.dumps(content))
    with pytest.raises(DataError) as error:
        read_split(path)
    assert str(path) in error.value.message
    assert message in error.value.message


def test_a_split_that_is_missing_or_no_json(tmp_path):
    with pytest.raises(UsageError, match="does not exist"):
        read_split(tmp_path / "none.json")
    (tmp_path / "bad.json").write_text("[")
    with pytest.raises(DataError, match="not readable as JSON"):
        read_split(tmp_path / "bad.json")


def test_select_makes_the_fold_asked_for():
    dataset = data_sets.dataset(*NAMES)
    data = DataConfig(folds=3, fold=2, fold_seed=7, stratify=False)
    assert select_fold(dataset, data) == make_folds(dataset.cases, 3, 7)[2]


def test_select_reads_a_split_that_leaves_cases_out(tmp_path):
    write_split(tmp_path / "split.json", [Fold(("a",), ("b",)), Fold(("b",), ("a",))])
    data = DataConfig(split=tmp_path / "split.json", fold=1)
    assert select_fold(data_sets.dataset("a", "b", "c"), data) == Fold(("b",), ("a",))


def test_select_refuses_unknown_names_leaks_and_missing_folds(tmp_path):
    path = tmp_path / "split.json"
    write_split(path, [Fold(("a", "x"), ("b", "y"))])
    with pytest.raises(DataError, match=r"(?s)no case is named 'x'.*no case is named 'y'"):
        select_fold(data_sets.dataset("a", "b"), DataConfig(split=path))
    with pytest.raises(UsageError, match="has 1 folds, there is no fold 3"):
        select_fold(data_sets.dataset("a", "b"), DataConfig(split=path, fold=3))
    write_split(path, [Fold(("p1_a",), ("p1_b", "p2_a"))])
    grouped = data_sets.dataset("p1_a", "p1_b", "p2_a", groups={"p1_a": "p1", "p1_b": "p1", "p2_a": "p2"})
    with pytest.raises(DataError, match="'p1_b' is held out, 'p1_a' of the same group 'p1' is trained on"):
        select_fold(grouped, DataConfig(split=path))


def test_the_frozen_hippocampus_folds_are_those_of_seed_0():
    folds = read_split(FROZEN)
    names = [name for fold in folds for name in fold.validation]
    assert len(names) == 208
    assert names != sorted(names)
    assert make_folds(data_sets.cases(*names), 5, 0) == folds


def test_the_frozen_hippocampus_folds_fit_the_data():
    data = DataConfig(root=data_sets.real_data("hippocampus"), split=FROZEN, fold=4)
    fold = select_fold(find_dataset(data), data)
    assert (len(fold.train), len(fold.validation)) == (167, 41)


def test_selection_is_taken_from_the_training_cases_by_whole_groups():
    groups = {f"p{patient}_{scan}": f"p{patient}" for patient in range(10) for scan in range(2)}
    dataset = data_sets.dataset(*groups, groups=groups)
    plain = select_fold(dataset, DataConfig(stratify=False))
    fold = select_fold(dataset, DataConfig(selection=0.25, stratify=False))
    assert fold.validation == plain.validation
    assert sorted((*fold.train, *fold.selection)) == sorted(plain.train)
    assert len(fold.selection) == 4
    assert {groups[name] for name in fold.selection}.isdisjoint(groups[name] for name in fold.train)
    assert fold == select_fold(dataset, DataConfig(selection=0.25, stratify=False))
    drawn = {select_fold(dataset, DataConfig(selection=0.25, fold_seed=seed, stratify=False)).selection for seed in range(5)}
    assert len(drawn) > 1


def test_selection_that_leaves_nothing_to_train_on_is_refused():
    groups = {"a1": "a", "a2": "a", "b1": "b"}
    with pytest.raises(UsageError, match=r"data\.selection: 0\.1 .* leaves none to train on"):
        select_fold(data_sets.dataset(*groups, groups=groups), DataConfig(folds=2, selection=0.1, stratify=False))


def test_selection_of_a_split_file_is_read_written_and_checked(tmp_path):
    path = tmp_path / "split.json"
    fold = Fold(("a",), ("b",), ("c",))
    write_split(path, [fold, Fold(("a",), ("b",))])
    assert read_split(path) == (fold, Fold(("a",), ("b",)))
    dataset = data_sets.dataset("a", "b", "c")
    assert select_fold(dataset, DataConfig(split=path)) == fold
    with pytest.raises(UsageError, match="has a selection of its own"):
        select_fold(dataset, DataConfig(split=path, selection=0.5))
    assert select_fold(data_sets.dataset("a", "b", "c"), DataConfig(split=path, fold=1)).selection == ()
    for wrong, message in (
        (Fold(("a",), ("b",), ("b",)), "'b' is in validation and in selection"),
        (Fold(("a",), ("b",), ("a",)), "'a' is in train and in selection"),
        (Fold(("a",), ("b",), ("x",)), "no case is named 'x'"),
    ):
        write_split(path, [wrong])
        with pytest.raises(DataError, match=message):
            select_fold(dataset, DataConfig(split=path))
    grouped = data_sets.dataset("p1_a", "p1_b", "p2_a", groups={"p1_a": "p1", "p1_b": "p1", "p2_a": "p2"})
    write_split(path, [Fold(("p1_a",), ("p2_a",), ("p1_b",))])
    with pytest.raises(DataError, match="'p1_b' is for selection, 'p1_a' of the same group 'p1' is trained on"):
        select_fold(grouped, DataConfig(split=path))
