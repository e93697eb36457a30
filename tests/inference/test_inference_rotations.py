"""Test-time rotations: exact where they can be, undone, averaged, and only such as training has shown."""

from __future__ import annotations

import re

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.ndimage import affine_transform
from tiny_model import make_config, make_network, make_plan
from torch import nn

from se_med.data import sampling
from se_med.errors import ImageError, UsageError
from se_med.explain.variants import single_pass
from se_med.inference.predictor import Predictor
from se_med.inference.results import settings_of
from se_med.inference.rotations import Turn
from se_med.io.volume import Volume

SIZES = st.tuples(*[st.integers(1, 12)] * 3)
SPACINGS = st.tuples(*[st.floats(0.5, 2.0)] * 3)


class Pointwise(nn.Module):
    """Sees one voxel at a time."""

    divisor = (4, 4, 4)

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[torch.Tensor] = []

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.seen.append(x[0, 0].clone())
        return torch.cat([x, -x, x.square()], dim=1)


def turned(network: nn.Module, plan, angle: float = 5, **inference) -> Predictor:
    return Predictor(network, make_config(plan, test_time_rotation=angle, **inference), plan)


@pytest.fixture(params=["compiled", "torch"])
def way(request, monkeypatch):
    if request.param == "torch":
        monkeypatch.setattr(sampling, "usable", lambda image, label=None: False)


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_a_right_angle_is_exact(axis, way):
    window = torch.from_numpy(np.random.default_rng(0).normal(size=(2, 5, 5, 5)).astype(np.float32))
    turn = Turn(axis, 90, (1.0, 1.0, 1.0))
    found = turn.turn(window, (5, 5, 5))
    plane = tuple(other + 1 for other in range(3) if other != axis)
    assert any(torch.allclose(found, torch.rot90(window, times, plane), atol=1e-5) for times in (1, 3))
    assert torch.allclose(turn.turn_back(found), window, atol=1e-5)
    assert turn.seen((5, 5, 5)).all()


