"""Planes that move along the volume give what whole volumes of logits would, on every grid and in every order."""

from __future__ import annotations

import itertools
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from nibabel.orientations import apply_orientation, inv_ornt_aff
from tiny_model import make_plan, make_predictor, write_image

from se_med.errors import ImageError
from se_med.inference.predictor import Predictor
from se_med.inference.tiling import tile, whole_window
from se_med.io.volume import Volume

ORIENTATIONS = [
    np.array(list(zip(axes, flips, strict=True)))
    for axes in itertools.permutations(range(3))
    for flips in itertools.product((1, -1), repeat=3)
]


def held_whole(predictor: Predictor, volume: Volume) -> np.ndarray:
    """Labels by way of all logits of the volume at once."""
    prepared = predictor.preparation.forward(volume)
    return predictor.preparation.restore(predictor.segment(prepared.array), prepared)


@settings(deadline=None, max_examples=25)
@given(
    shape=st.tuples(*[st.sampled_from([1, 7, 8, 9, 13, 20])] * 3),
    spacing=st.sampled_from([(1.0, 1.0, 1.0), (2.0, 1.0, 1.5), (0.6, 1.0, 0.9), (1.0, 1.0, 0.5)]),
    orientation=st.sampled_from(ORIENTATIONS),
    overlap=st.sampled_from([0.0, 0.3, 0.5]),
    batch=st.sampled_from([1, 2, 5]),
    dims=st.sampled_from([2, 3]),
    shifts=st.sampled_from([1, 2]),
)
def test_labels_by_planes_are_those_of_all_logits_at_once(shape, spacing, orientation, overlap, batch, dims, shifts):
    plan = make_plan(dims, patch=(8,) * dims, spacing=spacing).model_copy(update={"stem": (2,) * dims})
    predictor = make_predictor(plan, overlap=overlap, window_batch=batch, test_time_shifts=shifts)
    array = np.random.default_rng(0).normal(size=shape).astype(np.float32)
    stored = np.ascontiguousarray(apply_orientation(array, orientation))
    volume = Volume(stored[None], inv_ornt_aff(orientation, shape))
    found = predictor.predict(volume)
    assert np.array_equal(found.labels, held_whole(predictor, volume))
    assert np.array_equal(predictor.label(predictor.preparation.forward(volume)), found.labels)


@settings(deadline=None, max_examples=100)
@given(
    shape=st.tuples(*[st.sampled_from([1, 7, 15, 16, 17, 25, 40])] * 3),
    window=st.tuples(*[st.sampled_from([1, 4, 16])] * 3),
    margins=st.tuples(*[st.integers(0, 3)] * 3),
    overlap=st.floats(0, 0.95),
    batch=st.integers(1, 9),
    axis=st.sampled_from([None, 0, 1, 2]),
)
def test_windows_cover_every_voxel_and_planes_are_finished_when_none_comes_any_more(shape, window, margins, overlap, batch, axis):
    margins = tuple(most if size > 1 else 0 for most, size in zip(margins, window, strict=True))
    tiling = tile(shape, window, margins, overlap, batch, axis)
    finished, held, seen = 0, 0, []
    for starts, after in tiling.groups():
        first, last = min(start[tiling.axis] for start in starts), max(start[tiling.axis] for start in starts)
        assert first >= finished  # nothing is added to a finished plane, whatever the shift
        held = max(held, last + tiling.window[tiling.axis] + tiling.margins[tiling.axis] - finished)
        finished = after
        seen += starts
    assert finished == tiling.extent[tiling.axis]
    assert held <= tiling.capacity
    assert len(seen) == len(set(seen)) == tiling.count
    for index in range(3):
        covered = np.zeros(max(length + margins[index] for length in [shape[index]]), bool)
        for start in tiling.starts[index]:
            low = max(0, start - tiling.before[index])
            covered[low : max(low, start - tiling.before[index] + tiling.window[index])] = True
        assert covered.all()


def test_a_piece_takes_a_whole_volume_with_its_margins():
    assert whole_window((17, 20, 7), (16, 16, 1), (1, 0, 0), (4, 4, 1), 1.5) == (20, 20, 1)
    assert whole_window((17, 25, 7), (16, 16, 16), (0, 0, 0), (4, 4, 4), 1.5) is None


