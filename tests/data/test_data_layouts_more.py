"""nnU-Net, patterns for several channels, tables and BIDS."""

from __future__ import annotations

import logging
from pathlib import Path

import data_sets
import pytest
from pydantic import ValidationError

from se_med.config.data import DataConfig
from se_med.config.load import parse_config
from se_med.data.case import Dataset
from se_med.data.fingerprint import take_fingerprint
from se_med.data.folds import Fold, select_fold, split_cases
from se_med.data.layouts import find_dataset
from se_med.errors import ConfigError, DataError, UsageError


def find(root: Path | None, **settings: object) -> Dataset:
    return find_dataset(DataConfig(root=root, **settings))


def names(dataset: Dataset) -> list[str]:
    return [case.name for case in dataset.cases]


def touch(root: Path, *files: str) -> Path:
    """Empty files: layouts go by names alone."""
    for file in files:
        (root / file).parent.mkdir(parents=True, exist_ok=True)
        (root / file).touch()
    return root


def make_nnunet(root: Path, cases: tuple[str, ...] = ("a", "b"), channels: int = 2, ending: str = ".nii.gz") -> Path:
    for case in cases:
        touch(root, *(f"imagesTr/{case}_{channel:04d}{ending}" for channel in range(channels)), f"labelsTr/{case}{ending}")
    names = {str(channel): name for channel, name in enumerate(("T1w", "T2w", "FLAIR")[:channels])}
    data_sets.describe(root, channel_names=names, labels={"background": 0, "liver": 1}, file_ending=ending)
    return root


def make_bids(root: Path, files: tuple[str, ...] = ()) -> Path:
    for subject in ("01", "02"):
        touch(root, f"sub-{subject}/anat/sub-{subject}_T1w.nii.gz", f"sub-{subject}/anat/sub-{subject}_FLAIR.nii.gz")
        touch(root, f"derivatives/manual/sub-{subject}/anat/sub-{subject}_desc-expert_dseg.nii.gz")
    return touch(root, "dataset_description.json", *files)


# nnU-Net


@pytest.mark.parametrize("ending", [".nii.gz", ".nrrd", ".mha", ".png"])
def test_nnunet_raw_data(tmp_path, ending):
    touch(make_nnunet(tmp_path, ending=ending), "imagesTr/notes.txt", "imagesTs/c_0000.nii.gz")
    found = find(tmp_path)
    assert (found.layout, names(found), found.labels) == ("nnunet", ["a", "b"], {"liver": 1})
    assert (found.channels, found.modality) == (("T1w", "T2w"), "mr")
    assert [path.name for path in found.cases[0].images] == [f"a_0000{ending}", f"a_0001{ending}"]


def test_nnunet_takes_only_files_with_its_ending(tmp_path):
    touch(make_nnunet(tmp_path), "imagesTr/a_0000.nrrd", "labelsTr/a.nrrd")
    assert names(find(tmp_path)) == ["a", "b"]


def test_nnunet_cases_named_in_dataset_json(tmp_path):
    touch(tmp_path, "x/t1.nii.gz", "x/t2.nii.gz", "y/seg.nii.gz")
    entry = {"images": ["x/t1.nii.gz", "x/t2.nii.gz"], "label": "y/seg.nii.gz"}
    data_sets.describe(
        tmp_path, channel_names={"0": "T1", "1": "T2"}, labels={"a": 1}, file_ending=".nii.gz", dataset={"p1": entry}
    )
    found = find(tmp_path)
    assert (found.layout, names(found)) == ("nnunet", ["p1"])
    assert found.cases[0].images == (tmp_path / "x/t1.nii.gz", tmp_path / "x/t2.nii.gz")
    wrong = {
        "p2": {"images": ["../t1.nii.gz"], "label": "y/seg.nii.gz"},
        "p3": {"images": "x", "label": "y"},
        "p4": entry | {"label": "z.nii"},
    }
    data_sets.describe(tmp_path, labels={"a": 1}, dataset=wrong)
    with pytest.raises(DataError) as caught:
        find(tmp_path)
    lines = str(caught.value).splitlines()
    assert lines[0].endswith("dataset.json: 3 problems")
    assert "p2: the path '../t1.nii.gz' leaves the folder of the data set; list files elsewhere in a table" in lines[1]
    assert "p3: {'images': 'x', 'label': 'y'} does not name a list of images and a label" in lines[2]
    assert lines[3].endswith("z.nii does not exist")


