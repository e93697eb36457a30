from __future__ import annotations

from pathlib import Path

import data_sets
import pytest

from se_med.config.data import DataConfig
from se_med.data.case import Dataset
from se_med.data.layouts import LAYOUTS, find_dataset
from se_med.data.layouts.description import channel_modality
from se_med.errors import DataError, UsageError


def find(root: Path, **settings: object) -> Dataset:
    return find_dataset(DataConfig(root=root, **settings))


def names(dataset: Dataset) -> list[str]:
    return [case.name for case in dataset.cases]


def test_msd_list_gives_cases_labels_and_modality(tmp_path):
    found = find(data_sets.make_msd(tmp_path, ("b", "a")))
    assert (found.layout, names(found), found.labels) == ("msd", ["a", "b"], {"liver": 1})
    assert (found.channels, found.modality) == (("MRI",), "mr")
    assert found.cases[0].images == (tmp_path / "imagesTr/a.nii.gz",)
    assert found.cases[0].label == tmp_path / "labelsTr/a.nii.gz"


def test_msd_list_decides_not_the_files(tmp_path):
    data_sets.make_msd(tmp_path, ("a", "b"))
    data_sets.save(tmp_path / "imagesTr/extra.nii.gz", data_sets.image())
    assert names(find(tmp_path)) == ["a", "b"]


def test_msd_without_description(tmp_path):
    found = find(data_sets.make_folders(tmp_path, images="imagesTr", labels="labelsTr"))
    assert (found.layout, names(found), found.labels, found.channels) == ("msd", ["a", "b", "c"], None, ())
    assert found.modality == "other"


def test_nnunet_description_and_channel_files(tmp_path):
    for name in ("p1", "p2"):
        for channel in ("0000", "0001"):
            data_sets.save(tmp_path / f"imagesTr/{name}_{channel}.nii.gz", data_sets.image())
        data_sets.save(tmp_path / f"labelsTr/{name}.nii.gz", data_sets.label())
    data_sets.describe(tmp_path, channel_names={"0": "CT", "1": "PET"}, labels={"background": 0, "b": 2, "a": 1})
    found = find(tmp_path)
    assert names(found) == ["p1", "p2"]
    assert [path.name for path in found.cases[0].images] == ["p1_0000.nii.gz", "p1_0001.nii.gz"]
    assert list(found.labels or {}) == ["a", "b"]
    assert (found.channels, found.modality) == (("CT", "PET"), "other")


def test_a_name_that_ends_like_a_channel_is_a_case_where_its_label_says_so(tmp_path):
    assert names(find(data_sets.make_folders(tmp_path, ("scan_0001", "scan_0002")))) == ["scan_0001", "scan_0002"]


@pytest.mark.parametrize(("images", "labels", "layout"), [("images", "labels", "folders"), ("imagesTr", "labelsTr", "msd")])
def test_auto_detects(tmp_path, images, labels, layout):
    assert find(data_sets.make_folders(tmp_path, images=images, labels=labels)).layout == layout


def test_a_named_layout_is_read_whatever_auto_would_take(tmp_path):
    data_sets.make_msd(tmp_path, ("a",))
    data_sets.make_folders(tmp_path, ("x", "y"))
    assert names(find(tmp_path)) == ["a"]
    assert names(find(tmp_path, layout="folders")) == ["x", "y"]


def test_the_configuration_knows_every_layout():
    choices = DataConfig.model_fields["layout"].annotation.__args__
    assert set(choices) == {"auto", *LAYOUTS}


def test_hidden_files_are_left_out(tmp_path):
    data_sets.make_folders(tmp_path)
    for folder in ("images", "labels"):
        (tmp_path / folder / "._a.nii.gz").write_bytes(b"macOS")
        (tmp_path / folder / "notes.txt").write_text("")
    assert names(find(tmp_path)) == ["a", "b", "c"]


def test_user_settings_win_over_the_description(tmp_path):
    data_sets.make_msd(tmp_path, labels={"whole": [1, 2]})
    found = find(tmp_path, labels={"tumour": 1}, modality="ct")
    assert (found.labels, found.modality) == ({"tumour": 1}, "ct")


