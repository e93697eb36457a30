"""Data sets of 2D images: found, read, planned, prepared, streamed and restored like volumes of one slice."""

from __future__ import annotations

import shutil
from pathlib import Path

import data_sets
import numpy as np
import pytest
import torch
from flat_data import picture, write_pictures
from prepared_samples import augmentation, no_augmentation, plan_of, slice_plan

from se_med.config.data import DataConfig
from se_med.config.experiment import Config
from se_med.data.cache import prepare_cases
from se_med.data.fingerprint import take_fingerprint
from se_med.data.folds import select_fold
from se_med.data.layouts import find_dataset
from se_med.data.plan import Plan
from se_med.data.planning import make_plan, resolve
from se_med.data.preparation import Preparation
from se_med.data.stream import PatchStream
from se_med.errors import ConfigError, DataError, ImageError, UsageError
from se_med.io.images import read_image, read_label


def plan_for(root: Path, **parts: dict[str, object]) -> tuple[Config, Plan]:
    config = data_sets.config(data={"root": root} | parts.pop("data", {}), **parts)
    dataset = find_dataset(config.data)
    plan = make_plan(config, dataset, take_fingerprint(dataset, workers=1))
    return resolve(config, plan), plan


def names(root: Path, **data: object) -> list[str]:
    return [case.name for case in find_dataset(DataConfig(root=root, **data)).cases]


def test_2d_images_make_a_2d_network_by_themselves(tmp_path):
    config, plan = plan_for(write_pictures(tmp_path))
    assert (plan.spatial_dims, plan.slice_axis, plan.flat) == (2, 2, True)
    assert (plan.spacing, plan.median_shape) == ((1, 1, 1), (44, 36, 1))
    assert (plan.channels, plan.labels) == (("R", "G", "B"), {"disc": 1, "bar": 2})
    assert len(plan.patch) == len(plan.stem) == 2
    assert plan.reasons["spatial_dims"] == "the cases are 2D images"
    assert (config.network.spatial_dims, config.data.slice_axis) == (2, 2)
    again = make_plan(config, find_dataset(config.data), take_fingerprint(find_dataset(config.data), workers=1))
    assert again.model_dump(exclude={"reasons"}) == plan.model_dump(exclude={"reasons"})


def test_volumes_stay_3d_where_nothing_is_said(tmp_path):
    data_sets.save(tmp_path / "images/a.nii", data_sets.image((24, 24, 24)))
    data_sets.save(tmp_path / "labels/a.nii", data_sets.label((24, 24, 24)))
    config, plan = plan_for(tmp_path)
    assert (plan.spatial_dims, plan.flat, config.network.spatial_dims) == (3, False, 3)


@pytest.mark.parametrize(
    ("parts", "words"),
    [
        ({"network": {"spatial_dims": 3}}, r"network\.spatial_dims: the cases are 2D images, which need a 2D network"),
        ({"network": {"stem": (1, 1, 1)}}, r"network: stem: \[1, 1, 1\] has 3 values, a 2D network needs 2"),
        ({"data": {"slice_axis": 0}}, r"data\.slice_axis: 0 is for slices of volumes"),
        ({"data": {"empty_slices": 0.2}}, r"data\.empty_slices: 0\.2 is for slices of volumes"),
        ({"training": {"patch": (16, 16, 16)}}, r"training\.patch: .* a 2D network needs 2"),
    ],
)
def test_what_does_not_fit_2d_images_is_refused(tmp_path, parts, words):
    with pytest.raises(UsageError, match=words):
        plan_for(write_pictures(tmp_path), **parts)


def test_settings_of_two_axes_need_no_rank_with_2d_images(tmp_path):
    _, plan = plan_for(write_pictures(tmp_path), network={"strides": ((2, 2),), "stem": (1, 1)})
    assert (plan.spatial_dims, plan.strides) == (2, ((2, 2),))
    with pytest.raises(UsageError, match=r"network: .* a 3D network needs 3"):
        plan_for(data_sets.make_folders(tmp_path / "volumes"), network={"strides": ((2, 2),), "stem": (1, 1)})


