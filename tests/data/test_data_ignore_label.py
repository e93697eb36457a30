"""Voxels without a reference: known to the checks, no structure, in no statistic, and class index 255 when prepared."""

import data_sets
import numpy as np
import pytest
from prepared_samples import blobs, no_augmentation, plan_of, volume, write_case
from pydantic import ValidationError

from se_med.config.data import DataConfig
from se_med.data.cache import prepare_cases
from se_med.data.fingerprint import take_fingerprint
from se_med.data.layouts import find_dataset
from se_med.data.planning import make_plan
from se_med.data.preparation import IGNORED, Preparation
from se_med.data.stream import PatchStream
from se_med.errors import DataError, ImageError, UsageError


def make_set(root, **description):
    """One case: a plane of structure 1, and two planes of value 9 whose image is far brighter than anything else."""
    data_sets.make_msd(root, ("a",), **description)
    label, image = data_sets.label(values=(1,)), data_sets.image()
    label[4:] = 9
    image[4:] = 5000
    data_sets.save(root / "imagesTr/a.nii.gz", image)
    data_sets.save(root / "labelsTr/a.nii.gz", label)
    return root


def test_ignored_voxels_are_in_no_count_and_no_statistic(tmp_path):
    make_set(tmp_path)
    data = DataConfig(root=tmp_path, ignore_label=9)
    fingerprint = take_fingerprint(find_dataset(data))
    (case,) = fingerprint.cases
    assert case.voxels == {0: 3 * 56, 1: 56}
    assert set(case.centroids) == {1}
    assert fingerprint.labels == {"liver": 1}
    assert fingerprint.foreground[0].high < 200


def test_without_the_setting_the_value_is_undeclared(tmp_path):
    make_set(tmp_path)
    with pytest.raises(DataError, match=r"undeclared label values 9 \(112 voxels\)"):
        take_fingerprint(find_dataset(DataConfig(root=tmp_path)))


def test_value_is_no_structure_where_labels_are_found_or_declared(tmp_path):
    make_set(tmp_path, labels={"background": 0, "liver": 1, "ignore": 9})
    with pytest.raises(DataError, match=r"9 is 'ignore' .* set data.ignore_label: 9"):
        find_dataset(DataConfig(root=tmp_path))
    assert find_dataset(DataConfig(root=tmp_path, ignore_label=9)).labels == {"liver": 1}
    (tmp_path / "dataset.json").unlink()
    assert take_fingerprint(find_dataset(DataConfig(root=tmp_path, ignore_label=9))).labels == {"label_1": 1}


def test_plan_has_the_value(tmp_path):
    dataset = find_dataset(DataConfig(root=make_set(tmp_path), ignore_label=9))
    config = data_sets.config(data={"ignore_label": 9}, training={"patch": [8, 8, 8]}, network={"strides": [[2, 2, 2]]})
    plan = make_plan(config, dataset, take_fingerprint(dataset))
    assert plan.ignore_label == 9
    assert plan.num_classes == 2


@pytest.mark.parametrize("spacing", [(1.0, 1.0, 1.0), (0.7, 1.3, 0.9)])
def test_prepared_label_has_255_where_the_nearest_voxel_is_ignored(spacing):
    image, label = blobs((12, 11, 9), 0)
    marked = label.copy()
    marked[:5, 2:9] = 99
    changed = Preparation(plan_of(spacing=spacing, ignore_label=99))
    plain = Preparation(plan_of(spacing=spacing))
    prepared = plain.forward(volume(image, np.eye(4)))
    found = changed.forward_label(volume(marked, np.eye(4)), prepared)
    without = plain.forward_label(volume(label, np.eye(4)), prepared)
    ignored = plain.forward_label(volume(np.where(marked == 99, 4, 0).astype(np.uint8), np.eye(4)), prepared) == 2
    assert np.array_equal(found, np.where(ignored, IGNORED, without))
    assert set(np.unique(found)) == {0, 1, 2, IGNORED}
    with pytest.raises(ImageError, match="undeclared label values 99"):
        plain.forward_label(volume(marked, np.eye(4)), prepared)


def test_ignored_voxels_are_never_chosen_and_reach_the_stream(tmp_path):
    image, label = blobs((18, 20, 12), 0)
    label[:9] = 99
    case = write_case(tmp_path, "a", image, label)
    plan = plan_of(ignore_label=99, labels={"front": 1, "back": 4})
    (prepared,) = prepare_cases([case], plan, tmp_path / "cache")
    assert set(prepared.foreground) == {1, 2}
    assert min(voxels[:, 0].min() for voxels in prepared.foreground.values()) >= 9
    stream = PatchStream([prepared], plan, no_augmentation(), 1.0, 0)
    seen = set().union(*(set(np.unique(stream[number]["label"])) for number in range(8)))
    assert seen == {0, 1, 2, IGNORED}
    # Another entry than that of a plan in which the value is a structure.
    (other,) = prepare_cases([case], plan_of(labels={"front": 1, "back": 4, "odd": 99}), tmp_path / "cache")
    assert other.folder != prepared.folder


def test_key_of_the_cache_is_what_it_was_without_the_setting(tmp_path):
    case = write_case(tmp_path, "a", *blobs((18, 20, 12), 0))
    (plain,) = prepare_cases([case], plan_of(), tmp_path / "cache")
    (same,) = prepare_cases([case], plan_of(ignore_label=None), tmp_path / "cache")
    (marked,) = prepare_cases([case], plan_of(ignore_label=99), tmp_path / "cache")
    assert plain.digest == same.digest != marked.digest


def test_one_structure_less_is_possible():
    Preparation(plan_of(labels={str(value): value for value in range(1, 256)}))
    Preparation(plan_of(labels={str(value): value for value in range(1, 255)}, ignore_label=999))
    with pytest.raises(UsageError, match="at most 254"):
        Preparation(plan_of(labels={str(value): value for value in range(1, 256)}, ignore_label=999))


def test_value_of_a_structure_cannot_be_ignored():
    with pytest.raises(ValidationError, match="ignore_label: 2 is the value of structure b"):
        DataConfig(labels={"a": 1, "b": 2}, ignore_label=2)
    with pytest.raises(ValidationError, match="greater than 0"):
        DataConfig(ignore_label=0)
