"""Test-time flips: which are allowed, and that each copy is turned back as it was turned."""

from __future__ import annotations

from itertools import chain, combinations

import numpy as np
import pytest
import torch
from pydantic import ValidationError
from tiny_model import make_config, make_network, make_plan, make_predictor, write_image
from torch import nn

from se_med.config.experiment import Config
from se_med.config.inference import InferenceConfig
from se_med.errors import UsageError
from se_med.inference.flips import choose_test_time_flips
from se_med.inference.model import save_model
from se_med.inference.predictor import Predictor


def trained_with(config: Config, axes, probability=0.5) -> Config:
    flip = config.augmentation.flip.model_copy(update={"axes": axes, "probability": probability})
    return config.model_copy(update={"augmentation": config.augmentation.model_copy(update={"flip": flip})})


class Pointwise(nn.Module):
    """Sees one voxel at a time, so it is equivariant by construction."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.cat([x, -x, x.square()], dim=1)


@pytest.mark.parametrize("shape", [(9, 16, 11), (30, 18, 21)])
def test_equivariant_network_gives_what_it_gave(shape):
    plan = make_plan()
    image = np.random.default_rng(0).normal(size=(1, *shape)).astype(np.float32)
    config = trained_with(make_config(plan), (0, 1, 2))
    plain = Predictor(Pointwise(), config, plan).segment(image)
    flipped_config = config.model_copy(update={"inference": InferenceConfig(precision="fp32", test_time_flips=True)})
    predictor = Predictor(Pointwise(), flipped_config, plan)
    assert predictor.flips == (0, 1, 2)
    logits = predictor.segment(image)
    assert torch.equal(logits.argmax(0), plain.argmax(0))
    torch.testing.assert_close(logits.softmax(0), plain.softmax(0), rtol=0, atol=2e-6)


@pytest.mark.parametrize("axes", [(0,), (1,), (2,), (0, 2), (0, 1, 2)])
@pytest.mark.parametrize("shape", [(16, 16, 16), (16, 24, 20)])
def test_mean_is_over_every_combination_turned_back(axes, shape):
    """A network that is not equivariant along any axis; its mean is built here over whole flipped volumes."""
    plan = make_plan()
    config = trained_with(make_config(plan, test_time_flips=list(axes)), axes)
    predictor = Predictor(make_network(config, plan), config, plan)
    image = np.random.default_rng(1).normal(size=(1, *shape)).astype(np.float32)
    expected = []
    for dims in chain.from_iterable(combinations([axis + 1 for axis in axes], count) for count in range(len(axes) + 1)):
        with torch.no_grad():
            logits = predictor.network.eval()(torch.from_numpy(np.flip(image, dims).copy())[None])[0]
        expected.append(logits.flip(dims).softmax(0))
    torch.testing.assert_close(predictor.segment(image).softmax(0), torch.stack(expected).mean(0), rtol=1e-4, atol=1e-6)


def test_off_means_the_very_logits():
    predictor = make_predictor(make_plan())
    image = np.random.default_rng(0).normal(size=(1, 16, 16, 16)).astype(np.float32)
    network = predictor.network.eval()
    with torch.no_grad():
        assert torch.equal(predictor.segment(image), network(torch.from_numpy(image)[None])[0])


@pytest.mark.parametrize(
    ("wanted", "axes", "probability", "expected"),
    [
        (False, (0, 1), 0.5, ()),
        (True, (1, 0), 0.5, (0, 1)),
        (True, (0, 1), 0.0, ()),
        (True, (), 0.5, ()),
        ((1,), (0, 1), 0.5, (1,)),
        ((1, 1, 0), (0, 1), 0.5, (0, 1)),
    ],
)
def test_axes_that_are_flipped(wanted, axes, probability, expected):
    config = trained_with(make_config(make_plan(), test_time_flips=wanted), axes, probability)
    assert choose_test_time_flips(config) == expected


@pytest.mark.parametrize(("axes", "probability"), [((0, 1), 0.5), ((0, 1, 2), 0.0)])
def test_axis_that_was_not_trained_is_named(axes, probability):
    config = trained_with(make_config(make_plan(), test_time_flips=(2,)), axes, probability)
    with pytest.raises(UsageError, match=r"inference\.test_time_flips: axis 2 was not flipped in training"):
        Predictor(make_network(config, make_plan()), config, make_plan())


@pytest.mark.parametrize("value", [1, "yes", [3], [True]])
def test_values_that_are_neither_a_switch_nor_axes(value):
    with pytest.raises(ValidationError):
        InferenceConfig(test_time_flips=value)


def test_slices_of_a_2d_network_are_flipped_in_their_plane():
    plan = make_plan(2).model_copy(update={"slice_axis": 1})
    image = np.random.default_rng(0).normal(size=(1, 16, 3, 16)).astype(np.float32)
    config = trained_with(make_config(plan, test_time_flips=True), (0, 2))
    predictor = Predictor(make_network(config, plan), config, plan)
    single = Predictor(predictor.network, trained_with(make_config(plan), (0, 2)), plan)
    passes = [single.segment(np.flip(image, dims).copy()).flip(dims).softmax(0) for dims in ((), (1,), (3,), (1, 3))]
    torch.testing.assert_close(predictor.segment(image).softmax(0), torch.stack(passes).mean(0), rtol=1e-4, atol=1e-6)


def test_flag_of_predict(tmp_path, se_med, noise):
    plan = make_plan()
    config = trained_with(make_config(plan), (0,))
    run = tmp_path / "run"
    run.mkdir()
    save_model(run, make_network(config, plan).state_dict(), config, plan)
    image = write_image(tmp_path / "image.nii.gz", noise)
    for flag, flips in ((), []), (("--test-time-flips",), [0]):
        outcome = se_med("predict", run, image, "-o", tmp_path / f"out{len(flag)}", *flag)
        assert outcome.code == 0, outcome.err
        assert f'"test_time_flips": {flips}' in " ".join(
            (tmp_path / f"out{len(flag)}" / "image.json").read_text().split()
        ).replace("[ ", "[").replace(" ]", "]")
    assert Predictor.load(run, "cpu", [0]).flips == (0,)
    with pytest.raises(UsageError, match="axis 1 was not"):
        Predictor.load(run, "cpu", [1])
