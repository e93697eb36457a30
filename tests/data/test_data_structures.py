"""From label values to classes and scores: merged values, regions, background values; and back."""

import data_sets
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from prepared_samples import blobs, no_augmentation, plan_of, slice_plan, volume, write_case

from se_med.config.data import DataConfig
from se_med.data.cache import prepare_cases
from se_med.data.class_weights import choose_class_weights
from se_med.data.fingerprint import take_fingerprint
from se_med.data.layouts import find_dataset
from se_med.data.planning import make_plan, resolve
from se_med.data.preparation import IGNORED, Preparation
from se_med.data.stream import PatchStream
from se_med.data.structures import label_record, mask_of, regions_of, structures_of, without
from se_med.errors import DataError, ImageError, UsageError

BRATS = {"whole": [1, 2, 3], "core": [1, 3], "enhancing": 3}


@st.composite
def any_regions(draw):
    """Regions over some values, each with a value of its own, so that there is one to write."""
    count = draw(st.integers(1, 5))
    shared = st.lists(st.integers(1, 8), unique=True, max_size=8)
    return {f"r{number}": [*draw(shared), 10 + number] for number in range(count)}


@given(any_regions())
def test_classes_of_regions_part_their_values(regions):
    structures = regions_of(regions)
    values = [value for group in structures.classes for value in group]
    assert sorted(values) == sorted({value for entry in regions.values() for value in entry})
    rows = {tuple(row) for row in structures.membership}
    assert len(rows) == len(structures.classes) + 1  # no two classes are in the same regions, none but the background in none
    for group, row in zip(structures.classes, structures.membership[1:], strict=True):
        for value in group:
            assert [value in regions[name] for name in structures.values] == row.tolist()
    assert all(set(values) == set(regions[name]) for name, values in structures.values.items())


def test_classes_are_those_of_the_labels():
    assert regions_of(BRATS).classes == structures_of({"a": 1, "b": 2, "c": 3}).classes
    assert structures_of({"tumour": [4, 3], "liver": 1}).classes == ((4, 3), (1,))
    assert structures_of({"tumour": [4, 3], "liver": 1}).labels == {"tumour": 4, "liver": 1}
    # What is in the same regions is one class, named by the value that is written.
    assert regions_of({"whole": [2, 5, 1, 3], "core": 3}, {"whole": 5, "core": 3}).classes == ((3,), (5, 1, 2))


def test_masks():
    labels = np.arange(6, dtype=np.uint8)
    assert mask_of(labels, 3).tolist() == [False] * 3 + [True] + [False] * 2
    assert np.flatnonzero(mask_of(labels, (1, 4))).tolist() == [1, 4]
    assert without(labels, [4, 5, 0]).tolist() == [0, 1, 2, 3, 0, 0]
    assert without(labels, [9]) is labels


def test_record_has_what_scoring_needs():
    assert label_record(structures_of({"a": 1, "b": 2})) == {"labels": {"a": 1, "b": 2}}
    assert label_record(structures_of({"a": [2, 1]}), [7]) == {"labels": {"a": [2, 1]}, "background_values": [7]}


def write_values(root, *planes, **description):
    """One case whose label has one value per plane of the first axis, each plane 56 voxels."""
    data_sets.make_msd(root, ("a",), **description)
    label, image = data_sets.label(values=planes), data_sets.image()
    data_sets.save(root / "imagesTr/a.nii.gz", image)
    data_sets.save(root / "labelsTr/a.nii.gz", label)
    return root


def test_merged_values_are_counted_as_one_structure(tmp_path):
    write_values(tmp_path, 1, 3, 4, 7)
    data = DataConfig(root=tmp_path, labels={"liver": 1, "tumour": [4, 3]}, background_values=[7])
    dataset = find_dataset(data)
    assert dataset.labels == {"liver": 1, "tumour": 4}
    (case,) = take_fingerprint(dataset).cases
    assert case.voxels == {0: 3 * 56, 1: 56, 4: 2 * 56}
    assert case.centroids[4] == pytest.approx((1.5, 3.0, 3.5))
    assert set(case.centroids) == {1, 4}


def test_undeclared_values_are_refused_with_file_and_counts(tmp_path):
    write_values(tmp_path, 1, 3, 4, 7)
    dataset = find_dataset(DataConfig(root=tmp_path, labels={"tumour": [1, 3]}, background_values=[7]))
    with pytest.raises(DataError, match=r"a\.nii\.gz: undeclared label values 4 \(56 voxels\)"):
        take_fingerprint(dataset)