@pytest.mark.parametrize(
    ("pattern", "groups"), [("p[0-9]+", ["p1", "p1", "p2"]), ("p([0-9]+)", ["1", "1", "2"]), (None, [None] * 3)]
)
def test_groups(tmp_path, pattern, groups):
    data_sets.make_folders(tmp_path, ("p1_ed", "p1_es", "p2_ed"))
    assert [case.group for case in find(tmp_path, group=pattern).cases] == groups


def test_group_must_match_every_case(tmp_path):
    data_sets.make_folders(tmp_path, ("p1", "x"))
    with pytest.raises(DataError, match=r"case 'x': data.group 'p\(\.\)' does not match"):
        find(tmp_path, group="p(.)")
    with pytest.raises(DataError, match=r"case 'p1': .* finds no group"):
        find(tmp_path, group="(z*)")


def test_no_root():
    with pytest.raises(UsageError, match=r"data\.root: no data set is named"):
        find_dataset(DataConfig())


def test_missing_root_and_file_as_root(tmp_path):
    with pytest.raises(UsageError, match="does not exist") as missing:
        find(tmp_path / "nowhere")
    assert "nowhere" in missing.value.message
    assert missing.value.exit_code == 2
    with pytest.raises(UsageError, match="is a file"):
        find(data_sets.save(tmp_path / "a.nii", data_sets.image()))


def test_a_folder_without_cases_says_what_was_looked_for(tmp_path):
    with pytest.raises(DataError, match=r"dataset\.json.*imagesTr/.*images/ and labels/"):
        find(tmp_path)
    (tmp_path / "images").mkdir()
    (tmp_path / "labels").mkdir()
    (tmp_path / "labels/a.minc").write_bytes(b"")
    with pytest.raises(DataError, match=r"labels: no images, looked for \.nii\.gz, \.nii, .*\.mha, .*\.png, .*; found \.minc"):
        find(tmp_path)
    data_sets.describe(tmp_path, training=[])
    with pytest.raises(DataError, match="no cases found"):
        find(tmp_path)


def test_files_that_do_not_pair_are_all_listed(tmp_path):
    data_sets.make_folders(tmp_path, ("a", "b", "c", "d"))
    (tmp_path / "images/a.nii.gz").unlink()
    (tmp_path / "labels/b.nii.gz").unlink()
    data_sets.save(tmp_path / "images/d.nii", data_sets.image())
    with pytest.raises(DataError) as error:
        find(tmp_path)
    lines = error.value.message.splitlines()
    assert "3 problems" in lines[0]
    assert sorted(line.strip() for line in lines[1:]) == [
        "images/b.nii.gz: image without a label in labels",
        "images: d.nii and d.nii.gz have the same name; keep one",
        "labels/a.nii.gz: label without an image in images",
    ]


def test_missing_channel(tmp_path):
    for name, channels in (("a", "01"), ("b", "01"), ("c", "1"), ("d", "012")):
        for channel in channels:
            data_sets.save(tmp_path / f"images/{name}_000{channel}.nii", data_sets.image())
        data_sets.save(tmp_path / f"labels/{name}.nii", data_sets.label())
    with pytest.raises(DataError, match=r"(?s)c: has channels \[1\], most cases have \[0, 1\].*d: has channels \[0, 1, 2\]"):
        find(tmp_path)


@pytest.mark.parametrize(
    "path", ["../secret.nii.gz", "/etc/secret.nii.gz", "imagesTr/../../secret.nii.gz", "", 3, None, "a\0.nii"]
)
def test_description_paths_stay_inside(tmp_path, path):
    data_sets.save(tmp_path / "secret.nii.gz", data_sets.image())
    root = data_sets.make_msd(tmp_path / "set")
    data_sets.describe(root, training=[{"image": path, "label": "labelsTr/a.nii.gz"}])
    with pytest.raises(DataError, match=r"leaves the folder|is not a path"):
        find(root)