def test_a_volume_that_takes_too_much_is_refused_before_it_is_read(tmp_path, monkeypatch):
    path = write_image(tmp_path / "large.nii.gz", np.zeros((40, 50, 60), np.float32))

    def read(source: object) -> None:
        raise AssertionError("it was read")

    monkeypatch.setattr("se_med.inference.predictor.read_image", read)
    with pytest.raises(ImageError) as caught:
        make_predictor(make_plan(), max_memory=0.001).predict(path)
    message = str(caught.value)
    assert message.startswith(f"{path}: 40x50x60 voxels and 3 outputs take 0.0")
    assert "inference.max_memory is 0.001; raise it" in message
    assert "\n" not in message


def test_validation_never_refuses(noise):
    predictor = make_predictor(make_plan(), max_memory=0.0001)
    volume = Volume(noise[None], np.eye(4))
    expected = make_predictor(make_plan(), whole_volume="never", window_batch=1).predict(volume).labels
    assert np.array_equal(predictor.label(predictor.preparation.forward(volume)), expected)


def test_probabilities_and_entropy_are_those_of_the_logits(noise):
    predictor = make_predictor(make_plan())
    volume = Volume(noise[None, :, ::-1].copy(), np.diag([1.0, -1.0, 1.0, 1.0]))
    found = predictor.predict(volume, probabilities=True, uncertainty=True)
    expected = predictor.segment(predictor.preparation.forward(volume).array).softmax(0).numpy()[:, :, ::-1]
    np.testing.assert_allclose(found.probabilities / 255, expected, atol=0.5 / 255 + 1e-5)
    entropy = -(expected * np.log(expected)).sum(0) / np.log(3)
    np.testing.assert_allclose(found.entropy.astype(np.float32), entropy, atol=2e-3)
    assert found.disagreement is None
    assert found.outputs == ("background", "front", "back")
    assert np.array_equal(found.labels, predictor.predict(volume).labels)


def test_disagreement_is_what_passes_do_not_share(noise):
    plan = make_plan().model_copy(update={"stem": (2, 2, 2)})
    volume = Volume(noise[None, :15, :15], np.eye(4))
    predictor = make_predictor(plan, test_time_shifts=4)
    found = predictor.predict(volume, uncertainty=True)
    assert 0 < float(found.disagreement.max()) <= float(found.entropy.max())
    assert (found.disagreement.astype(np.float32) <= found.entropy.astype(np.float32) + 2e-3).all()
    # Passes that agree: the entropy is all their own.
    with torch.no_grad():
        for parameter in predictor.network.parameters():
            parameter.zero_()
    found = predictor.predict(volume, uncertainty=True)
    np.testing.assert_allclose(found.entropy.astype(np.float32), 1.0, atol=1e-3)
    np.testing.assert_allclose(found.disagreement.astype(np.float32), 0.0, atol=1e-3)


def test_table_has_voxels_volume_and_intensities(noise, predictor):
    volume = Volume(noise[None], np.diag([2.0, 1.0, 1.0, 1.0]))
    found = predictor.predict(volume)
    for row, value in zip(found.table(), (3, 7), strict=True):
        mask = found.labels == value
        assert row.voxels == mask.sum()
        assert row.volume_ml == pytest.approx(mask.sum() * 2 / 1000)
        if mask.any():
            assert row.means == pytest.approx([noise[mask].mean()], rel=1e-4)
            assert row.deviations == pytest.approx([noise[mask].std()], rel=1e-4)
    with torch.no_grad():
        predictor.network.heads[0].bias.copy_(torch.tensor([100.0, 0.0, 0.0]))
    assert [(row.voxels, row.means) for row in predictor.predict(volume).table()] == [(0, None), (0, None)]


def test_several_threads_share_the_limit(noise, tmp_path: Path):
    from concurrent.futures import ThreadPoolExecutor

    predictor = make_predictor(make_plan(), max_memory=0.02)
    paths = [write_image(tmp_path / f"{index}.nii.gz", noise + index) for index in range(6)]
    with ThreadPoolExecutor(3) as pool:
        together = list(pool.map(lambda path: predictor.predict(path).labels, paths))
    assert all(np.array_equal(labels, predictor.predict(path).labels) for labels, path in zip(together, paths, strict=True))