def test_background_values_are_no_structures_of_the_data_set(tmp_path):
    write_values(tmp_path, 1, 2, labels={"0": "background", "1": "liver", "2": "vein"})
    assert find_dataset(DataConfig(root=tmp_path, background_values=[2])).labels == {"liver": 1}
    (tmp_path / "dataset.json").unlink()
    assert take_fingerprint(find_dataset(DataConfig(root=tmp_path, background_values=[2]))).labels == {"label_1": 1}


def test_regions_are_counted_whole(tmp_path):
    write_values(tmp_path, 1, 2, 3, 3)
    fingerprint = take_fingerprint(find_dataset(DataConfig(root=tmp_path, regions=BRATS)))
    assert fingerprint.labels == {"whole": 2, "core": 1, "enhancing": 3}
    (case,) = fingerprint.cases
    assert case.voxels == {0: 2 * 56, 2: 4 * 56, 1: 3 * 56, 3: 2 * 56}
    assert case.centroids[1][0] == pytest.approx((0 + 2 + 3) / 3)


NNUNET = {"background": 0, "whole tumor": [1, 2, 3], "tumor core": [2, 3], "enhancing": 3}


def test_regions_of_nnunet_are_read(tmp_path):
    write_values(tmp_path, 1, 2, 3, labels=NNUNET, regions_class_order=[1, 2, 3])
    dataset = find_dataset(DataConfig(root=tmp_path))
    assert dataset.regions
    assert list(dataset.labels.items()) == [("whole tumor", 1), ("tumor core", 2), ("enhancing", 3)]
    config = data_sets.config(training={"patch": [8, 8, 8]}, network={"strides": [[2, 2, 2]]})
    plan = make_plan(config, dataset, take_fingerprint(dataset))
    assert (plan.num_classes, plan.label_values, plan.regions) == (3, (0, 1, 2, 3), True)
    data = resolve(config, plan).data
    assert data.labels is None
    again = find_dataset(DataConfig(root=tmp_path, regions=data.regions, region_values=data.region_values))
    assert (again.labels, again.values) == (dataset.labels, dataset.values)


def test_regions_of_nnunet_in_another_order(tmp_path):
    kits = {"background": 0, "kidney": [1, 2, 3], "masses": [2, 3], "tumor": 2}
    write_values(tmp_path, 1, 2, 3, labels=kits, regions_class_order=[1, 3, 2])
    assert find_dataset(DataConfig(root=tmp_path)).labels == {"kidney": 1, "masses": 3, "tumor": 2}
    write_values(tmp_path, 1, 2, 3, labels=kits)
    assert find_dataset(DataConfig(root=tmp_path)).labels == {"kidney": 1, "masses": 3, "tumor": 2}


@pytest.mark.parametrize(
    ("description", "line"),
    [
        ({"labels": NNUNET, "regions_class_order": [1, 2]}, r"regions_class_order: \[1, 2\] must give one value for each region"),
        ({"labels": NNUNET, "regions_class_order": [1, 1, 3]}, "regions_class_order: 1 is no value of tumor core"),
        ({"labels": NNUNET, "regions_class_order": [True, 2, 3]}, "regions_class_order: .* must give one value"),
        ({"labels": NNUNET | {"ignore": 4}}, "4 is 'ignore' .* set data.ignore_label: 4"),
        ({"labels": NNUNET | {"bad": [0, 1]}}, "bad: .* has the background"),
        ({"labels": NNUNET | {"bad": ["x"]}}, "neither a label value nor a list"),
        ({"labels": NNUNET | {"bad": []}}, "neither a label value nor a list"),
        ({"labels": NNUNET | {"core": [2, 3]}}, "tumor core and core are the same values"),
        ({"labels": {"background": [0]}}, "no structure beside the background"),
    ],
)
def test_regions_of_nnunet_that_cannot_be(tmp_path, description, line):
    write_values(tmp_path, 1, **description)
    with pytest.raises(DataError, match=line) as caught:
        find_dataset(DataConfig(root=tmp_path))
    assert len(str(caught.value).splitlines()) == 1


def test_ignored_value_of_nnunet_is_no_region(tmp_path):
    write_values(tmp_path, 1, labels=NNUNET | {"ignore": 4}, regions_class_order=[1, 2, 3])
    assert "ignore" not in find_dataset(DataConfig(root=tmp_path, ignore_label=4)).labels


def region_plan(regions=BRATS, **changes):
    structures = regions_of(regions)
    return plan_of(labels=structures.labels, values=structures.values, regions=True, **changes)


