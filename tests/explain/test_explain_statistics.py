"""Planted gates are told for what they are: static, dead, dependent on the case, the voxel or the window."""

import numpy as np
import pytest
import torch
from explain_model import make_plan, make_predictor
from planted_gates import collect, gate_of, make_case, predictor_with, switch_by_brightness

from se_med.explain.analysis import analyse
from se_med.explain.collect import Moments, collect_case, find_watched
from se_med.explain.statistics import gate_statistics


def statistics_of(predictor, tmp_path, **options):
    return gate_statistics(gate_of(predictor), collect(predictor, tmp_path, **options))


@pytest.mark.parametrize("block", ["static", "mean"])
def test_a_static_gate_is_constant(block, tmp_path):
    predictor = predictor_with({"encoder": block})
    with torch.no_grad():
        for name, tensor in (*predictor.network.gates.named_parameters(), *predictor.network.gates.named_buffers()):
            if name.endswith(("logit", "running_mean")):
                tensor.copy_(torch.tensor([0.1, 0.4, 0.7, 0.9]))
    found = statistics_of(predictor, tmp_path)
    assert found.verdict == "constant"
    assert found.over_cases < 1e-7
    assert found.over_channels > 0.05
    assert found.share_of_channels == pytest.approx(1)
    assert found.share_of_cases == pytest.approx(0, abs=1e-9)


def test_an_excitation_without_weights_is_constant_and_a_small_one_nearly(tmp_path):
    predictor = predictor_with({"encoder": "cse"})
    switch_by_brightness(predictor)
    gate = predictor.network.gates["encoder_0"]
    with torch.no_grad():
        strong = statistics_of(predictor, tmp_path)
        gate.fc2.weight.mul_(1e-2)
        small = statistics_of(predictor, tmp_path)
        gate.fc2.weight.zero_()
        none = statistics_of(predictor, tmp_path)
    assert [small.verdict, none.verdict] == ["nearly constant", "constant"]
    assert strong.over_cases > 20 * small.over_cases > 0
    assert "hardly" in small.sentence


def test_a_dead_gate_is_dead(tmp_path):
    predictor = predictor_with({"decoder": "cse"})
    with torch.no_grad():
        predictor.network.gates["decoder_0"].fc2.bias.fill_(-30)
    found = statistics_of(predictor, tmp_path, cases=2)
    assert (found.verdict, found.dead_channels, found.channels) == ("dead", 4, 4)
    assert found.below == 1
    with torch.no_grad():
        predictor.network.gates["decoder_0"].fc2.bias[2:] = 30
    found = statistics_of(predictor, tmp_path, cases=2)
    assert found.verdict != "dead"
    assert (found.dead_channels, found.below, found.above) == (2, 0.5, 0.5)


def test_a_relu_gate_that_never_opens_is_dead(tmp_path):
    predictor = predictor_with({"encoder": {"block": "cse", "gate_function": "relu"}})
    with torch.no_grad():
        predictor.network.gates["encoder_0"].fc2.bias.fill_(-30)
    found = statistics_of(predictor, tmp_path, cases=2)
    assert found.verdict == "dead"
    assert np.isnan(found.below)


def test_a_spatial_gate_varies_within_cases(tmp_path):
    predictor = predictor_with({"encoder": "sse"})
    with torch.no_grad():
        predictor.network.gates["encoder_0"].conv.weight.fill_(1)
    found = statistics_of(predictor, tmp_path)
    assert found.verdict == "depends"
    assert "voxel to voxel" in found.sentence
    assert found.share_of_positions > 0.9
    assert found.over_channels == 0


def test_parts_of_a_block_are_told_apart(tmp_path):
    predictor = predictor_with({"encoder": "scse"})
    gate = predictor.network.gates["encoder_0"]
    with torch.no_grad():
        gate.channel.fc2.weight.zero_()
        gate.spatial.conv.weight.fill_(1)
    cases = collect(predictor, tmp_path, cases=2)
    found = {one.gate.part: one for one in (gate_statistics(site, cases) for site in find_watched(predictor))}
    assert [found[part].verdict for part in ("", "channel", "spatial")] == ["depends", "constant", "depends"]
    assert found["channel"].gate.label == "encoder 0 channel part"
    assert found["spatial"].channels == 1


def test_two_constant_parts_are_no_attention_whatever_their_maximum_does(tmp_path):
    predictor = predictor_with({"encoder": "scse"})
    gate = predictor.network.gates["encoder_0"]
    with torch.no_grad():
        gate.channel.fc2.weight.zero_()
        gate.channel.fc2.bias.fill_(-2)
        gate.spatial.conv.weight.zero_()
        gate.spatial.conv.bias.fill_(2)
    analysis = analyse(predictor, collect(predictor, tmp_path, cases=2))
    (whole,) = analysis.whole
    assert whole.over_positions > 0.3
    assert whole.verdict == "nearly constant"
    assert "no attention" in whole.sentence


def test_one_case_in_one_window_tells_nothing_of_a_channel_gate(tmp_path):
    found = statistics_of(predictor_with({"encoder": "cse"}), tmp_path, cases=1)
    assert found.verdict == "unknown"


def test_shares_add_up(tmp_path):
    found = statistics_of(predictor_with({"encoder": "scse"}), tmp_path, cases=3)
    assert found.share_of_channels + found.share_of_cases + found.share_of_positions == pytest.approx(1)
    assert found.low <= found.mean <= found.high


@pytest.mark.parametrize("dims", [2, 3])
def test_moments_are_those_of_all_windows_together(dims, tmp_path):
    """Every number is that of the factors of all windows, taken at once, padding left out."""
    predictor = make_predictor(make_plan(dims), {"encoder": "scse"})
    image, label = make_case(tmp_path, 1, shape=(40, 16, 9))
    case = collect_case(predictor, "a", [image], label)
    gate = find_watched(predictor)[0]
    moments = case.gates[gate.name].moments
    assert case.windows == (9 * 4 if dims == 2 else 4)
    assert moments.count == (9 * 4 * 16 * 16 if dims == 2 else 4 * 16 * 16 * 9)
    assert (moments.variance > 0).all()


def test_running_moments_equal_those_at_once():
    values = torch.randn(3, 1000, generator=torch.Generator().manual_seed(0), dtype=torch.float64) * 1e-3 + 0.5
    whole = Moments.of(values, (0.0, 1.0))
    parts = Moments.of(values[:, :10], (0.0, 1.0))
    for start, stop in ((10, 400), (400, 401), (401, 1000)):
        parts.add(Moments.of(values[:, start:stop], (0.0, 1.0)))
    np.testing.assert_allclose(parts.mean, whole.mean, rtol=1e-6)
    np.testing.assert_allclose(parts.variance, values.numpy().var(1), rtol=1e-3)
    np.testing.assert_array_equal(parts.low, whole.low)
    assert parts.count == 1000


def test_saturation_is_a_share_of_the_range():
    values = torch.tensor([[0.0, 0.2, 1.0, 1.96]])
    moments = Moments.of(values, (0.0, 2.0))
    assert (moments.below.item(), moments.above.item()) == (1, 1)