def test_images_and_volumes_are_not_one_data_set(tmp_path):
    data_sets.make_folders(write_pictures(tmp_path), ("v",))
    (tmp_path / "dataset.json").unlink()
    with pytest.raises(DataError, match=r"'v'.*(channels|a volume, most cases are 2D images)"):
        plan_for(tmp_path)


def test_a_mask_of_0_and_255_must_be_declared(tmp_path):
    root = write_pictures(tmp_path, scale=255)
    for path in (root / "labels").iterdir():
        path.unlink()
        shutil.copy(root / "images" / path.name, path)
    from PIL import Image

    for seed, path in enumerate(sorted((root / "labels").iterdir())):
        Image.fromarray((picture(seed)[1] == 1).astype(np.uint8) * 255).save(path)
    (root / "dataset.json").write_text('{"labels": {"background": 0, "disc": 1}}')
    with pytest.raises(DataError, match=r"undeclared label values 255 .* a mask of 0 and 255: give 255"):
        plan_for(root)
    _, plan = plan_for(root, data={"labels": {"disc": 255}})
    assert plan.label_values == (0, 255)
    (root / "dataset.json").unlink()
    assert plan_for(root)[1].label_values == (0, 255)


def test_the_whole_way_there_and_back_is_exact(tmp_path):
    root = write_pictures(tmp_path / "set", image=".tif")
    config, plan = plan_for(root)
    dataset = find_dataset(config.data)
    cases = prepare_cases(dataset.cases, plan, tmp_path / "cache", workers=1)
    preparation = Preparation(plan)
    for case in cases:
        image, label = read_image(case.case.images[0]), read_label(case.case.label)
        assert case.image.shape == (3, 44, 36, 1)
        assert np.asarray(case.image).mean(axis=(1, 2, 3)) == pytest.approx([0, 0, 0], abs=1e-5)
        prepared = preparation.forward(image)
        np.testing.assert_array_equal(prepared.array, case.image)
        onehot = torch.nn.functional.one_hot(torch.from_numpy(np.array(case.label)).long(), plan.num_classes)
        np.testing.assert_array_equal(preparation.restore(onehot.movedim(-1, 0).float(), prepared), label.array)


def test_the_stream_gives_patches_of_images(tmp_path):
    config, plan = plan_for(write_pictures(tmp_path / "set"), training={"patch": (16, 24)}, network={"stem": (1, 1)})
    cases = prepare_cases(find_dataset(config.data).cases, plan, tmp_path / "cache", workers=1)
    stream = PatchStream(cases, plan, augmentation(flip={"axes": plan.flip_axes}), 1.0, 0)
    for index in range(8):
        sample = stream[index]
        assert sample["image"].shape == (3, 16, 24)
        assert sample["label"].shape == (1, 16, 24)
        assert sample["label"].any()


@pytest.mark.parametrize(
    ("plan", "words"),
    [
        (plan_of(), "a 2D image; the network takes volumes"),
        (slice_plan(spacing=(0.5, 0.5, 3.0)), r"has no spacing, .* slices of volumes of 0\.5x0\.5x3 mm"),
    ],
)
def test_a_model_of_volumes_refuses_2d_images(tmp_path, plan, words):
    write_pictures(tmp_path, ("a",))
    with pytest.raises(ImageError, match=rf"a\.png: .*{words}"):
        Preparation(plan).forward(read_image(tmp_path / "images/a.png"))


def test_description_may_list_2d_images(tmp_path):
    root = write_pictures(tmp_path, ("a", "b"), image=".jpg", label=".tif")
    data_sets.describe(root, training=[{"image": f"./images/{name}.jpg", "label": f"labels/{name}.tif"} for name in "ab"])
    found = find_dataset(DataConfig(root=root))
    assert (found.layout, [case.name for case in found.cases]) == ("msd", ["a", "b"])