def test_nnunet_channels_that_are_not_there(tmp_path):
    make_nnunet(tmp_path, channels=3)
    data_sets.describe(tmp_path, channel_names={"0": "CT", "1": "PET"}, labels={"a": 1}, file_ending=".nii.gz")
    with pytest.raises(DataError, match=r"a: 3 channel files, dataset\.json names 2 channels \(CT, PET\)"):
        find(tmp_path)
    data_sets.describe(tmp_path, channel_names={"0": "CT"}, labels={"a": 1}, file_ending=".b2nd")
    with pytest.raises(DataError, match=r"file_ending: '\.b2nd' is not read; convert the images to \.nii\.gz"):
        find(tmp_path)


def test_a_list_of_the_first_nnunet_lacks_channel_numbers(tmp_path):
    touch(
        tmp_path,
        *(f"imagesTr/{name}_000{channel}.nii.gz" for name in "ab" for channel in (0, 1)),
        "labelsTr/a.nii.gz",
        "labelsTr/b.nii.gz",
    )
    listed = [{"image": f"./imagesTr/{name}.nii.gz", "label": f"./labelsTr/{name}.nii.gz"} for name in "ab"]
    data_sets.describe(tmp_path, modality={"0": "MRI", "1": "MRI"}, labels={"1": "x"}, training=listed)
    found = find(tmp_path)
    assert (found.layout, names(found)) == ("msd", ["a", "b"])
    assert [path.name for path in found.cases[1].images] == ["b_0000.nii.gz", "b_0001.nii.gz"]


# Patterns


def test_a_pattern_for_each_channel(tmp_path):
    for case in ("p1", "p2"):
        touch(tmp_path, f"{case}/t1.nii.gz", f"{case}/t2.mha", f"{case}/seg.nrrd")
    touch(tmp_path, ".hidden/t1.nii.gz")
    found = find(tmp_path, image_files=("*/t1.nii.gz", "*/t2.mha"), label_files="*/seg.nrrd", channels=("T1", "T2"))
    assert (found.layout, names(found), found.channels, found.modality) == ("folders", ["p1", "p2"], ("T1", "T2"), "mr")
    assert found.cases[1].images == (tmp_path / "p2/t1.nii.gz", tmp_path / "p2/t2.mha")
    assert found.cases[1].label == tmp_path / "p2/seg.nrrd"


def test_what_several_wildcards_stand_for_is_joined_once(tmp_path):
    for case in ("BraTS-1", "BraTS-2"):
        touch(tmp_path, f"{case}/{case}-t1n.nii.gz", f"{case}/{case}-seg.nii.gz", f"other/{case}.nii.gz")
    found = find(tmp_path, image_files="*/*-t1n.nii.gz", label_files="other/*.nii.gz")
    assert names(found) == ["BraTS-1", "BraTS-2"]
    touch(tmp_path, "s1/scan2/t1.nii.gz", "s1/scan2/seg.nii.gz")
    assert names(find(tmp_path, image_files="*/scan*/t1.nii.gz", label_files="*/scan*/seg.nii.gz")) == ["s1_2"]


