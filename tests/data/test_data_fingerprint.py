from __future__ import annotations

from pathlib import Path

import data_sets
import nibabel as nib
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from se_med.config.data import DataConfig
from se_med.data.fingerprint import Fingerprint, take_fingerprint
from se_med.data.layouts import find_dataset
from se_med.errors import DataError


def take(root: Path, **data: object) -> Fingerprint:
    return take_fingerprint(find_dataset(DataConfig(root=root, **data)))


def problems(root: Path, **data: object) -> list[str]:
    with pytest.raises(DataError) as error:
        take(root, **data)
    return error.value.message.splitlines()


def oriented(voxels: np.ndarray, spacing: tuple[float, float, float], codes: str) -> tuple[np.ndarray, np.ndarray]:
    """Store a volume given in RAS order in another orientation."""
    ras = nib.Nifti1Image(voxels, np.diag([*spacing, 1.0]))
    change = nib.orientations.ornt_transform(nib.io_orientation(ras.affine), nib.orientations.axcodes2ornt(codes))
    turned = ras.as_reoriented(change)
    return np.asarray(turned.dataobj), turned.affine


@pytest.mark.parametrize("codes", ["RAS", "LPS", "PIR", "ASL", "SAR"])
def test_facts_are_along_the_ras_axes_whatever_the_storage(tmp_path, codes):
    label = np.zeros((6, 8, 10), np.uint8)
    label[1:3, 4, 5:8] = 1
    label[5, 0, 9] = 3
    for folder, voxels in (("images", data_sets.image((6, 8, 10))), ("labels", label)):
        data_sets.save(tmp_path / folder / "a.nii.gz", *oriented(voxels, (1.0, 2.0, 4.0), codes))
    case = take(tmp_path).cases[0]
    assert case.shape == (6, 8, 10)
    assert case.spacing == pytest.approx((1, 2, 4))
    assert case.voxels == {0: 473, 1: 6, 3: 1}
    assert case.centroids[1] == pytest.approx((1.5, 8, 24))
    assert case.centroids[3] == pytest.approx((5, 0, 36))


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.integers(0, 10**6), st.sampled_from([1, 3, 300, 70_000]))
def test_counts_and_centres_match_a_plain_computation(tmp_path, seed, top):
    rng = np.random.default_rng(seed)
    label = rng.choice([0, 1, top], size=(4, 5, 6), p=[0.6, 0.3, 0.1]).astype(np.int32)
    label[0, 0, 0] = 1
    data_sets.save(tmp_path / "images/a.nii", data_sets.image(label.shape))
    data_sets.save(tmp_path / "labels/a.nii", label)
    case = take(tmp_path).cases[0]
    for value in {1, top}.intersection(label.ravel()):
        assert case.voxels[value] == (label == value).sum()
        assert case.centroids[value] == pytest.approx(np.argwhere(label == value).mean(axis=0))


def test_foreground_intensities_per_channel(tmp_path):
    label = data_sets.label((20, 20, 20), (1, 2))
    channels = np.zeros((20, 20, 20, 2), np.float32)
    channels[:2, :, :, 0] = np.linspace(0, 1000, 800).reshape(2, 20, 20)
    channels[:2, :, :, 1] = 7
    channels[2:] = -5000  # background must not count
    data_sets.save(tmp_path / "images/a.nii", channels)
    data_sets.save(tmp_path / "labels/a.nii", label)
    found = take(tmp_path)
    ramp, constant = found.foreground
    assert found.channels == 2
    assert (ramp.low, ramp.high) == pytest.approx((5, 995), abs=0.1)
    assert (ramp.mean, ramp.std) == pytest.approx((500, 1000 / np.sqrt(12)), rel=0.01)
    assert (constant.low, constant.high, constant.mean, constant.std) == pytest.approx((7, 7, 7, 0))


def test_a_label_without_background(tmp_path):
    voxels = np.full((4, 4, 4), 9, np.float32)
    voxels[0, 0, :2] = 8, 10
    data_sets.save(tmp_path / "images/a.nii", voxels)
    data_sets.save(tmp_path / "labels/a.nii", np.full((4, 4, 4), 2, np.uint8))
    found = take(tmp_path)
    assert found.cases[0].voxels == {0: 0, 2: 64}
    assert found.foreground[0].mean == 9


def test_large_cases_do_not_outweigh_small_ones(tmp_path):
    for name, edge, intensity in (("small", 20, 0.0), ("large", 60, 100.0)):
        voxels = np.full((edge,) * 3, intensity, np.float32)
        voxels[0, 0, :2] = intensity - 1, intensity + 1
        data_sets.save(tmp_path / f"images/{name}.nii", voxels)
        data_sets.save(tmp_path / f"labels/{name}.nii", np.ones((edge,) * 3, np.uint8))
    assert take(tmp_path).foreground[0].mean == pytest.approx(50, abs=0.1)


