"""What inputs name: patterns and tables; folders and single files are tested with the cases."""

from __future__ import annotations

import numpy as np
import pytest
from tiny_model import write_image

from se_med.errors import UsageError
from se_med.inference.cases import find_cases, take_shard


@pytest.fixture
def tree(tmp_path):
    """Folders of subjects with an image each, of different names, and one without."""
    for subject, name in (("s1", "t1_a"), ("s2", "t1_b"), ("deep/s3", "t1_c")):
        folder = tmp_path / "data" / subject
        folder.mkdir(parents=True)
        write_image(folder / f"{name}.nii.gz", np.zeros((4, 4, 4), np.float32))
        (folder / "notes.txt").write_text("x")
    return tmp_path / "data"


def names(inputs, tmp_path, channels=1):
    return [case.name for case in find_cases(inputs, tmp_path / "out", channels)]


def table(tmp_path, text, name="list.csv", encoding="utf-8"):
    path = tmp_path / name
    path.write_text(text, encoding=encoding)
    return path


def test_patterns_reach_into_folders(tree, tmp_path):
    assert names([tree / "*" / "t1_*.nii.gz"], tmp_path) == ["t1_a", "t1_b"]
    assert names([tree / "**" / "*.nii.gz"], tmp_path) == ["t1_a", "t1_b", "t1_c"]
    assert names([tree / "s[13]" / "*"], tmp_path) == ["t1_a"]  # other files are left out
    assert names([tree / "s1", tree / "*" / "*"], tmp_path) == ["t1_a", "t1_b"]  # named twice, one case


def test_a_file_whose_name_looks_like_a_pattern_is_itself(tree, tmp_path):
    (tree / "s1" / "t1_a.nii.gz").rename(tree / "s1" / "t1[a].nii.gz")
    assert names([tree / "s1" / "t1[a].nii.gz"], tmp_path) == ["t1[a]"]


def test_tables_name_cases_and_files(tree, tmp_path):
    path = table(tree, "case,image,age\nfirst,s1/t1_a.nii.gz,30\n,s2/t1_b.nii.gz,\n")
    cases = find_cases([path], tmp_path / "out", 1)
    assert [(case.name, case.files) for case in cases] == [
        ("first", (tree / "s1/t1_a.nii.gz",)),
        ("t1_b", (tree / "s2/t1_b.nii.gz",)),
    ]
    assert cases[0].output == tmp_path / "out" / "first.nii.gz"


@pytest.mark.parametrize("separator", [",", ";", "\t"])
@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig"])
def test_tables_of_several_channels(tree, tmp_path, separator, encoding):
    rows = ["case|image_1|site|image_0", "x|s2/t1_b.nii.gz|Köln|s1/t1_a.nii.gz", "", "y|/a/b.nii.gz|Bonn|/a/c.nii.gz"]
    path = table(tree, "\r\n".join(rows).replace("|", separator), encoding=encoding)
    first, second = find_cases([path], tmp_path / "out", 2)
    assert first.files == (tree / "s1/t1_a.nii.gz", tree / "s2/t1_b.nii.gz")
    assert first.channels == (0, 1)
    assert [str(path) for path in second.files] == ["/a/c.nii.gz", "/a/b.nii.gz"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "no column of images"),
        ("case,file\na,b\n", "no column of images"),
        ("case,image_1,image_2\na,b,c\n", "columns image_1, image_2"),
        ("case,image,image_0\na,b,c\n", "columns image, image_0"),
        ("case,image\n", "lists no case"),
        ("case,image\na,a.nii\nb,\n", r"list\.csv:3: no file in column image"),
        ("case,image\n../a,a.nii\n", r"list\.csv:2: case '\.\./a' cannot be the name"),
        ("case,image\n.a,a.nii\n", "cannot be the name"),
        ("case,image\na,a.nii\na,b.nii\n", r"list\.csv:3: case 'a' again, after .*a\.nii"),
    ],
)
def test_tables_that_cannot_be_used(tmp_path, text, message):
    path = table(tmp_path, text)
    with pytest.raises(UsageError, match=message):
        find_cases([path], tmp_path / "out", 1)


def test_a_table_in_another_encoding_is_refused(tmp_path):
    path = table(tmp_path, "case,image\nKöln,a.nii\n", encoding="latin-1")
    with pytest.raises(UsageError, match="UTF-8"):
        find_cases([path], tmp_path / "out", 1)


def test_inputs_without_images_are_refused(tree, tmp_path):
    for message, entry in {
        r"no image matches this pattern$": tree / "*.mha",
        "no image matches this pattern; 2 other": tree / "s*" / "*.txt",
        "does not exist": tree / "nowhere",
    }.items():
        with pytest.raises(UsageError, match=message):
            find_cases([entry], tmp_path / "out", 1)


def test_an_unfinished_run_among_the_inputs_is_named(tmp_path):
    for name in ("config.yaml", "plan.json"):
        (tmp_path / name).write_text("{}")
    with pytest.raises(UsageError, match=r"is a run without weights \(model\.safetensors\); finish its training"):
        find_cases([tmp_path], tmp_path / "out", 1)


def test_a_result_never_replaces_a_listed_input(tree, tmp_path):
    path = table(tree, "case,image\nt1_a,s1/t1_a.nii.gz\n")
    with pytest.raises(UsageError, match="the result would replace this input"):
        find_cases([path], tree / "s1", 1)


def test_shards_are_disjoint_and_complete(tree, tmp_path):
    cases = find_cases([tree / "**" / "*.nii.gz"], tmp_path / "out", 1)
    for count in (1, 2, 3, 5):
        parts = [take_shard(cases, f"{number}/{count}") for number in range(1, count + 1)]
        assert sorted(case.name for part in parts for case in part) == ["t1_a", "t1_b", "t1_c"]
        assert max(map(len, parts)) - min(map(len, parts)) <= 1


@pytest.mark.parametrize("shard", ["0/2", "3/2", "1/0", "1", "a/b", "1/2/3", "-1/2", ""])
def test_shards_that_do_not_exist(shard):
    with pytest.raises(UsageError, match="not of the form i/n"):
        take_shard([], shard)