def test_patterns_name_files_of_any_folder(tmp_path):
    root = write_pictures(tmp_path, ("p1_left", "p2_left"), image=".jpg")
    flat = tmp_path / "flat"
    flat.mkdir()
    for name in ("p1_left", "p2_left"):
        shutil.copy(root / "images" / f"{name}.jpg", flat / f"{name}.jpg")
        for observer in (1, 2):
            shutil.copy(root / "labels" / f"{name}.png", flat / f"{name}_observer{observer}.png")
    data = {"image_files": "flat/*.jpg", "label_files": "flat/*_observer2.png", "group": "^p."}
    found = find_dataset(DataConfig(root=tmp_path, **data))
    assert [(case.name, case.label.name, case.group) for case in found.cases] == [
        ("p1_left", "p1_left_observer2.png", "p1"),
        ("p2_left", "p2_left_observer2.png", "p2"),
    ]
    # Images and labels of one kind in one folder: what matches the label pattern is no image.
    for path in flat.glob("*.jpg"):
        path.unlink()
    for path in list(flat.glob("*_observer1.png")):
        path.rename(flat / path.name.replace("_observer1", ""))
    assert names(tmp_path, image_files="flat/*.png", label_files="flat/*_observer2.png") == ["p1_left", "p2_left"]


def test_a_folder_may_be_the_name(tmp_path):
    for name in ("one", "two"):
        data_sets.save(tmp_path / name / "image.nii.gz", data_sets.image())
        data_sets.save(tmp_path / name / "mask.nii.gz", data_sets.label())
    assert names(tmp_path, image_files="*/image.nii.gz", label_files="*/mask.nii.gz") == ["one", "two"]


def test_patterns_that_find_nothing_or_do_not_pair_say_so(tmp_path):
    root = write_pictures(tmp_path, ("a", "b"))
    with pytest.raises(DataError, match=r"no file matches data\.label_files 'masks/\*\.png'"):
        names(root, image_files="images/*.png", label_files="masks/*.png")
    (root / "labels/b.png").unlink()
    with pytest.raises(DataError, match=r"images/b\.png: image without a label in labels/\*\.png"):
        names(root, image_files="images/*.png", label_files="labels/*.png")
    (root / "images/a.bmp").write_bytes(b"BM")
    with pytest.raises(DataError, match=r"images/a\.bmp: not an image"):
        names(root, image_files="images/*.bmp", label_files="labels/*.png")


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"image_files": "*.png"}, "goes together with label_files"),
        ({"image_files": "a.png", "label_files": "*.png"}, r"must hold `\*`"),
        ({"image_files": "*/*a*.png", "label_files": "*.png"}, r"at most once in each part of the path"),
        ({"image_files": "a[12]*.png", "label_files": "*.png"}, "no other wildcard"),
        ({"image_files": "../*.png", "label_files": "*.png"}, "must be below root"),
        ({"image_files": "/*.png", "label_files": "*.png"}, "must be below root"),
        ({"image_files": "*.png", "label_files": "*.png"}, "is the pattern of the labels too"),
        ({"image_files": "*.jpg", "label_files": "*.png", "layout": "msd"}, "layout msd finds its files itself"),
        ({"empty_slices": 1.5}, "less than or equal to 1"),
    ],
)
def test_patterns_that_cannot_be_are_refused(changes, words):
    with pytest.raises((ConfigError, ValueError), match=words):
        DataConfig(root=Path(), **changes)


def test_real_photographs_are_split_by_child(real_data):
    data = DataConfig(root=real_data / "chase_db1", group=r"chase_(\d+)")
    dataset = find_dataset(data)
    assert len(dataset.cases) == 22
    fold = select_fold(dataset, data)
    children = [{name[:8] for name in part} for part in (fold.train, fold.validation)]
    assert not children[0] & children[1]
    assert len(children[0] | children[1]) == 11