def test_undeclared_labels_are_named_after_their_values(tmp_path):
    data_sets.make_folders(tmp_path)
    data_sets.save(tmp_path / "labels/a.nii.gz", data_sets.label(values=(4, 2)))
    assert take(tmp_path).labels == {"label_1": 1, "label_2": 2, "label_4": 4}


def test_workers_and_progress(tmp_path):
    dataset = find_dataset(DataConfig(root=data_sets.make_folders(tmp_path, tuple("abcdef"))))
    steps = []
    found = take_fingerprint(dataset, progress=lambda done, total: steps.append((done, total)), workers=3)
    again = take_fingerprint(dataset, workers=1)
    assert steps == [(number, 6) for number in range(1, 7)]
    assert [case.name for case in found.cases] == list("abcdef")
    assert found.foreground == again.foreground
    assert np.array_equal(found.shapes, again.shapes)


def test_every_bad_file_is_listed_on_a_line(tmp_path):
    root = data_sets.make_folders(tmp_path, ("ok1", "ok2", "nan", "shape", "cut", "value", "affine", "channels", "twice"))
    voxels = data_sets.image()
    voxels[1, 2, 3] = np.nan
    data_sets.save(root / "images/nan.nii.gz", voxels)
    data_sets.save(root / "labels/shape.nii.gz", data_sets.label((6, 7, 9)))
    path = root / "images/cut.nii.gz"
    path.write_bytes(path.read_bytes()[:-40])
    data_sets.save(root / "labels/value.nii.gz", data_sets.label(values=(1, 5)))
    data_sets.save(root / "labels/affine.nii.gz", data_sets.label(), np.diag([1.0, 1.0, 2.0, 1.0]))
    data_sets.save(root / "images/channels.nii.gz", data_sets.image((6, 7, 8, 2)))
    data_sets.save(root / "images/twice.nii.gz", voxels)
    data_sets.save(root / "labels/twice.nii.gz", data_sets.label(values=(9,)))
    head, *lines = problems(root, labels={"organ": 1})
    assert head == f"{root}: 8 problems"
    found = [line.strip() for line in lines]
    expected = [
        "affine.nii.gz",
        "channels",
        "cut.nii.gz",
        "nan.nii.gz",
        "shape.nii.gz",
        "twice.nii.gz",
        "twice.nii.gz",
        "value.nii.gz",
    ]
    assert [word for word, line in zip(expected, found, strict=True) if word not in line] == []
    assert "'channels': 2 channels, most cases have 1" in found[1]
    assert "undeclared label values 5 (56 voxels); declared are [1]" in found[7]


def test_an_image_in_place_of_a_label(tmp_path):
    data_sets.make_folders(tmp_path)
    data_sets.save(tmp_path / "labels/a.nii.gz", np.arange(336).reshape(6, 7, 8).astype(np.int16))
    assert "335 different values; is it an image?" in problems(tmp_path)[0]


def test_a_constant_image_stops_training(tmp_path):
    data_sets.make_folders(tmp_path)
    data_sets.save(tmp_path / "images/b.nii.gz", np.full((6, 7, 8), 3, np.int16))
    assert "b.nii.gz: every voxel is 3; nothing can be learned from it" in problems(tmp_path)[0]


def test_equal_pixels_have_one_digest_whatever_their_file(tmp_path):
    voxels = data_sets.image().round()
    for name, stored, affine in (
        ("a", voxels, None),
        ("b", voxels.astype(np.int16), np.diag([2.0, 2, 2, 1])),
        ("c", voxels + 1, None),
    ):
        data_sets.save(tmp_path / f"images/{name}.nii.gz", stored, affine)
        data_sets.save(tmp_path / f"labels/{name}.nii.gz", data_sets.label(), affine)
    first, second, third = (case.digest for case in take(tmp_path).cases)
    assert first == second != third


def test_only_empty_labels(tmp_path):
    data_sets.make_folders(tmp_path, ("a",))
    data_sets.save(tmp_path / "labels/a.nii.gz", data_sets.label(values=()))
    assert "every label is empty" in problems(tmp_path)[0]


def test_declared_channels_must_be_those_of_the_images(tmp_path):
    data_sets.make_msd(tmp_path, modality={"0": "T1", "1": "T2"})
    assert "2 channels are declared (T1, T2), the images have 1" in problems(tmp_path)[0]


def test_an_empty_case_among_others_is_no_error(tmp_path):
    data_sets.make_folders(tmp_path)
    data_sets.save(tmp_path / "labels/b.nii.gz", data_sets.label(values=()))
    assert take(tmp_path).cases[1].centroids == {}


def test_hippocampus():
    found = take(data_sets.real_data("hippocampus"))
    assert np.median(found.shapes, axis=0).tolist() == [35, 50, 36]
    assert np.allclose(found.spacings, 1)
    assert found.labels == {"Anterior": 1, "Posterior": 2}
    assert all(case.centroids[1][1] > case.centroids[2][1] for case in found.cases)