@settings(deadline=None, max_examples=60)
@given(axis=st.integers(0, 2), degrees=st.floats(-45, 45), spacing=SPACINGS, size=SIZES, slopes=SPACINGS)
def test_what_is_linear_comes_back_where_it_was_seen(axis, degrees, spacing, size, slopes):
    turn = Turn(axis, degrees, spacing)
    beyond = turn.reach(size)
    grids = np.meshgrid(*(np.arange(length + 2 * more) - more for length, more in zip(size, beyond, strict=True)), indexing="ij")
    ramp = torch.from_numpy(sum(slope * grid for slope, grid in zip(slopes, grids, strict=True)).astype(np.float32))[None]
    inner = ramp[:, *(slice(more, more + length) for length, more in zip(size, beyond, strict=True))]
    back = turn.turn_back(turn.turn(ramp, size))
    seen = turn.seen(size).bool()
    assert seen[*(length // 2 for length in size)] or not all(length % 2 for length in size)
    assert torch.allclose(back[:, seen], inner[:, seen], atol=1e-3)


def test_a_rotation_is_one_in_mm():
    turn = Turn(0, 30, (1.0, 1.0, 2.0))
    moved = turn.matrix[:3, :3] @ [0.0, 1.0, 0.0] * [1.0, 1.0, 2.0]  # a voxel, taken to mm
    assert np.linalg.norm(moved) == pytest.approx(1.0)
    assert moved[1] == pytest.approx(np.cos(np.radians(30)))


@pytest.mark.parametrize(
    ("plan", "passes"),
    [
        (make_plan(), 7),
        (make_plan(dims=2), 3),
        (make_plan(spacing=(1.0, 1.0, 5.0)), 3),
        (make_plan(spacing=(1.0, 5.0, 5.0)), 1),
    ],
    ids=["isotropic", "2D", "thick slices", "no plane to turn in"],
)
def test_it_turns_both_ways_about_the_axes_of_training(plan, passes):
    assert turned(make_network(make_config(plan), plan), plan).members[0].count == passes


def test_the_mean_is_that_of_probabilities_turned_back(way):
    image = np.random.default_rng(1).normal(size=(1, 13, 16, 10)).astype(np.float32)
    plan = make_plan(patch=(16, 16, 16))
    predictor = turned(Pointwise(), plan, 10)
    window = np.full((16, 16, 16), image.min(), np.float32)
    window[1:14, :, 3:13] = image[0]
    total, weights = np.zeros((3, 16, 16, 16)), np.zeros((16, 16, 16))
    middle = np.full(3, 7.5)
    for turn in (None, *predictor.members[0].rotations):
        matrix = np.eye(3) if turn is None else turn.matrix[:3, :3]
        seen = affine_transform(window, matrix, middle - matrix @ middle, order=1, mode="grid-constant", cval=image.min())
        probability = Pointwise()(torch.from_numpy(seen)[None, None])[0].softmax(0).numpy()
        back = np.linalg.inv(matrix)
        inside = np.ones(window.shape) if turn is None else turn.seen(window.shape).numpy()
        total += inside * [affine_transform(one, back, middle - back @ middle, order=1, mode="nearest") for one in probability]
        weights += inside
    found = predictor.segment(image).softmax(0).numpy()
    assert np.allclose(found, (total / weights)[:, 1:14, :, 3:13], atol=2e-5)


@pytest.mark.parametrize(("together", "calls"), [(1, 7), (2, 4), (9, 1)])
def test_views_of_one_window_pass_together(together, calls, noise):
    network = Pointwise()
    found = turned(network, make_plan(patch=(24, 24, 24)), window_batch=together).segment(noise[None])
    assert len(network.seen) == calls
    alone = turned(Pointwise(), make_plan(patch=(24, 24, 24)), window_batch=1).segment(noise[None])
    assert torch.allclose(found, alone, atol=1e-6)


@pytest.mark.parametrize(("overlap", "interpolation"), [(0.0, "linear"), (0.5, "linear"), (0.5, "cubic")])
def test_turned_windows_show_the_volume_around_them(overlap, interpolation):
    x, y, z = np.meshgrid(*[np.linspace(0, 3, 40)] * 3, indexing="ij")
    image = np.sin(x + 0.5 * y - z).astype(np.float32)[None]
    network, plan = Pointwise(), make_plan(patch=(16, 16, 16))
    config = make_config(plan, test_time_rotation=10, overlap=overlap, whole_volume="never")
    augmentation = config.augmentation.model_copy(update={"interpolation": interpolation})
    found = Predictor(network, config.model_copy(update={"augmentation": augmentation}), plan).segment(image).softmax(0)
    expected = Pointwise()(torch.from_numpy(image)[None])[0].softmax(0)
    inner = (slice(None), *[slice(6, 34)] * 3)  # beyond the border of the volume, turned windows see what is not there
    assert torch.allclose(found[inner], expected[inner], atol=5e-3)
    assert len(network.seen) >= 7 * 27 // 2


@pytest.mark.parametrize("dims", [2, 3])
def test_it_is_combined_with_flips_and_shifts(dims):
    plan = make_plan(dims=dims).model_copy(update={"stem": (2,) * dims})
    config = make_config(plan, test_time_rotation=5, test_time_shifts=2, test_time_flips=True)
    flips = config.augmentation.flip.model_copy(update={"axes": (0,)})
    config = config.model_copy(update={"augmentation": config.augmentation.model_copy(update={"flip": flips})})
    predictor = Predictor(make_network(make_config(plan), plan), config, plan)
    assert predictor.members[0].count == 2 * 2 * (7 if dims == 3 else 3)
    image = np.random.default_rng(0).normal(size=(1, 20, 18, 9)).astype(np.float32)
    assert predictor.segment(image).shape == (3, 20, 18, 9)
    assert not torch.equal(predictor.segment(image), single_pass(predictor).segment(image))


def test_uncertainty_counts_rotations(noise):
    plan = make_plan()
    predictor = turned(make_network(make_config(plan), plan), plan)
    segmentation = predictor.predict(Volume(noise[None], np.eye(4)), uncertainty=True, probabilities=True)
    assert segmentation.disagreement is not None
    assert (segmentation.disagreement > 0).any()


def test_the_outputs_of_a_result_depend_on_it():
    plan = make_plan()
    network = make_network(make_config(plan), plan)
    one, other, thick = (turned(network, plan, 0), turned(network, plan, 5), make_plan(spacing=(1.0, 5.0, 5.0)))
    assert settings_of(one)["test_time_rotation"] == 0
    assert settings_of(other)["test_time_rotation"] == 5
    assert settings_of(turned(make_network(make_config(thick), thick), thick))["test_time_rotation"] == 0


def test_the_outputs_of_a_result_depend_on_interpolation_where_it_matters():
    plan = make_plan()
    found = []
    for angle in (0, 5):
        for interpolation in ("linear", "cubic"):
            config = make_config(plan, test_time_rotation=angle)
            augmentation = config.augmentation.model_copy(update={"interpolation": interpolation})
            config = config.model_copy(update={"augmentation": augmentation})
            found.append(settings_of(Predictor(make_network(config, plan), config, plan)))
    assert found[0] == found[1]
    assert found[2] != found[3]


def test_it_needs_memory():
    plan = make_plan(patch=(96, 96, 96))
    network, volume = make_network(make_config(plan), plan), Volume(np.zeros((1, 130, 130, 130), np.float32), np.eye(4))
    needed = []
    for angle in (0, 5):
        with pytest.raises(ImageError, match="outputs take") as refused:
            turned(network, plan, angle, max_memory=0.001).predict(volume)
        needed.append(float(re.search(r"take ([\d.]+) GiB", str(refused.value))[1]))
    assert needed[1] > needed[0]


def test_it_never_turns_farther_than_training():
    plan = make_plan()
    with pytest.raises(UsageError, match=r"test_time_rotation: 30 degrees are more than .* \(augmentation.affine.rotation: 20\)"):
        turned(make_network(make_config(plan), plan), plan, 30)