def sliced(tmp_path, **changes):
    """A stream of slices of one volume of 12 slices, of which four show a structure."""
    from prepared_samples import write_case

    label = np.zeros((20, 18, 12), np.uint8)
    label[5:9, 5:9, 3:7] = 1
    image = np.broadcast_to(np.arange(12, dtype=np.float32), label.shape).copy()
    case = write_case(tmp_path, "one", image, label)
    plan = slice_plan(patch=(20, 18))
    cases = prepare_cases([case], plan, tmp_path / "cache", workers=1)
    return PatchStream(cases, plan, no_augmentation(), seed=5, **changes), cases[0]


def drawn_slices(stream, case, count=300) -> np.ndarray:
    levels = np.asarray(case.image[0, 0, 0])
    return np.array([int(np.argmin(np.abs(levels - float(stream[index]["image"][0, 0, 0])))) for index in range(count)])


@pytest.mark.parametrize("share", [0.0, 0.25, 1.0])
def test_the_share_of_empty_slices_is_what_was_asked_for(tmp_path, share):
    stream, case = sliced(tmp_path, foreground=0.0, empty_slices=share)
    found = drawn_slices(stream, case)
    empty = ~np.isin(found, range(3, 7))
    assert empty.mean() == pytest.approx(share, abs=0 if share in (0, 1) else 0.08)
    kinds = ({3, 4, 5, 6} if share < 1 else set()) | ({*range(3), *range(7, 12)} if share > 0 else set())
    assert set(found.tolist()) == kinds  # every slice of a kind is reached


def test_slices_come_as_they_are_where_no_share_is_given(tmp_path):
    stream, case = sliced(tmp_path, foreground=0.0)
    assert (~np.isin(drawn_slices(stream, case), range(3, 7))).mean() == pytest.approx(8 / 12, abs=0.08)


def test_foreground_patches_do_not_depend_on_the_share_of_empty_slices(tmp_path):
    whole, case = sliced(tmp_path, foreground=0.5)
    thinned, _ = sliced(tmp_path, foreground=0.5, empty_slices=0.0)
    before, after = drawn_slices(whole, case, 200), drawn_slices(thinned, case, 200)
    changed = before != after
    assert 0.2 < changed.mean() < 0.6
    assert np.isin(after, range(3, 7)).all()
    assert np.isin(before[~changed], range(3, 7)).all()
    np.testing.assert_array_equal(after, drawn_slices(sliced(tmp_path, foreground=0.5, empty_slices=0.0)[0], case, 200))


def test_a_case_without_slices_of_a_kind_gives_the_other(tmp_path):
    from prepared_samples import write_case

    plan, cases = slice_plan(patch=(8, 8), labels={"a": 1}), []
    for name, value in (("full", 1), ("none", 0)):
        label = np.full((8, 8, 4), value, np.uint8)
        cases.append(write_case(tmp_path, name, np.random.default_rng(0).normal(size=label.shape).astype(np.float32), label))
    prepared = prepare_cases(cases, plan, tmp_path / "cache", workers=1)
    for share in (0.0, 1.0):
        stream = PatchStream(prepared, plan, no_augmentation(), 0.0, 0, share)
        assert {stream[index]["case"] for index in range(4)} == {"full", "none"}


def test_a_3d_stream_has_no_empty_slices(tmp_path):
    _, case = sliced(tmp_path, foreground=0.0)
    with pytest.raises(ValueError, match="3D plan takes no slices"):
        PatchStream([case], plan_of(), no_augmentation(), 0.5, 0, 0.5)


def test_empty_slices_need_a_2d_network():
    with pytest.raises(UsageError, match=r"data\.empty_slices: a 3D network takes no slices"):
        make_plan(data_sets.config(data={"empty_slices": 0.1}), data_sets.dataset(), data_sets.fingerprint())
