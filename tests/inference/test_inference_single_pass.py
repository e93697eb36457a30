"""A single pass: a run that averages over views of each volume, without them."""

import json

import numpy as np
import pytest
from tiny_model import make_config, make_network, make_plan, write_image

from se_med.errors import UsageError
from se_med.inference.model import save_model
from se_med.inference.predictor import Predictor


@pytest.fixture
def run(tmp_path):
    plan = make_plan()
    config = make_config(plan, test_time_rotation=5, test_time_flips=True)
    flip = config.augmentation.flip.model_copy(update={"axes": (0,)})
    config = config.model_copy(update={"augmentation": config.augmentation.model_copy(update={"flip": flip})})
    folder = tmp_path / "run"
    folder.mkdir()
    save_model(folder, make_network(config, plan).state_dict(), config, plan)
    return folder


def test_the_flag_leaves_out_what_the_run_averages_over(run, tmp_path, se_med, noise):
    image = write_image(tmp_path / "image.nii.gz", noise)
    settings = []
    for flags in ((), ("--single-pass",)):
        outcome = se_med("predict", run, image, "-o", tmp_path / "out", *flags)
        assert outcome.code == 0, outcome.err
        assert "1 segmented" in outcome.out  # what was made with other settings is made again
        settings.append(json.loads((tmp_path / "out" / "image.json").read_text())["settings"])
    assert [(each["test_time_rotation"], each["test_time_flips"]) for each in settings] == [(5, [0]), (0, [])]


def test_every_network_of_an_ensemble_passes_once(run):
    single = Predictor.load([run, run], "cpu", single_pass=True)
    assert [member.count for member in single.members] == [1, 1]
    assert Predictor.load(run, "cpu").members[0].count == 2 * 7
    array = np.random.default_rng(0).normal(size=(1, 16, 16, 16)).astype(np.float32)
    one = Predictor.load(run, "cpu", single_pass=True).segment(array)
    assert np.allclose(single.segment(array).softmax(0), one.softmax(0), atol=1e-6)


def test_flips_contradict_it(run, tmp_path, se_med, noise):
    image = write_image(tmp_path / "image.nii.gz", noise)
    outcome = se_med("predict", run, image, "-o", tmp_path / "out", "--single-pass", "--test-time-flips")
    assert outcome.code == 2
    assert "test-time flips are further passes; choose them or a single pass" in outcome.err
    assert not (tmp_path / "out").exists()
    with pytest.raises(UsageError, match="choose them or a single pass"):
        Predictor.load(run, "cpu", [0], single_pass=True)
