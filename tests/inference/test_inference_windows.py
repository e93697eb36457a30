from __future__ import annotations

import numpy as np
import pytest
import torch
from tiny_model import make_config, make_network, make_plan, make_predictor
from torch import nn

from se_med.config.inference import InferenceConfig
from se_med.data.padding import pad_to
from se_med.errors import RunError
from se_med.inference.windows import segment

CPU = torch.device("cpu")
FP32 = InferenceConfig(precision="fp32")


class Record(nn.Module):
    """Gives the image and its negative as logits, and keeps the shapes that it was given."""

    def __init__(self) -> None:
        super().__init__()
        self.shapes: list[tuple[int, ...]] = []

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.shapes.append(tuple(x.shape))
        return torch.cat([x, -x], dim=1)


def test_a_volume_that_fits_passes_once_and_exactly():
    plan, image = make_plan(), np.random.default_rng(0).normal(size=(1, 9, 16, 11)).astype(np.float32)
    network = Record()
    logits = segment(network, image, plan, FP32, CPU)
    assert network.shapes == [(1, 1, 16, 16, 16)]
    assert np.array_equal(logits.numpy(), np.concatenate([image, -image]))
    assert logits.dtype == torch.float32


@pytest.mark.parametrize("shape", [(17, 16, 16), (30, 9, 40)])
def test_windows_of_a_larger_volume_join_without_seams_and_offsets(shape):
    plan, image = make_plan(), np.random.default_rng(0).normal(size=(1, *shape)).astype(np.float32)
    network = Record()
    logits = segment(network, image, plan, FP32, CPU)
    assert all(seen[1:] == (1, 16, 16, 16) and seen[0] <= FP32.window_batch for seen in network.shapes)
    assert logits.shape == (2, *shape)
    np.testing.assert_allclose(logits.numpy(), np.concatenate([image, -image]), atol=1e-5)


def test_small_volumes_are_padded_with_the_channel_minimum_as_in_training():
    plan = make_plan(channels=2)
    image = np.stack([np.full((4, 4, 4), 2.0), np.linspace(-1, 1, 64).reshape(4, 4, 4)]).astype(np.float32)

    class Border(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            self.seen = x.clone()
            return x

    network = Border()
    segment(network, image, plan, FP32, CPU)
    assert np.array_equal(network.seen[0].numpy(), pad_to(image, (16, 16, 16))[0])


@pytest.mark.parametrize("axis", [0, 1, 2])
@pytest.mark.parametrize("shape", [(9, 12, 7), (20, 18, 25)])
def test_a_2d_network_takes_slices_across_the_slice_axis(axis, shape):
    plan = make_plan(2).model_copy(update={"slice_axis": axis})
    config = make_config(plan)
    network = make_network(config, plan).eval()
    image = np.random.default_rng(0).normal(size=(1, *shape)).astype(np.float32)
    logits = segment(network, image, plan, config.inference, CPU)
    assert logits.shape == (3, *shape)
    flat = plan
    minimum = float(image.min())
    for index in range(shape[axis]):
        one = np.expand_dims(np.take(image, index, axis=1 + axis), 1 + axis)
        # A slice alone is padded with its own minimum: the volume's is put where only padding can be seen.
        if all(length >= 16 for position, length in enumerate(shape) if position != axis) or one.min() == minimum:
            alone = segment(network, one, flat, config.inference, CPU)
            np.testing.assert_allclose(np.take(logits, index, axis=1 + axis), np.take(alone, 0, axis=1 + axis), atol=1e-5)


def test_2d_windows_are_never_thicker_than_a_slice_and_never_more_than_window_batch():
    plan = make_plan(2)
    network = Record()
    segment(network, np.zeros((1, 16, 16, 7), np.float32), plan, InferenceConfig(window_batch=3), CPU)
    assert network.shapes == [(3, 1, 16, 16), (3, 1, 16, 16), (1, 1, 16, 16)]


def test_network_and_windows_agree_with_bf16_up_to_its_rounding():
    plan = make_plan()
    image = np.random.default_rng(0).normal(size=(1, 16, 16, 16)).astype(np.float32)
    exact = make_predictor(plan).segment(image)
    rough = make_predictor(plan, precision="bf16").segment(image)
    assert rough.dtype == torch.float32
    assert 0 < float((rough - exact).abs().max()) < 0.1 * float(exact.abs().max())


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_output_that_is_not_finite_is_refused(value):
    class Broken(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            logits = torch.cat([x, x], dim=1)
            logits[0, 1, 0, 0, 0] = value
            return logits

    with pytest.raises(RunError, match="not finite in fp32"):
        segment(Broken(), np.zeros((1, 16, 16, 16), np.float32), make_plan(), FP32, CPU)


def test_a_read_only_memory_map_is_read_without_being_changed(tmp_path):
    image = np.random.default_rng(0).normal(size=(1, 16, 16, 16)).astype(np.float32)
    np.save(tmp_path / "image.npy", image)
    mapped = np.load(tmp_path / "image.npy", mmap_mode="r")

    class InPlace(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return torch.cat([x, x.mul_(2)], dim=1)

    segment(InPlace(), mapped, make_plan(), FP32, CPU)
    assert np.array_equal(np.load(tmp_path / "image.npy"), image)


def test_segmenting_leaves_the_training_mode_as_it_was(predictor):
    image = np.zeros((1, 16, 16, 16), np.float32)
    for mode in (True, False):
        predictor.network.train(mode)
        predictor.segment(image)
        assert predictor.network.training is mode
