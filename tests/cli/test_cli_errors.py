"""Bad input: one line that names the file and the value, the right exit code, nothing half-written."""

import gzip
import shutil

import numpy as np
import pytest
from small_data import write_volume


@pytest.fixture
def own_data(tmp_path, small_data):
    """A copy of the small data that a test may damage."""
    return shutil.copytree(small_data, tmp_path / "own")


@pytest.fixture
def train(se_med, small_config, tmp_path):
    """Run `se-med train` on the small configuration with changes."""

    def run(*overrides):
        return se_med("train", small_config, *overrides, "--runs", tmp_path / "runs")

    return run


def one_line(text, *parts):
    lines = [line for line in text.splitlines() if all(part in line for part in parts)]
    assert "Traceback" not in text
    return len(lines) == 1


def test_wrong_path(train, tmp_path):
    outcome = train(f"data.root={tmp_path / 'nowhere'}")
    assert outcome.code == 2
    assert one_line(outcome.err, "nowhere")
    assert not (tmp_path / "runs" / "small").exists()


def test_missing_configuration(se_med, tmp_path):
    outcome = se_med("train", tmp_path / "none.yaml")
    assert outcome.code == 2
    assert one_line(outcome.err, "none.yaml")


def test_unknown_key_is_located(se_med, small_config):
    small_config.write_text(small_config.read_text().replace("steps: 8", "stepz: 8"))
    outcome = se_med("train", small_config)
    assert outcome.code == 2
    assert "small.yaml:9:3: unknown key 'stepz'; did you mean 'steps'?" in outcome.err


def test_wrong_type(se_med, small_config):
    small_config.write_text(small_config.read_text().replace("steps: 8", "steps: many"))
    outcome = se_med("train", small_config)
    assert outcome.code == 2
    assert one_line(outcome.err, "small.yaml:9:", "many")


def test_unknown_key_on_the_command_line(train):
    outcome = train("training.stepz=3")
    assert outcome.code == 2
    assert "command line" in outcome.err
    assert "did you mean 'steps'?" in outcome.err


def test_shape_mismatch(train, own_data, tmp_path):
    write_volume(own_data / "labelsTr" / "case_03.nii.gz", np.zeros((5, 5, 5), np.uint8))
    outcome = train(f"data.root={own_data}")
    assert outcome.code == 3
    assert one_line(outcome.err, "case_03", "5x5x5")
    assert not (tmp_path / "runs" / "small").exists()


def test_nan(train, own_data):
    voxels = np.ones((20, 20, 20), np.float32)
    voxels[3, 4, 5] = np.nan
    write_volume(own_data / "imagesTr" / "case_02.nii.gz", voxels)
    outcome = train(f"data.root={own_data}")
    assert outcome.code == 3
    assert one_line(outcome.err, "case_02", "NaN")


def test_4d_label(train, own_data):
    write_volume(own_data / "labelsTr" / "case_01.nii.gz", np.zeros((20, 20, 20, 3), np.uint8))
    outcome = train(f"data.root={own_data}")
    assert outcome.code == 3
    assert one_line(outcome.err, "case_01", "4D")


def test_empty_folder(train, tmp_path):
    (tmp_path / "empty").mkdir()
    outcome = train(f"data.root={tmp_path / 'empty'}")
    assert outcome.code == 3
    assert one_line(outcome.err, "empty")


def test_truncated_gzip(train, own_data):
    path = own_data / "imagesTr" / "case_04.nii.gz"
    path.write_bytes(path.read_bytes()[:-500])
    outcome = train(f"data.root={own_data}")
    assert outcome.code == 3
    assert one_line(outcome.err, "case_04", "truncated")


def test_bad_checksum(train, own_data):
    path = own_data / "imagesTr" / "case_05.nii.gz"
    content = bytearray(gzip.compress(gzip.decompress(path.read_bytes())))
    content[-6] ^= 1
    path.write_bytes(content)
    outcome = train(f"data.root={own_data}")
    assert outcome.code == 3
    assert one_line(outcome.err, "case_05", "checksum")


def test_all_bad_files_are_listed_at_once(train, own_data):
    for name in ("case_00", "case_06"):
        (own_data / "imagesTr" / f"{name}.nii.gz").write_bytes(b"no volume")
    outcome = train(f"data.root={own_data}")
    assert outcome.code == 3
    assert one_line(outcome.err, "case_00.nii.gz")
    assert one_line(outcome.err, "case_06.nii.gz")


@pytest.mark.parametrize(
    "arguments",
    [
        ["predict"],
        ["trian"],
        ["predict", "nowhere", "in", "-o", "out"],
        ["evaluate", "nowhere", "nowhere"],
        ["train", "a.yaml", "--fast"],
    ],
)
def test_usage_errors_exit_with_2(se_med, arguments):
    outcome = se_med(*arguments)
    assert outcome.code == 2
    assert "Traceback" not in outcome.err + outcome.out


def test_debug_shows_the_traceback(se_med, tmp_path):
    outcome = se_med("train", tmp_path / "none.yaml", "--debug")
    assert outcome.code == 2
    assert "Traceback" in outcome.err


def test_evaluate_refuses_another_grid_and_goes_on(se_med, own_data):
    prediction = shutil.copytree(own_data / "labelsTr", own_data / "prediction")
    write_volume(prediction / "case_00.nii.gz", np.zeros((9, 9, 9), np.uint8))
    outcome = se_med("evaluate", prediction, own_data / "labelsTr", "--json")
    assert outcome.code == 1
    assert '"mean_dice": 1.0' in outcome.out
    assert "case_00" in outcome.out
