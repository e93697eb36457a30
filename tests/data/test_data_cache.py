"""The cache of prepared cases: what is in it, when it is used again, and what it survives."""

import os
import pickle
import time
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from multiprocessing import get_context

import numpy as np
import pytest
from nibabel.orientations import apply_orientation
from prepared_samples import blobs, plan_of, prepared_cases, write_case, write_cases

from se_med.data.cache import FOREGROUND_VOXELS, default_cache, prepare_cases
from se_med.data.case import Case
from se_med.data.plan import Normalisation
from se_med.data.preparation import Preparation
from se_med.errors import DataError, RunError
from se_med.io.nifti import read_image, read_label


def stamps(folder):
    return {path.relative_to(folder): path.stat().st_mtime_ns for path in folder.rglob("*") if path.is_file()}


def test_the_arrays_are_those_of_the_preparation(tmp_path):
    plan = plan_of(spacing=(1.0, 1.3, 0.9))
    (found,) = prepared_cases(tmp_path, plan, [(18, 20, 12)])
    preparation = Preparation(plan)
    prepared = preparation.forward(read_image(found.case.images[0]))
    label = preparation.forward_label(read_label(found.case.label), prepared)
    assert isinstance(found.image, np.memmap)
    assert found.image.dtype == np.float32
    assert np.array_equal(found.image, prepared.array)
    assert found.label.dtype == np.uint8
    assert np.array_equal(found.label, label)
    assert np.array_equal(found.prepared.affine, prepared.affine)
    assert np.array_equal(found.prepared.native.affine, prepared.native.affine)
    assert found.prepared.native.shape == (18, 20, 12)
    assert found.manifest.minimum == (float(prepared.array.min()),)
    for index, voxels in found.foreground.items():
        assert (label[tuple(voxels.T)] == index).all()
        assert len(voxels) == (label == index).sum()


def test_foreground_is_a_sample_that_depends_on_the_files_alone(tmp_path):
    label = np.zeros((30, 30, 30), np.uint8)
    label[:, :, 10:] = 4
    case = write_case(tmp_path, "big", blobs(label.shape, 0)[0], label)
    (first,) = prepare_cases([case], plan_of(), tmp_path / "a")
    (second,) = prepare_cases([case], plan_of(patch=(8, 8, 8)), tmp_path / "b")
    assert sorted(first.foreground) == [2]
    voxels = first.foreground[2]
    assert voxels.shape == (FOREGROUND_VOXELS, 3)
    assert len(np.unique(voxels, axis=0)) == FOREGROUND_VOXELS
    assert voxels[:, 2].min() >= 10
    np.testing.assert_allclose(voxels.mean(axis=0), [14.5, 14.5, 19.5], atol=0.5)
    assert np.array_equal(voxels, second.foreground[2])


def test_a_case_without_foreground_is_prepared(tmp_path):
    case = write_case(tmp_path, "empty", blobs((9, 9, 9), 0)[0], np.zeros((9, 9, 9), np.uint8))
    (found,) = prepare_cases([case], plan_of(), tmp_path / "cache")
    assert found.foreground == {}


def test_an_entry_is_used_again_and_progress_is_told(tmp_path):
    cases = write_cases(tmp_path / "raw", [(9, 8, 7), (8, 8, 8)])
    first = prepare_cases(cases, plan_of(), tmp_path / "cache")
    before = stamps(tmp_path / "cache")
    seen = []
    second = prepare_cases(cases, plan_of(features=(8, 16)), tmp_path / "cache", lambda done, total: seen.append((done, total)))
    assert stamps(tmp_path / "cache") == before
    assert [case.digest for case in first] == [case.digest for case in second]
    assert [case.case.name for case in second] == ["case0", "case1"]
    assert seen == [(1, 2), (2, 2)]


@pytest.mark.parametrize(
    "change",
    [
        {"spacing": (1.0, 1.0, 1.1)},
        {"labels": {"back": 4, "front": 1}},
        {"normalisation": (Normalisation(method="ct", clip=(0.0, 9.0), mean=1.0, std=2.0),)},
    ],
)
def test_another_plan_is_another_entry(tmp_path, change):
    cases = write_cases(tmp_path / "raw", [(9, 8, 7)])
    (first,) = prepare_cases(cases, plan_of(), tmp_path / "cache")
    (second,) = prepare_cases(cases, plan_of(**change), tmp_path / "cache")
    assert first.digest != second.digest
    assert first.folder != second.folder
    assert (first.folder / "case.json").is_file()


def test_another_file_under_the_same_name_is_another_entry(tmp_path):
    cases = write_cases(tmp_path / "raw", [(9, 8, 7)])
    (first,) = prepare_cases(cases, plan_of(), tmp_path / "cache")
    image, label = blobs((9, 8, 7), 5)
    write_case(tmp_path / "raw", "case0", image, label)
    (second,) = prepare_cases(cases, plan_of(), tmp_path / "cache")
    assert first.digest != second.digest
    assert not np.array_equal(first.image, second.image)