def test_prepared_label_of_merged_and_background_values():
    plan = plan_of(labels={"a": 9, "b": 2}, values={"a": (9, 4), "b": (2,)}, background_values=(5,), ignore_label=7)
    values = np.array([0, 2, 4, 5, 7, 9], np.uint8).reshape(6, 1, 1).repeat(4, 1).repeat(4, 2)
    preparation = Preparation(plan)
    prepared = preparation.forward(volume(np.random.default_rng(0).random(values.shape), np.eye(4)))
    found = preparation.forward_label(volume(values, np.eye(4)), prepared)
    assert found[:, 0, 0].tolist() == [0, 2, 1, 0, IGNORED, 1]
    values[0, 0, 0] = 3
    with pytest.raises(ImageError, match=r"undeclared label values 3 \(1 voxels\)"):
        preparation.forward_label(volume(values, np.eye(4)), prepared)


def test_prepared_label_of_regions_is_that_of_the_values():
    plan = region_plan()
    assert (plan.num_classes, plan.label_values) == (3, (0, 1, 2, 3))
    values = np.random.default_rng(0).integers(0, 4, (6, 5, 4)).astype(np.uint8)
    preparation = Preparation(plan)
    prepared = preparation.forward(volume(np.ones(values.shape), np.eye(4)))
    assert np.array_equal(preparation.forward_label(volume(values, np.eye(4)), prepared), values)


def test_keys_of_the_cache(tmp_path):
    image, label = blobs((18, 20, 12), 0)
    case = write_case(tmp_path, "a", image, label)
    (plain,) = prepare_cases([case], plan_of(), tmp_path / "cache")
    (same,) = prepare_cases([case], plan_of(values={"front": (1,), "back": (4,)}), tmp_path / "cache")
    (merged,) = prepare_cases([case], plan_of(labels={"both": 1}, values={"both": (1, 4)}), tmp_path / "cache")
    (unmerged,) = prepare_cases([case], plan_of(labels={"both": 1}, background_values=(4,)), tmp_path / "cache")
    regions = regions_of({"all": [1, 4], "back": 4})
    plan = plan_of(labels=regions.labels, values=regions.values, regions=True)
    (region,) = prepare_cases([case], plan, tmp_path / "cache")
    assert len({plain.digest, merged.digest, unmerged.digest}) == 3
    # The arrays of regions are those of their values, so cache and batches are shared with a run on labels.
    assert plain.digest == same.digest == region.digest
    assert np.array_equal(merged.label, np.where(plain.label > 0, 1, 0))
    assert np.array_equal(unmerged.label, np.where(plain.label == 1, 1, 0))


def test_slices_of_any_region_are_not_empty(tmp_path):
    image, label = blobs((12, 16, 12), 0)
    label[:, :, :6] = 0
    case = write_case(tmp_path, "a", image, np.where(label > 0, 3, 0).astype(np.uint8))
    structures = regions_of({"whole": [1, 3], "core": [3]})
    plan = slice_plan(labels=structures.labels, values=structures.values, regions=True)
    stream = PatchStream(prepare_cases([case], plan, tmp_path / "cache"), plan, no_augmentation(), 0.0, 0, empty_slices=0.0)
    for number in range(10):
        assert set(np.unique(stream[number]["label"])) == {0, 2}  # value 3 is the second class; there are two outputs


def test_class_weights_of_regions(tmp_path):
    write_values(tmp_path, 1, 2, 3, 3)
    fingerprint = take_fingerprint(find_dataset(DataConfig(root=tmp_path, regions=BRATS)))
    weights = choose_class_weights("balanced", fingerprint, {}, regions=True)
    assert weights == pytest.approx((3 / 13, 4 / 13, 6 / 13) * np.array(3), rel=1e-5)  # of 1/4, 1/3 and 1/2
    assert choose_class_weights({"core": 2.0}, fingerprint, {}, regions=True) == (1.0, 2.0, 1.0)
    with pytest.raises(UsageError, match="regions have no background that could weigh; there are whole, core, enhancing"):
        choose_class_weights({"background": 2.0}, fingerprint, {}, regions=True)


@settings(max_examples=20, deadline=None)
@given(st.lists(st.integers(1, 9), min_size=1, max_size=6, unique=True), st.integers(1, 3), st.integers(0, 99))
def test_any_merge_maps_each_value_to_its_structure(values, structures, seed):
    groups = [values[number::structures] for number in range(structures) if values[number::structures]]
    labels = {f"s{number}": group for number, group in enumerate(groups)}
    merged = structures_of(labels)
    plan = plan_of(labels=merged.labels, values=merged.values)
    raw = np.random.default_rng(seed).choice([0, *values], (4, 5, 6)).astype(np.uint8)
    preparation = Preparation(plan)
    prepared = preparation.forward(volume(np.ones(raw.shape), np.eye(4)))
    classes = preparation.forward_label(volume(raw, np.eye(4)), prepared)
    written = np.array(plan.label_values)[classes]
    for name, group in labels.items():
        assert np.array_equal(np.isin(raw, group), written == plan.labels[name])
