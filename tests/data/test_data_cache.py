"""The cache of prepared cases: what is in it, when it is used again, and what it survives."""

import os
import pickle
import shutil
import threading
import time
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from mmap import mmap
from multiprocessing import get_context

import nibabel as nib
import numpy as np
import pytest
from nibabel.orientations import apply_orientation
from prepared_samples import blobs, plan_of, prepared_cases, write_case, write_cases

from se_med.data.cache import predict_disk, prepare_cases
from se_med.data.cache_folder import default_cache
from se_med.data.case import Case
from se_med.data.checks.reading import pixel_digest
from se_med.data.entry import FOREGROUND_VOXELS, case_size
from se_med.data.memory import Allowance
from se_med.data.plan import Normalisation
from se_med.data.preparation import Preparation
from se_med.errors import DataError, RunError
from se_med.io.nifti import read_image, read_label


def stamps(folder):
    """The times of all files of the entries, but for the one whose time is that of the last use."""
    return {path.relative_to(folder): path.stat().st_mtime_ns for path in folder.glob("*/*") if path.suffix in (".npy", ".json")}


def entries(folder):
    return [path for path in folder.iterdir() if not path.name.startswith(".")]


def test_the_arrays_are_those_of_the_preparation(tmp_path):
    plan = plan_of(spacing=(1.0, 1.3, 0.9))
    (found,) = prepared_cases(tmp_path, plan, [(18, 20, 12)])
    preparation = Preparation(plan)
    prepared = preparation.forward(read_image(found.case.images[0]))
    label = preparation.forward_label(read_label(found.case.label), prepared)
    assert isinstance(found.image.base, mmap)
    assert not found.image.flags.writeable
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
    assert len(before) == 8
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


def test_what_a_killed_process_left_half_written_goes_when_cases_are_prepared(tmp_path):
    cases = write_cases(tmp_path / "raw", [(9, 8, 7)])
    (first,) = prepare_cases(cases, plan_of(), tmp_path / "cache")
    left = tmp_path / "cache" / f".{first.folder.name}.1.0123456789abcdef.tmp"
    left.mkdir()
    (left / "image.npy").write_bytes(b"half")
    os.utime(left, (time.time() - 1e6,) * 2)
    prepare_cases(cases, plan_of(), tmp_path / "cache")
    assert not left.exists()
    names = sorted(path.name for path in first.folder.iterdir())
    assert names == ["case.json", "foreground.npy", "image.npy", "label.npy", "used"]


def test_an_interrupted_preparation_goes_on_where_it_was(tmp_path):
    cases = write_cases(tmp_path / "raw", [(9, 8, 7)] * 4)

    def interrupt(done, total):
        if done == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        prepare_cases(cases, plan_of(), tmp_path / "cache", interrupt, workers=1)
    before = stamps(tmp_path / "cache")
    assert len(before) >= 8
    prepare_cases(cases, plan_of(), tmp_path / "cache")
    after = stamps(tmp_path / "cache")
    assert len(after) == 16
    assert {path: after[path] for path in before} == before


def test_copies_are_known_by_their_pixels_whatever_their_files_are(tmp_path):
    image, label = blobs((9, 8, 7), 0)
    cases = [
        write_case(tmp_path, "a", np.abs(image).round(), label),
        write_case(tmp_path, "b", np.abs(image).round().astype(np.int16), np.zeros_like(label)),
        write_case(tmp_path, "c", np.abs(image).round() + 1, label),
    ]
    a, b, c = (case.manifest.pixels for case in prepare_cases(cases, plan_of(), tmp_path / "cache"))
    assert a == b != c
    assert a == pixel_digest(read_image(cases[0].images[0]).array)


def test_the_size_on_disk_is_told_before(tmp_path):
    plan = plan_of(spacing=(0.7, 1.3, 0.9))
    cases = write_cases(tmp_path / "raw", [(19, 18, 17), (20, 8, 8)])
    predicted = predict_disk(cases, plan)
    prepared = prepare_cases(cases, plan, tmp_path / "cache")
    assert predicted == sum(case.image.nbytes + case.label.nbytes for case in prepared)
    assert case_size(cases[0], plan).peak > prepared[0].image.nbytes + 19 * 18 * 17 * 4


def test_the_voxels_of_a_pair_are_part_of_the_key(tmp_path):
    image, label = blobs((9, 8, 7), 0)
    case = write_case(tmp_path, "a", image, label)
    paired = Case("a", (tmp_path / "a.hdr",), case.label)
    nib.save(nib.Nifti1Pair(image, np.eye(4)), tmp_path / "a.hdr")
    (first,) = prepare_cases([paired], plan_of(), tmp_path / "cache")
    nib.save(nib.Nifti1Pair(image + 9 * label, np.eye(4)), tmp_path / "a.hdr")
    (second,) = prepare_cases([paired], plan_of(), tmp_path / "cache")
    assert first.digest != second.digest
    assert len(first.manifest.sources) == 3


def test_2d_images_are_sized_without_being_decoded(tmp_path):
    from PIL import Image

    Image.fromarray(np.zeros((20, 30, 3), np.uint8)).save(tmp_path / "photo.png")
    case = Case("photo", (tmp_path / "photo.png",), None)
    assert case_size(case, plan_of()).prepared == 20 * 30 * (3 * 4 + 1)
    (tmp_path / "photo.png").write_bytes(b"no image")
    assert case_size(case, plan_of()).prepared == 0


def test_a_disk_that_is_too_small_is_told_before_anything_is_written(tmp_path, monkeypatch):
    cases = write_cases(tmp_path / "raw", [(30, 30, 30)] * 3)
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr("shutil.disk_usage", lambda path: usage._replace(free=200_000))
    with pytest.raises(RunError, match=r"cache: preparing 3 cases takes 0\.0 GB, .* has 0\.0 GB left; set data\.cache"):
        prepare_cases(cases, plan_of(), tmp_path / "cache")
    assert not entries(tmp_path / "cache")
    prepare_cases(cases[:1], plan_of(), tmp_path / "cache")
    # One is there already, and the other is small enough.
    assert len(prepare_cases(cases[:2], plan_of(), tmp_path / "cache")) == 2


def test_what_does_not_fit_into_memory_together_is_prepared_one_after_the_other():
    allowance, busy, most = Allowance(100), [0], [0]
    guard = threading.Lock()

    def work(size):
        with allowance.take(size):
            with guard:
                busy[0] += size
                most[0] = max(most[0], busy[0])
            time.sleep(0.01)
            with guard:
                busy[0] -= size
        return size

    with ThreadPoolExecutor(6) as pool:
        assert sum(pool.map(work, [60, 60, 30, 30, 30, 100, 10])) == 320
    assert 60 < most[0] <= 100
    with ThreadPoolExecutor(2) as pool:  # too large for any limit: alone
        assert list(pool.map(work, [500, 500])) == [500, 500]
    assert most[0] == 500


def test_a_memory_limit_changes_nothing_but_the_pace(tmp_path):
    cases = write_cases(tmp_path / "raw", [(20, 20, 20)] * 4)
    free = prepare_cases(cases, plan_of(), tmp_path / "free")
    tight = prepare_cases(cases, plan_of(), tmp_path / "tight", max_memory=1e-6)
    assert [np.array_equal(a.image, b.image) for a, b in zip(free, tight, strict=True)] == [True] * 4


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
    assert len(entries(tmp_path / "cache")) == 6
    assert not list((tmp_path / "cache").glob("*.tmp"))


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
