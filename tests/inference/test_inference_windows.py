"""Windows: what networks are shown, how their outputs are joined, and that it is what MONAI does."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from monai.data.utils import compute_importance_map
from monai.inferers.utils import sliding_window_inference
from tiny_model import make_config, make_network, make_plan, make_predictor
from torch import nn

from se_med.data.padding import pad_to
from se_med.errors import RunError
from se_med.inference.predictor import Predictor
from se_med.inference.windows import gaussian_weights


class Record(nn.Module):
    """Gives the image, its negative and its square as logits, and keeps the shapes that it was given."""

    def __init__(self) -> None:
        super().__init__()
        self.shapes: list[tuple[int, ...]] = []

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.shapes.append(tuple(x.shape))
        return torch.cat([x, -x, x.square()], dim=1)


def predict_with(network: nn.Module, plan, **inference) -> Predictor:
    return Predictor(network, make_config(plan, **inference), plan)


def noise_of(*shape: int) -> np.ndarray:
    return np.random.default_rng(0).normal(size=shape).astype(np.float32)


def by_monai(network: nn.Module, image: np.ndarray, patch: tuple[int, ...], overlap: float = 0.5) -> torch.Tensor:
    with torch.inference_mode():
        batch = torch.from_numpy(pad_to(image, patch)[0])[None]
        inside = pad_to(image, patch)[1]
        return sliding_window_inference(batch, patch, 2, network.eval(), overlap, "gaussian")[0][inside]


def test_a_volume_that_fits_passes_once_and_exactly():
    image, network = noise_of(1, 9, 16, 11), Record()
    logits = predict_with(network, make_plan()).segment(image)
    assert network.shapes == [(1, 1, 16, 16, 16)]
    assert np.array_equal(logits.numpy(), np.concatenate([image, -image, image**2]))
    assert logits.dtype == torch.float32


@pytest.mark.parametrize("shape", [(17, 16, 16), (30, 9, 40), (16, 41, 23)])
@pytest.mark.parametrize("overlap", [0.0, 0.5, 0.7])
def test_windows_of_a_larger_volume_join_without_seams_and_offsets(shape, overlap):
    image, network = noise_of(1, *shape), Record()
    logits = predict_with(network, make_plan(), whole_volume="never", overlap=overlap).segment(image)
    assert all(seen[1:] == (1, 16, 16, 16) and seen[0] <= 2 for seen in network.shapes)
    np.testing.assert_allclose(logits.numpy(), np.concatenate([image, -image, image**2]), atol=1e-5)


@pytest.mark.parametrize("window", [(16, 16, 16), (9, 40, 5), (31, 1, 4)])
def test_weights_are_those_of_monai(window):
    assert torch.equal(gaussian_weights(window), compute_importance_map(window, "gaussian", 0.125))


@pytest.mark.parametrize("shape", [(40, 18, 25), (17, 50, 16), (9, 33, 47)])
@pytest.mark.parametrize("overlap", [0.25, 0.5])
def test_logits_of_windows_are_those_of_monai(shape, overlap):
    plan = make_plan()
    predictor = make_predictor(plan, whole_volume="never", overlap=overlap)
    image = noise_of(1, *shape)
    torch.testing.assert_close(
        predictor.segment(image), by_monai(predictor.network, image, plan.patch, overlap), rtol=1e-4, atol=1e-5
    )


def test_one_piece_where_it_saves_four_windows_and_the_volume_is_not_much_larger_than_the_patch():
    network = Record()
    predictor = predict_with(network, make_plan())
    for shape, expected in (
        ((20, 17, 24), (1, 1, 20, 17, 24)),
        ((16, 17, 24), (1, 1, 16, 17, 24)),
        ((16, 16, 24), (2, 1, 16, 16, 16)),
        ((20, 17, 25), (2, 1, 16, 16, 16)),
    ):
        network.shapes.clear()
        image = noise_of(1, *shape)
        logits = predictor.segment(image)
        assert network.shapes[0] == expected
        np.testing.assert_allclose(logits.numpy(), np.concatenate([image, -image, image**2]), atol=1e-5)


def test_one_piece_is_padded_to_what_the_network_can_take():
    plan = make_plan()
    predictor = make_predictor(plan)
    image = noise_of(1, 19, 22, 23)
    padded, inside = pad_to(image, (20, 22, 24))
    with torch.no_grad():
        expected = predictor.network.eval()(torch.from_numpy(padded)[None])[0][inside]
    assert torch.equal(predictor.segment(image), expected)


def test_one_piece_takes_no_more_memory_than_there_is():
    network = make_network(make_config(make_plan()), make_plan())
    shapes = []
    network.register_forward_pre_hook(lambda module, inputs: shapes.append(tuple(inputs[0].shape)))
    image, seen = noise_of(1, 24, 24, 24), []
    for memory in (8.0, *np.geomspace(0.01, 0.0001, 20)):
        predict_with(network, make_plan(), max_memory=float(memory)).segment(image)
        seen.append(shapes[-1])
    assert list(dict.fromkeys(seen)) == [(1, 1, 24, 24, 24), (2, 1, 16, 16, 16), (1, 1, 16, 16, 16)]


def test_small_volumes_are_padded_with_the_channel_minimum_as_in_training():
    plan = make_plan(channels=2)
    image = np.stack([np.full((4, 4, 4), 2.0), np.linspace(-1, 1, 64).reshape(4, 4, 4)]).astype(np.float32)

    class Border(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            self.seen = x.clone()
            return torch.cat([x, x[:, :1]], 1)

    network = Border()
    predict_with(network, plan).segment(image)
    assert np.array_equal(network.seen[0].numpy(), pad_to(image, (16, 16, 16))[0])


@pytest.mark.parametrize("axis", [0, 1, 2])
@pytest.mark.parametrize("shape", [(9, 12, 7), (20, 18, 35)])
@pytest.mark.parametrize("whole", ["auto", "never"])
def test_a_2d_network_takes_slices_across_the_slice_axis(axis, shape, whole):
    plan = make_plan(2).model_copy(update={"slice_axis": axis})
    predictor = make_predictor(plan, whole_volume=whole)
    image = noise_of(1, *shape)
    logits = predictor.segment(image)
    assert logits.shape == (3, *shape)
    for index in range(shape[axis]):
        one = np.expand_dims(np.take(image, index, axis=1 + axis), 1 + axis)
        # A slice alone is padded with its own minimum: the volume's is put where only padding can be seen.
        if all(length >= 16 for position, length in enumerate(shape) if position != axis) or one.min() == image.min():
            alone = predictor.segment(one)
            np.testing.assert_allclose(np.take(logits, index, axis=1 + axis), np.take(alone, 0, axis=1 + axis), atol=1e-5)


def test_windows_of_a_2d_network_are_those_of_monai_slice_by_slice():
    plan = make_plan(2).model_copy(update={"slice_axis": 1})
    predictor = make_predictor(plan, whole_volume="never")
    image = noise_of(1, 40, 3, 25)
    expected = [by_monai(predictor.network, image[:, :, index], plan.patch) for index in range(3)]
    torch.testing.assert_close(predictor.segment(image), torch.stack(expected, 2), rtol=1e-4, atol=1e-5)


def test_2d_windows_are_never_thicker_than_a_slice_and_never_more_than_window_batch():
    network = Record()
    predict_with(network, make_plan(2), window_batch=3).segment(np.zeros((1, 16, 16, 7), np.float32))
    assert network.shapes == [(3, 1, 16, 16), (3, 1, 16, 16), (1, 1, 16, 16)]


def test_network_and_windows_agree_with_bf16_up_to_its_rounding():
    image = noise_of(1, 16, 16, 16)
    exact = make_predictor(make_plan()).segment(image)
    rough = make_predictor(make_plan(), precision="bf16").segment(image)
    assert rough.dtype == torch.float32
    assert 0 < float((rough - exact).abs().max()) < 0.1 * float(exact.abs().max())


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
@pytest.mark.parametrize("shape", [(16, 16, 16), (40, 16, 16)])
def test_output_that_is_not_finite_is_refused(value, shape):
    class Broken(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            logits = torch.cat([x, x, x], dim=1)
            logits[0, 1, 0, 0, 0] = value
            return logits

    with pytest.raises(RunError, match="not finite in fp32"):
        predict_with(Broken(), make_plan()).segment(np.zeros((1, *shape), np.float32))


def test_a_read_only_memory_map_is_read_without_being_changed(tmp_path):
    image = noise_of(1, 16, 16, 16)
    np.save(tmp_path / "image.npy", image)
    mapped = np.load(tmp_path / "image.npy", mmap_mode="r")

    class InPlace(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return torch.cat([x, x.mul_(2), x], dim=1)

    predict_with(InPlace(), make_plan()).segment(mapped)
    assert np.array_equal(np.load(tmp_path / "image.npy"), image)


def test_segmenting_leaves_the_training_mode_as_it_was(predictor):
    image = np.zeros((1, 16, 16, 16), np.float32)
    for mode in (True, False):
        predictor.network.train(mode)
        predictor.segment(image)
        assert predictor.network.training is mode