def test_patterns_that_do_not_pair_are_all_listed(tmp_path):
    touch(tmp_path, "a/t1.nii", "a/t2.nii", "a/seg.nii", "b/t1.nii", "b/seg.nii", "c/t1.nii", "c/t2.nii", "d/seg.nii")
    with pytest.raises(DataError) as caught:
        find(tmp_path, image_files=("*/t1.nii", "*/t2.nii"), label_files="*/seg.nii")
    assert str(caught.value).splitlines()[1:] == [
        "  case 'b': no file matches data.image_files '*/t2.nii'",
        "  case 'c': image without a label in */seg.nii",
        "  case 'd': no file matches data.image_files '*/t1.nii'",
        "  case 'd': no file matches data.image_files '*/t2.nii'",
    ]
    with pytest.raises(DataError, match=r"no file matches data\.image_files '\*/pd\.nii'"):
        find(tmp_path, image_files=("*/t1.nii", "*/pd.nii"), label_files="*/seg.nii")
    with pytest.raises(DataError, match=r"a/t1\.nii: matches data\.image_files '\*/t1\.nii' and 'a/t\*\.nii'"):
        find(tmp_path, image_files=("*/t1.nii", "a/t*.nii"), label_files="*/seg.nii")


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("{image_files: [a.nii, '*.nii'], label_files: 's/*.nii'}", "'a.nii' must hold `*`"),
        ("{image_files: '**/a.nii', label_files: 's/*.nii'}", r"'\*\*/a.nii' must hold `\*`"),
        ("{image_files: ['*.nii', '*.nii'], label_files: 's/*.nii'}", "stands for two channels"),
        ("{image_files: ['*.nii', 's/*.nii'], label_files: 's/*.nii'}", "is the pattern of the labels too"),
        ("{image_files: ['*.nii'], label_files: 's/*.nii', layout: bids}", "layout bids finds its files itself"),
        ("{image_files: ['*.nii'], label_files: 's/*.nii', channels: [a, b]}", "2 names for 1 patterns"),
        ("{image_files: [], label_files: 's/*.nii'}", "image_files"),
        ("{table: a.csv, layout: msd}", "names the files, and so does layout: msd"),
        ("{table: a.csv, image_files: '*.nii', label_files: 's/*.nii'}", "names the files, and so does image_files"),
        ("{channels: [a, a]}", "a name occurs twice"),
        ("{channels: []}", "channels"),
    ],
)
def test_settings_that_contradict_each_other(text, words):
    with pytest.raises(ConfigError, match=words):
        parse_config(f"data: {text}", "c.yaml")


# Tables


TABLE = """case,image_T1,image_FLAIR,label,group,fold,age,site
p1_a,{r}/1.nii,{r}/1f.nii,{r}/1s.nii,p1,0,61,Bern
p1_b,{r}/2.nii,{r}/2f.nii,{r}/2s.nii,p1,0,62,Bern
p2,{r}/3.nii,{r}/3f.nii,{r}/3s.nii,p2,1,,Basel
"""


def make_table(root: Path, text: str = TABLE, where: str = "v", name: str = "cases.csv") -> Path:
    touch(root, *(f"v/{number}{kind}.nii" for number in (1, 2, 3) for kind in ("", "f", "s")))
    (root / name).parent.mkdir(exist_ok=True)
    (root / name).write_text(text.format(r=where))
    return root / name


def test_a_table_in_the_folder_is_found(tmp_path):
    make_table(tmp_path)
    found = find(tmp_path)
    assert (found.layout, names(found), found.channels, found.modality) == (
        "table",
        ["p1_a", "p1_b", "p2"],
        ("T1", "FLAIR"),
        "mr",
    )
    case = found.cases[0]
    assert (case.images, case.label) == ((tmp_path / "v/1.nii", tmp_path / "v/1f.nii"), tmp_path / "v/1s.nii")
    assert (case.group, case.fold, case.covariates) == ("p1", 0, {"age": "61", "site": "Bern"})
    assert [case.covariates["age"] for case in found.cases] == ["61", "62", ""]


def test_the_folds_of_a_table_are_taken(tmp_path):
    make_table(tmp_path)
    data = DataConfig(root=tmp_path, fold=1)
    dataset = find_dataset(data)
    assert split_cases(dataset, data) == (Fold(("p2",), ("p1_a", "p1_b")), Fold(("p1_a", "p1_b"), ("p2",)))
    assert select_fold(dataset, data) == Fold(("p1_a", "p1_b"), ("p2",))
    with pytest.raises(UsageError, match=r"has 2 folds, there is no fold 2"):
        select_fold(dataset, DataConfig(root=tmp_path, fold=2))
    with pytest.raises(DataError, match="of the same group 'p'"):
        select_fold(find(tmp_path, group="^(p)"), data)
    assert parse_config(f"data: {{table: {tmp_path}/cases.csv, fold: 7}}", "c.yaml").data.fold == 7