def test_description_problems_are_all_listed(tmp_path):
    data_sets.make_msd(tmp_path)
    good = {"image": "imagesTr/a.nii.gz", "label": "labelsTr/a.nii.gz"}
    bad = [
        {"image": "imagesTr/a.nii.gz"},
        "text",
        {"image": [], "label": "labelsTr/a.nii.gz"},
        {"image": "dataset.json", "label": "labelsTr/a.nii.gz"},
        {"image": "imagesTr/gone.nii.gz", "label": "labelsTr/a.nii.gz"},
    ]
    data_sets.describe(tmp_path, training=[good, *bad, good])
    with pytest.raises(DataError) as error:
        find(tmp_path)
    lines = error.value.message.splitlines()
    assert "6 problems" in lines[0]
    assert [line.split(":")[0].strip() for line in lines[1:]] == [f"training entry {number}" for number in range(2, 8)]
    assert "gone.nii.gz does not exist" in lines[5]
    assert "second case named 'a'" in lines[6]


def test_description_with_a_list_of_channels(tmp_path):
    data_sets.make_folders(tmp_path, ("a_0000", "a_0001"), "imagesTr", "labelsTr")
    entry = {"image": ["imagesTr/a_0000.nii.gz", "imagesTr/a_0001.nii.gz"], "label": "labelsTr/a_0000.nii.gz"}
    data_sets.describe(tmp_path, training=[entry])
    case = find(tmp_path).cases[0]
    assert (case.name, len(case.images)) == ("a", 2)


@pytest.mark.parametrize(
    "labels",
    [
        [1, 2],
        {},
        {"background": 0},
        {"a": 1, "b": 1},
        {"1": "a", "2": "a"},
        {"a": [1, "2"]},
        {"a": -1},
        {"a": True},
        {"a": 1.5},
        {"a": 1, "ignore": 2},
    ],
)
def test_labels_that_cannot_be_read(tmp_path, labels):
    data_sets.make_msd(tmp_path, labels=labels)
    with pytest.raises(DataError, match=r"dataset\.json: labels:"):
        find(tmp_path)


@pytest.mark.parametrize(
    ("labels", "expected"),
    [
        ({"0": "background", "2": "b", "1": "a"}, {"a": 1, "b": 2}),
        ({"background": 0, "b": 7, "a": 3}, {"a": 3, "b": 7}),
        ({"1": 1, "2": 2}, {"1": 1, "2": 2}),
    ],
)
def test_both_forms_of_labels(tmp_path, labels, expected):
    found = find(data_sets.make_msd(tmp_path, labels=labels)).labels
    assert list((found or {}).items()) == list(expected.items())


@pytest.mark.parametrize("channels", [{"1": "MRI"}, {"0": 5}, 7])
def test_channels_that_cannot_be_read(tmp_path, channels):
    data_sets.make_msd(tmp_path, modality=channels)
    with pytest.raises(DataError, match=r"dataset\.json: modality:"):
        find(tmp_path)


@pytest.mark.parametrize("text", ["{", "[1]", "[" * 100_000, '{"labels": {}, "labels": {}}', '"\udc80"'])
def test_description_that_is_no_json_object(tmp_path, text):
    data_sets.make_folders(tmp_path)
    (tmp_path / "dataset.json").write_bytes(text.encode("utf-8", "surrogateescape"))
    with pytest.raises(DataError, match=r"dataset\.json"):
        find(tmp_path)


@pytest.mark.parametrize(
    ("name", "modality"),
    [
        ("CT", "ct"),
        ("ct", "ct"),
        ("CECT venous", "ct"),
        ("MRI", "mr"),
        ("cine-MR", "mr"),
        ("T1w", "mr"),
        ("FLAIR", "mr"),
        ("PET", "other"),
        ("US", "other"),
        ("R", "other"),
        ("OCT", "other"),
        ("", "other"),
        ("active contour", "other"),
    ],
)
def test_channel_modality(name, modality):
    assert channel_modality(name) == modality


@pytest.mark.parametrize(
    ("name", "layout", "count", "labels", "modality"),
    [
        ("hippocampus", "msd", 208, {"Anterior": 1, "Posterior": 2}, "mr"),
        ("acdc", "folders", 32, {"RV": 1, "MYO": 2, "LV": 3}, "mr"),
        ("sts_ct", "folders", 12, {"GTV_Mass": 1}, "ct"),
    ],
)
def test_real_data(name, layout, count, labels, modality):
    found = find(data_sets.real_data(name))
    assert (found.layout, len(found.cases), found.labels, found.modality) == (layout, count, labels, modality)
