"""A gate that switches by class is told from one that does not, in regions and in windows."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from planted_gates import collect, gate_of, predictor_with, switch_by_brightness

from se_med.explain.collect import region_kind
from se_med.explain.profiles import profile, separate

CLASSES = ("background", "dark", "bright")


def profiles_of(predictor, tmp_path, view="regions", **options):
    return profile(gate_of(predictor), collect(predictor, tmp_path, **options), CLASSES, view)


def test_a_gate_that_switches_by_class_separates_classes(tmp_path):
    predictor = predictor_with({"encoder": "cse"})
    switch_by_brightness(predictor)
    found = profiles_of(predictor, tmp_path)
    assert found.separating
    assert found.structures_separation > 0.95
    assert found.kind == "squeezed"
    assert found.cases == (5, 5, 5)
    dark, bright = found.mean[1], found.mean[2]
    assert (bright - dark)[0] > 0.3
    assert (dark - bright)[3] > 0.3
    assert "Tells classes apart" in found.sentence


def test_classes_that_the_image_does_not_show_are_not_separated(tmp_path):
    predictor = predictor_with({"encoder": "cse"})
    switch_by_brightness(predictor)
    found = profiles_of(predictor, tmp_path, related=False)
    assert found.structures_separation < 0.5


def test_a_static_gate_separates_nothing(tmp_path):
    predictor = predictor_with({"encoder": "static"})
    assert profiles_of(predictor, tmp_path) is None
    found = profiles_of(predictor, tmp_path, "windows")
    assert not found.separating
    assert found.separation == 0
    assert found.distance < 1e-6


def test_a_spatial_gate_is_averaged_over_the_region(tmp_path):
    predictor = predictor_with({"encoder": "sse"})
    network = predictor.network
    with torch.no_grad():
        conv = network.encoder[0][0].conv
        conv.weight.zero_()
        conv.weight[0, 0, 1, 1, 1] = 1
        gate = network.gates["encoder_0"]
        gate.conv.weight.zero_()
        gate.conv.weight[0, 0] = 4
        gate.conv.bias.fill_(-2)
    found = profiles_of(predictor, tmp_path)
    assert found.kind == "mean"
    assert found.separating
    assert found.mean.shape == (3, 1)
    assert found.mean[2, 0] > 0.8
    assert found.mean[1, 0] < 0.2


def test_windows_with_one_class_each_show_the_same(tmp_path):
    predictor = predictor_with({"encoder": "cse"}, inference={"overlap": 0.0, "whole_volume": "never"}, norm="batch")
    switch_by_brightness(predictor)
    options = {"shape": (32, 16, 16)}
    apart = profiles_of(predictor, tmp_path, "windows", **options)
    assert apart.separating
    assert apart.cases == (0, 5, 5)
    # In one window both classes are there, and the windows of one are those of the other.
    together = profiles_of(predictor, tmp_path / "small", "windows")
    assert not together.separating
    assert together.structures_separation == 0


def test_without_labels_classes_are_where_they_are_predicted(tmp_path):
    predictor = predictor_with({"encoder": "cse"})
    records = collect(predictor, tmp_path, cases=2, labels=False)
    assert records[0].dice is None
    assert sum(records[0].volumes.values()) > 0
    labelled = collect(predictor, tmp_path, cases=2)
    assert set(labelled[0].dice) == {"dark", "bright"}
    assert labelled[0].volumes["dark"] == pytest.approx(6 * 5 * 5 / 1000)


def test_blocks_without_regions_say_so():
    assert region_kind(gate_of(predictor_with({"encoder": {"block": "global_context", "fusion": "scale"}}))) == ""
    assert region_kind(gate_of(predictor_with({"encoder": "pe"}))) == "mean"
    assert region_kind(gate_of(predictor_with({"encoder": "scse"}))) == "squeezed"


@given(st.integers(0, 10_000), st.integers(2, 4), st.integers(3, 12))
def test_separation_is_a_share_and_small_by_chance(seed, classes, cases):
    generator = np.random.default_rng(seed)
    noise = generator.normal(size=(cases, classes, 40))
    assert 0 <= separate(noise) < 0.35
    moved = noise + 50 * np.arange(classes)[:, None]
    assert separate(moved) > 0.95
    missing = moved.copy()
    missing[0, 0] = np.nan
    assert separate(missing) > 0.9


def test_separation_needs_two_classes_and_repetition():
    assert np.isnan(separate(np.zeros((5, 1, 3))))
    assert np.isnan(separate(np.zeros((1, 2, 3))))
    assert separate(np.ones((5, 2, 3))) == 0