@pytest.mark.parametrize("absolute", [True, False])
def test_a_named_table_may_lie_and_point_anywhere(tmp_path, absolute):
    path = make_table(tmp_path, where=str(tmp_path / "v") if absolute else "../v", name="lists/mine.csv")
    config = parse_config("data: {table: lists/mine.csv}", "c.yaml", folder=tmp_path)
    assert (config.data.table, config.data.root) == (path, path.parent)
    found = find_dataset(config.data)
    assert (found.layout, found.root) == ("table", path.parent)
    assert found.cases[0].images[0].resolve() == tmp_path / "v/1.nii"


def test_paths_of_a_named_table_are_relative_to_root(tmp_path):
    make_table(tmp_path, where="v", name="lists/mine.csv")
    assert names(find(tmp_path, table=tmp_path / "lists/mine.csv")) == ["p1_a", "p1_b", "p2"]


@pytest.mark.parametrize("where", ["../v", "/v"])
def test_a_table_that_came_with_the_data_stays_below_its_folder(tmp_path, where):
    make_table(tmp_path, where=where)
    with pytest.raises(DataError, match=r"image_T1: the path .* leaves the folder of the table; name the table in data\.table"):
        find(tmp_path)


@pytest.mark.parametrize(("name", "separator"), [("cases.tsv", "\t"), ("cases.csv", ";")])
def test_tabs_and_semicolons_separate_too(tmp_path, name, separator):
    make_table(tmp_path, "\ufeff" + TABLE.replace(",", separator).replace("\n", "\r\n"), name=name)
    assert names(find(tmp_path)) == ["p1_a", "p1_b", "p2"]


def test_channels_choose_and_order_the_columns(tmp_path):
    make_table(tmp_path)
    found = find(tmp_path, channels=("FLAIR",))
    assert (found.channels, found.cases[0].images) == (("FLAIR",), (tmp_path / "v/1f.nii",))
    assert "image_T1" not in found.cases[0].covariates
    assert find(tmp_path, channels=("FLAIR", "T1")).cases[0].images[0] == tmp_path / "v/1f.nii"
    with pytest.raises(DataError, match=r"no column image_T2, which data\.channels names; there are image_T1, image_FLAIR"):
        find(tmp_path, channels=("T2",))


def test_the_least_table(tmp_path, caplog):
    make_table(tmp_path, "image,label\nv/1.nii,v/1s.nii\n\nv/2.nii,\n")
    with caplog.at_level(logging.WARNING, "se_med"):
        found = find(tmp_path)
    assert [(case.name, case.group, case.fold, case.covariates) for case in found.cases] == [("1", None, None, {})]
    assert caplog.messages == [f"{tmp_path / 'cases.csv'}: 1 of 2 rows have no label and are left out"]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "the table is empty"),
        ("image,label,label\n", "the column 'label' occurs twice"),
        ("image,label,\n", "a column has no name"),
        ("image,age\nv/1.nii,3\n", "no column label; the columns are image, age"),
        ("case,label\nx,v/1s.nii\n", r"no column image or image_<channel>; the columns are case, label"),
        ("image,image_T1,label\n", "has a column image and image_T1"),
        ("image,label\n", "no cases found"),
        ("image,label\nv/1.nii\n", "line 2: 1 fields, the header has 2"),
        ("image,label\n,v/1s.nii\n", "line 2: image is empty"),
        ("image,label\nv/9.nii,v/1s.nii\n", r"line 2: image: the file .*9\.nii does not exist"),
        ("image,label\nv/1.nii,notes.txt\n", "line 2: label: 'notes.txt' is not an image"),
        ("image,label\nv/1.nii,v/1s.nii\nv/1.nii,v/2s.nii\n", "line 3: a second case named '1'"),
        ("image,label,fold\nv/1.nii,v/1s.nii,one\n", "line 2: fold 'one' is not the number of a fold"),
        ("image,label,fold\nv/1.nii,v/1s.nii,0\nv/2.nii,v/2s.nii,\n", "line 3: fold '' is not the number of a fold"),
        ("image,label,fold\nv/1.nii,v/1s.nii,1\nv/2.nii,v/2s.nii,2\n", "the folds are 1, 2; number them 0, 1, ..."),
        ("image,label,fold\nv/1.nii,v/1s.nii,0\nv/2.nii,v/2s.nii,0\n", "the folds are 0; number them"),
        (
            "image,label,fold,group\nv/1.nii,v/1s.nii,0,p\nv/2.nii,v/2s.nii,1,p\n",
            "group 'p': case '1' is in fold 0, '2' in fold 1",
        ),
        ('image,label\n"v/1.nii,v/1s.nii\n', "line 2: unexpected end of data"),
    ],
)
def test_tables_that_are_refused(tmp_path, text, words):
    make_table(tmp_path, text)
    with pytest.raises(DataError, match=words) as caught:
        find(tmp_path)
    assert "\n" not in str(caught.value)


