from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import numpy as np
import pytest
from small_data import SMALL_CONFIG, make_small_data, write_volume


@pytest.fixture
def own_data(tmp_path: Path, small_data: Path) -> Path:
    return shutil.copytree(small_data, tmp_path / "own [data]")


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty working folder."""
    folder = tmp_path / "here"
    folder.mkdir()
    monkeypatch.chdir(folder)
    return folder


def test_a_sound_folder(se_med, here, small_data):
    result = se_med("check", small_data)
    assert (result.code, result.err) == (0, "")
    assert "8 cases: 0 errors, 0 warnings; nothing that stops training" in result.out
    assert "ball" in result.out
    assert sorted(path.name for path in (here / "check-small").iterdir()) == ["check.html", "check.json"]


def test_errors_exit_with_3_and_every_bad_file_is_named(se_med, here, own_data):
    path = own_data / "imagesTr/case_02.nii.gz"
    path.write_bytes(path.read_bytes()[:-100])
    write_volume(own_data / "labelsTr/case_05.nii.gz", np.full((20, 20, 20), 1, np.uint8))
    result = se_med("check", own_data, "-o", "out/deep")
    assert result.code == 3
    assert f"{path}: truncated" in result.out
    assert f"{own_data}/labelsTr/case_05.nii.gz: not on the grid of case_05.nii.gz: shape" in result.out
    assert "2 errors, 0 warnings; training would not start" in result.out
    assert json.loads((here / "out/deep/check.json").read_text())["errors"] == 2


def test_warnings_exit_with_0(se_med, here, own_data):
    label = own_data / "labelsTr/case_05.nii.gz"
    import nibabel as nib

    write_volume(label, np.zeros(nib.load(label).shape, np.uint8))
    result = se_med("check", own_data, "-o", "out")
    assert result.code == 0
    assert "0 errors, 1 warning; nothing that stops training" in result.out
    assert f"{label}: no voxel of any structure" in result.out


def test_check_and_train_say_the_same(se_med, here, small_config, own_data):
    write_volume(own_data / "imagesTr/case_03.nii.gz", np.full((20, 20, 20), 3, np.int16))
    write_volume(own_data / "labelsTr/case_03.nii.gz", np.ones((20, 20, 20), np.uint8))
    checked = se_med("check", small_config, f"data.root={own_data}", "-o", "out")
    trained = se_med("train", small_config, f"data.root={own_data}", "--runs", "runs")
    assert (checked.code, trained.code) == (3, 3)
    (line,) = [line.strip() for line in checked.out.splitlines() if "case_03" in line]
    assert line in trained.err


def test_a_configuration_with_overrides(se_med, here, small_config):
    result = se_med("check", small_config, "data.labels={ball: 1}")
    assert result.code == 3
    assert "undeclared label values 2 (" in result.out
    assert (here / "check-small/check.html").is_file()


def test_folds_that_cannot_be_made_are_an_error_of_a_configuration_only(se_med, here, tmp_path):
    root = make_small_data(tmp_path / "three", 3)
    path = tmp_path / "three.yaml"
    path.write_text(SMALL_CONFIG.format(root=root, cache=tmp_path / "cache"))
    assert se_med("check", root).code == 0
    result = se_med("check", path)
    assert result.code == 3
    assert "4 folds need at least 4 cases, there are 3" in result.out


def test_json(se_med, here, small_data):
    result = se_med("check", small_data, "--json")
    document = json.loads(result.out)
    assert (document["errors"], document["warnings"], document["findings"]) == (0, 0, [])
    assert document == json.loads((here / "check-small/check.json").read_text())
    assert document["cases"][0]["spacing_mm"] == [1, 1, 1]


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["nowhere.yaml"], "nowhere.yaml"),
        (["{config}", "data.root=nowhere"], "does not exist"),
        (["{config}", "data.folds=x"], "data.folds"),
        (["{empty}"], "data.root: no data set is named"),
    ],
)
def test_usage_errors_write_nothing(se_med, here, tmp_path, small_config, arguments, says):
    (tmp_path / "empty.yaml").write_text("{}")
    places = {"config": small_config, "empty": tmp_path / "empty.yaml"}
    result = se_med("check", *[argument.format(**places) if argument[0] == "{" else argument for argument in arguments])
    assert result.code == 2
    assert says in result.err
    assert list(here.iterdir()) == []


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_folder_that_cannot_be_written(se_med, here, small_data):
    here.chmod(0o500)
    assert se_med("check", small_data, "-o", "out").code == 1


def test_an_output_that_is_a_file(se_med, here, small_data):
    Path("out").write_text("")
    result = se_med("check", small_data, "-o", "out")
    assert result.code == 1
    assert "out: cannot make the folder" in result.err


def test_a_page_may_be_named(se_med, here, small_data):
    result = se_med("check", small_data, "-o", "pages/mine.html")
    assert result.code == 0, result.err
    assert sorted(path.name for path in (here / "pages").iterdir()) == ["mine.html", "mine.json"]
    assert (here / "pages" / "mine.html").read_text().startswith("<!DOCTYPE html>")
    assert "Page: pages/mine.html" in result.out