@pytest.mark.parametrize("name", ["image.npy", "label.npy", "foreground.npy", "case.json"])
@pytest.mark.parametrize("damage", ["truncated", "missing"])
def test_a_damaged_entry_is_made_again(tmp_path, name, damage):
    cases = write_cases(tmp_path / "raw", [(9, 8, 7)])
    (first,) = prepare_cases(cases, plan_of(), tmp_path / "cache")
    whole = {path.name: path.read_bytes() for path in first.folder.iterdir()}
    path = first.folder / name
    if damage == "missing":
        path.unlink()
    else:
        os.truncate(path, path.stat().st_size // 2)
    (second,) = prepare_cases(cases, plan_of(), tmp_path / "cache")
    assert {path.name: path.read_bytes() for path in second.folder.iterdir()} == whole


def test_temporaries_of_a_killed_process_go_when_the_entry_is_made(tmp_path):
    cases = write_cases(tmp_path / "raw", [(9, 8, 7)])
    (first,) = prepare_cases(cases, plan_of(), tmp_path / "cache")
    (first.folder / "case.json").unlink()
    left = first.folder / ".image.npy.1.0123456789abcdef.tmp"
    left.write_bytes(b"half")
    os.utime(left, (time.time() - 1e6,) * 2)
    prepare_cases(cases, plan_of(), tmp_path / "cache")
    assert sorted(path.name for path in first.folder.iterdir()) == ["case.json", "foreground.npy", "image.npy", "label.npy"]


def _prepare(folder):
    cases = [
        Case(f"case{i}", (folder / "raw" / f"case{i}.nii.gz",), folder / "raw" / f"case{i}_label.nii.gz", None) for i in range(6)
    ]
    return [float(case.image.sum(dtype=float)) for case in prepare_cases(cases, plan_of(), folder / "cache")]


@pytest.mark.parametrize(
    "pool",
    [lambda: ThreadPoolExecutor(2), pytest.param(lambda: ProcessPoolExecutor(2, get_context("spawn")), marks=pytest.mark.slow)],
)
def test_two_writers_prepare_the_same_cases(tmp_path, pool):
    write_cases(tmp_path / "raw", [(20, 20, 20)] * 6)
    with pool() as writers:
        first, second = writers.map(_prepare, [tmp_path, tmp_path])
    assert first == second
    assert len(list((tmp_path / "cache").iterdir())) == 6
    assert not list((tmp_path / "cache").rglob("*.tmp"))


def test_a_prepared_case_is_small_to_send(tmp_path):
    (found,) = prepared_cases(tmp_path, plan_of(), [(40, 40, 40)])
    assert found.image.nbytes > 200_000
    sent = pickle.dumps(found)
    assert len(sent) < 5000
    assert np.array_equal(pickle.loads(sent).image, found.image)  # noqa: S301 - made two lines above


def test_another_orientation_on_disk_gives_the_same_arrays(tmp_path):
    image, label = blobs((9, 8, 7), 0)
    flip = np.array([[0, -1], [1, -1], [2, 1]])
    affine = np.diag([-1.0, -1.0, 1.0, 1.0])
    affine[:2, 3] = 8, 7
    cases = [
        write_case(tmp_path, "ras", image, label),
        write_case(tmp_path, "lps", apply_orientation(image, flip), apply_orientation(label, flip), affine),
    ]
    first, second = prepare_cases(cases, plan_of(), tmp_path / "cache")
    assert np.array_equal(first.image, second.image)
    assert np.array_equal(first.label, second.label)


def test_all_bad_cases_are_listed_in_one_error(tmp_path):
    good, short, odd, gone = write_cases(tmp_path, [(9, 8, 7)] * 4)
    image, label = blobs((9, 8, 7), 0)
    write_case(tmp_path, "case1", image, label[:-1])
    label[0, 0, 0] = 9
    write_case(tmp_path, "case2", image, label)
    gone.images[0].unlink()
    bare = Case("bare", good.images, None, None)
    with pytest.raises(DataError) as caught:
        prepare_cases([good, short, odd, gone, bare], plan_of(), tmp_path / "cache")
    first, *lines = str(caught.value).splitlines()
    assert first == "4 cases cannot be prepared:"
    for line, fragment in zip(
        lines,
        [
            "case1_label.nii.gz: label and image differ",
            "case2_label.nii.gz: undeclared label values 9 (1 voxels)",
            "case3.nii.gz: no such file",
            "case 'bare' has no label",
        ],
        strict=True,
    ):
        assert fragment in line
    assert caught.value.exit_code == 3


def test_a_folder_that_cannot_be_written_is_named(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(RunError, match=r"file/cache: cannot make the cache folder.*data\.cache"):
        prepare_cases(write_cases(tmp_path, [(9, 8, 7)]), plan_of(), tmp_path / "file" / "cache")


def test_the_default_folder_follows_the_platform(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert default_cache() == tmp_path / "se-med" / "prepared"
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    assert default_cache() == tmp_path / "home" / ".cache" / "se-med" / "prepared"