def test_tables_that_cannot_be_read(tmp_path):
    path = make_table(tmp_path)
    path.write_bytes(b"\xff\xfe\x00,label")
    with pytest.raises(DataError, match=r"cases\.csv: cannot be read as text: .*; save it as UTF-8"):
        find(tmp_path)
    with pytest.raises(DataError, match=r"none\.csv: no such file; check data\.table"):
        find(tmp_path, table=tmp_path / "none.csv")
    with pytest.raises(DataError, match=r"cases\.xlsx: is no table; name it \.csv or \.tsv"):
        find(tmp_path, table=tmp_path / "cases.xlsx")
    with pytest.raises(DataError, match=r"no cases\.csv or cases\.tsv; name the table in data\.table"):
        find(data_sets.make_folders(tmp_path / "other"), layout="table")


# BIDS


def test_bids_derivatives(tmp_path):
    make_bids(tmp_path)
    (tmp_path / "participants.tsv").write_text("participant_id\tage\nsub-01\t61\nsub-03\t7\n")
    found = find(tmp_path)
    assert (found.layout, names(found), found.channels, found.modality) == ("bids", ["sub-01", "sub-02"], ("FLAIR", "T1w"), "mr")
    case = found.cases[0]
    assert [path.name for path in case.images] == ["sub-01_FLAIR.nii.gz", "sub-01_T1w.nii.gz"]
    assert case.label == tmp_path / "derivatives/manual/sub-01/anat/sub-01_desc-expert_dseg.nii.gz"
    assert [(case.group, case.covariates) for case in found.cases] == [("sub-01", {"age": "61"}), ("sub-02", {})]
    assert [path.name for path in find(tmp_path, channels=("T1w",)).cases[1].images] == ["sub-02_T1w.nii.gz"]


def test_bids_sessions_and_runs(tmp_path, caplog):
    for session in ("1", "2"):
        touch(tmp_path, *(f"sub-01/ses-{session}/anat/sub-01_ses-{session}_run-{run}_T1w.nii.gz" for run in (1, 2)))
    touch(tmp_path, "derivatives/a/sub-01/ses-1/anat/sub-01_ses-1_run-2_dseg.nii.gz")
    touch(tmp_path, "derivatives/a/sub-01/ses-1/anat/sub-01_ses-1_run-1_space-orig_dseg.nii.gz")
    with caplog.at_level(logging.WARNING, "se_med"):
        found = find(tmp_path)
    assert [(case.name, case.images[0].name, case.group) for case in found.cases] == [
        (f"sub-01_ses-1_run-{run}", f"sub-01_ses-1_run-{run}_T1w.nii.gz", "sub-01") for run in (1, 2)
    ]
    assert caplog.messages == [f"{tmp_path}: 1 of 2 sessions have no segmentation and are left out"]


def test_bids_images_that_are_missing_or_ambiguous(tmp_path):
    make_bids(tmp_path, ("sub-03/anat/sub-03_T1w.nii.gz", "derivatives/manual/sub-03/anat/sub-03_dseg.nii.gz"))
    touch(tmp_path, "sub-02/anat/sub-02_acq-x_T1w.nii.gz", "derivatives/other/sub-01/anat/sub-01_dseg.nii.gz")
    with pytest.raises(DataError) as caught:
        find(tmp_path)
    lines = str(caught.value).splitlines()[1:]
    assert len(lines) == 2
    assert lines[0].endswith(
        "sub-03_dseg.nii.gz: no image with the suffix FLAIR; name the channels that every case has in data.channels, e.g. [T1w]"
    )
    assert "derivatives/other/sub-01/anat/sub-01_dseg.nii.gz: also" in lines[1]
    assert "segments sub-01; choose the files with data.image_files and data.label_files" in lines[1]
    (tmp_path / "sub-02/anat/sub-02_acq-x_T1w.nii.gz").rename(tmp_path / "sub-02/anat/sub-02_run-1_T1w.nii.gz")
    (tmp_path / "sub-02/anat/sub-02_T1w.nii.gz").rename(tmp_path / "sub-02/anat/sub-02_run-2_T1w.nii.gz")
    with pytest.raises(DataError, match=r"sub-02_run-1_T1w\.nii\.gz and sub-02_run-2_T1w\.nii\.gz may be its T1w; choose"):
        find(tmp_path, channels=("T1w",))
    patterns = {
        "image_files": "sub-*/anat/sub-*_run-1_T1w.nii.gz",
        "label_files": "derivatives/manual/sub-*/anat/sub-*_desc-expert_dseg.nii.gz",
    }
    with pytest.raises(DataError, match="label without an image"):
        find(tmp_path, **patterns)
    (tmp_path / "derivatives/manual/sub-01/anat/sub-01_desc-expert_dseg.nii.gz").unlink()
    assert names(find(tmp_path, **patterns)) == ["02"]


