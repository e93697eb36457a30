"""Folds by structure and volume, low-data arms, and what both keep together."""

from __future__ import annotations

import itertools
import random

import data_sets
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from se_med.config.data import DataConfig
from se_med.data.folds import make_folds, select_fold, split_cases
from se_med.errors import UsageError


def random_volumes(names, seed, structures=3):
    """Volumes over three orders of magnitude; the last structures are rare."""
    generator = np.random.default_rng(seed)
    return {
        name: {
            value: float(generator.lognormal(7, 1.5))
            for value in range(1, structures + 1)
            if generator.random() < (1.0, 0.5, 0.15)[value - 1]
        }
        for name in names
    }


@given(number=st.integers(8, 60), folds=st.integers(2, 6), seed=st.integers(0, 50), shuffler=st.randoms(use_true_random=False))
@settings(max_examples=60, deadline=None)
def test_every_case_is_held_out_once_in_equal_parts_whatever_the_order(number, folds, seed, shuffler: random.Random):
    names = [f"c{index:02d}" for index in range(number)]
    volumes, cases = random_volumes(names, seed), list(data_sets.cases(*names))
    made = make_folds(cases, folds, seed, volumes)
    shuffler.shuffle(cases)
    assert make_folds(cases, folds, seed, dict(reversed(volumes.items()))) == made
    assert sorted(name for fold in made for name in fold.validation) == names
    sizes = [len(fold.validation) for fold in made]
    assert max(sizes) - min(sizes) <= 1


@given(number=st.integers(10, 60), folds=st.integers(2, 5), seed=st.integers(0, 50))
@settings(max_examples=60, deadline=None)
def test_a_single_structure_is_spread_as_evenly_as_whole_cases_allow(number, folds, seed):
    names = [f"c{index:02d}" for index in range(number)]
    generator = np.random.default_rng(seed)
    having = {name for name in names if generator.random() < 0.3}
    made = make_folds(data_sets.cases(*names), folds, seed, {name: {1: 5.0} if name in having else {} for name in names})
    counts = [len(having.intersection(fold.validation)) for fold in made]
    assert max(counts) - min(counts) <= 1


def test_folds_are_more_alike_than_shuffled_ones():
    def spread(folds, volumes):
        """How much the folds differ in their mean log volume of the common structure, and in cases with the rare one."""
        means = [np.mean([np.log(volumes[name][1]) for name in fold.validation]) for fold in folds]
        rare = [sum(3 in volumes[name] for name in fold.validation) for fold in folds]
        return np.array([np.ptp(means), np.ptp(rare)])

    names = [f"c{index:02d}" for index in range(60)]
    cases = data_sets.cases(*names)
    dealt, shuffled = np.zeros(2), np.zeros(2)
    for seed in range(20):
        volumes = random_volumes(names, seed)
        dealt += spread(make_folds(cases, 5, seed, volumes), volumes)
        shuffled += spread(make_folds(cases, 5, seed), volumes)
    assert (dealt < 0.5 * shuffled).all()


@given(
    groups=st.lists(st.integers(0, 9), min_size=10, max_size=50).filter(lambda groups: len(set(groups)) >= 4),
    seed=st.integers(0, 20),
)
@settings(max_examples=60, deadline=None)
def test_groups_stay_together_and_no_fold_is_empty(groups, seed):
    names = [f"c{number:02d}" for number in range(len(groups))]
    group_of = {name: f"g{group}" for name, group in zip(names, groups, strict=True)}
    made = make_folds(data_sets.cases(*names, groups=group_of), 4, seed, random_volumes(names, seed))
    assert sorted(name for fold in made for name in fold.validation) == names
    for fold in made:
        assert fold.validation
        assert not {group_of[name] for name in fold.train} & {group_of[name] for name in fold.validation}


def test_equal_groups_of_patients_give_equal_folds():
    groups = {f"p{patient:02d}_{scan}": f"p{patient:02d}" for patient in range(16) for scan in ("ed", "es")}
    made = make_folds(data_sets.cases(*groups, groups=groups), 4, 0, random_volumes(groups, 0))
    assert [len(fold.validation) for fold in made] == [8] * 4


def test_the_seed_decides():
    names = [f"c{index:02d}" for index in range(30)]
    made = {make_folds(data_sets.cases(*names), 5, seed, random_volumes(names, 0)) for seed in range(4)}
    assert len(made) == 4


def many(number: int = 20, groups=None):
    """A data set and its fingerprint: structure 2 is in every fourth case."""
    centre = (5.0, 5.0, 5.0)
    centroids = [{1: centre, 2: centre} if index % 4 == 0 else {1: centre} for index in range(number)]
    found = data_sets.fingerprint(labels={"organ": 1, "tumour": 2}, centroids=centroids)
    return data_sets.dataset(*(case.name for case in found.cases), groups=groups), found


def test_made_folds_are_stratified_by_default_and_files_stay_as_they_are(tmp_path):
    dataset, found = many()
    with_tumour = {case.name for case in found.cases if 2 in case.voxels}
    folds = split_cases(dataset, DataConfig(), found)
    assert [len(with_tumour.intersection(fold.validation)) for fold in folds] == [1] * 5
    assert select_fold(dataset, DataConfig(fold=3), found) == folds[3]
    assert split_cases(dataset, DataConfig(stratify=False), found) == make_folds(dataset.cases, 5, 0)


def test_without_a_fingerprint_the_cases_are_read(tmp_path):
    names = [f"c{index}" for index in range(6)]
    root = data_sets.make_folders(tmp_path, tuple(names))
    for name in names[::3]:
        data_sets.save(root / "labels" / f"{name}.nii.gz", data_sets.label(values=(1, 2)))
    from se_med.data.fingerprint import take_fingerprint
    from se_med.data.layouts import find_dataset

    data = DataConfig(root=root, folds=2)
    dataset = find_dataset(data)
    folds = split_cases(dataset, data)
    assert folds == split_cases(dataset, data, take_fingerprint(dataset))
    assert [len({"c0", "c3"}.intersection(fold.validation)) for fold in folds] == [1, 1]


@pytest.mark.parametrize("grouped", [False, True])
def test_low_data_arms_are_nested_and_keep_what_is_held_out(grouped):
    names = [f"case{number}" for number in range(40)]
    groups = {name: f"g{number // 4}" for number, name in enumerate(names)} if grouped else None
    dataset, found = many(40, groups)
    data = DataConfig(folds=4, selection=0.2)
    whole = select_fold(dataset, data, found)
    counts = [1, 5, 10, 20, len(whole.train)]
    arms = [select_fold(dataset, data.model_copy(update={"train_cases": count}), found) for count in counts]
    for small, large in itertools.pairwise(arms):
        assert set(small.train) < set(large.train)
    assert [len(arm.train) for arm in arms] == counts
    assert {(arm.validation, arm.selection) for arm in arms} == {(whole.validation, whole.selection)}
    assert arms[-1] == whole
    if groups:
        partly = [group for group in set(groups.values()) if 0 < sum(groups[name] == group for name in arms[2].train) < 4]
        assert len(partly) <= 1
    other = data.model_copy(update={"train_cases": 5, "fold_seed": 1})
    assert select_fold(dataset, other, found).train != arms[1].train


def test_more_training_cases_than_there_are_is_refused():
    dataset, found = many(20)
    with pytest.raises(UsageError, match=r"data\.train_cases: 17, but the fold has 16 training cases"):
        select_fold(dataset, DataConfig(train_cases=17), found)