def test_bids_without_segmentations(tmp_path):
    touch(tmp_path, "sub-01/anat/sub-01_T1w.nii.gz", "derivatives/a/sub-01/anat/sub-01_desc-preproc_T1w.nii.gz")
    with pytest.raises(DataError, match=r"no segmentations, looked for derivatives/\*/sub-\*"):
        find(tmp_path)


# What is behind the layouts


def test_a_set_of_channels_on_grids_of_their_own_is_read(tmp_path, caplog):
    import numpy as np

    for seed, name in enumerate(("a", "b")):
        data_sets.save(tmp_path / f"{name}/ct.nii.gz", data_sets.image((8, 9, 10), seed))
        data_sets.save(tmp_path / f"{name}/pet.nii.gz", data_sets.image((5, 5, 6), seed + 9), np.diag([2.0, 2, 2, 1]))
        data_sets.save(tmp_path / f"{name}/seg.nii.gz", data_sets.label((8, 9, 10)))
    dataset = find(tmp_path, image_files=("*/ct.nii.gz", "*/pet.nii.gz"), label_files="*/seg.nii.gz", channels=("CT", "PET"))
    with caplog.at_level(logging.WARNING, "se_med"):
        fingerprint = take_fingerprint(dataset)
    assert (fingerprint.channels, fingerprint.cases[0].shape) == (2, (8, 9, 10))
    assert sum("resampled onto it" in message for message in caplog.messages) == 2
    assert all("pet.nii.gz: grid differs from" in message and "ct.nii.gz" in message for message in caplog.messages)


def test_a_case_with_covariates_is_comparable_and_hashable(tmp_path):
    make_table(tmp_path)
    first, second = find(tmp_path).cases[:2]
    assert first == find(tmp_path).cases[0] != second
    assert len({first, second}) == 2


def test_a_fold_beyond_the_folds_is_refused_without_a_table():
    with pytest.raises(ValidationError, match="does not exist with folds: 5"):
        DataConfig(fold=7)


SETS = {
    "hippocampus": ("data: {root: hippocampus}", "msd", 208, {"Anterior": 1, "Posterior": 2}, "mr"),
    "acdc": ("data:\n  root: acdc\n  group: '^(patient\\d+)'", "folders", 32, {"RV": 1, "MYO": 2, "LV": 3}, "mr"),
    "chase_db1": (
        "data:\n  root: chase_db1\n  group: 'chase_(\\d+)'\nnetwork: {spatial_dims: 2}",
        "folders",
        22,
        {"vessel": 1},
        "other",
    ),
    "sts_ct": ("data: {root: sts_ct}", "folders", 12, {"GTV_Mass": 1}, "ct"),
}


@pytest.mark.parametrize("name", SETS)
def test_every_real_set_is_found_from_a_few_lines(name):
    text, layout, count, labels, modality = SETS[name]
    folder = data_sets.real_data(name).parent
    assert len(text.splitlines()) <= 12
    found = find_dataset(parse_config(text, f"{name}.yaml", folder=folder).data)
    assert (found.layout, len(found.cases), found.labels, found.modality) == (layout, count, labels, modality)
    if "group" in text:
        assert len({case.group for case in found.cases}) == {"acdc": 16, "chase_db1": 11}[name]
