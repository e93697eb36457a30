"""Pruned configurations train, pruned models give what the mean gates give."""

import numpy as np
import pytest
import torch
from own_cases import means_of, strong_predictor, write_cases

from se_med.config.load import load_config
from se_med.errors import RunError, UsageError
from se_med.explain import prune as module
from se_med.explain.gates import find_gates, replacing
from se_med.explain.knockout import constant_variant, removable_gates
from se_med.explain.prune import prune, without_gates
from se_med.inference.predictor import Predictor
from se_med.io.images import read_image
from se_med.networks.build import build_network, count_parameters

THREE = {"features": (4, 6, 8), "strides": ((2, 2, 2),) * 2, "kernels": ((3, 3, 3),) * 3}


def test_a_pruned_model_gives_what_the_mean_gates_give(tmp_path, se_med):
    predictor = strong_predictor("scse", **THREE)
    cases = write_cases(tmp_path / "cases", predictor, 2)
    means = means_of(predictor, cases)
    done = prune(predictor, ["encoder 0", "decoder 1"], means, tmp_path / "out")
    assert done.kept == ()
    assert done.difference < 1e-5
    loaded = Predictor.load(done.model, "cpu")
    assert {gate.label for gate in find_gates(loaded.network)} == {"encoder 1", "decoder 0"}
    places = [place for place in removable_gates(find_gates(predictor.network)) if place.name in ("encoder 0", "decoder 1")]
    volume = predictor.preparation.forward(read_image(cases[0].images[0]))
    with replacing(predictor.network, constant_variant(places, means, 3).factors):
        wanted, labels = predictor.segment(volume.array), predictor.label(volume)
    found = loaded.segment(volume.array)
    assert float((found - wanted).abs().max() / wanted.abs().max()) < 1e-5
    assert (loaded.label(volume) != labels).mean() < 1e-3
    assert not np.array_equal(labels, predictor.label(volume))
    result = se_med("predict", done.model, cases[0].images[0], "-o", tmp_path / "predicted")
    assert result.code == 0, result.err


def test_a_pruned_configuration_is_complete_and_trains(tmp_path, small_config, se_med):
    assert se_med("train", small_config, "training.steps=2", "--runs", tmp_path / "runs").code == 0
    predictor = Predictor.load(tmp_path / "runs" / "small", "cpu")
    means = {gate.name: torch.full((4,), 0.5) for gate in find_gates(predictor.network)}
    done = prune(predictor, ["encoder 0"], means, tmp_path / "out")
    config = load_config(done.config)
    assert config.name == "small-pruned"
    assert config.attention.encoder is None
    assert config.attention.decoder == predictor.config.attention.decoder
    assert config.training == predictor.config.training
    trained = se_med("train", done.config, "--runs", tmp_path / "runs")
    assert trained.code == 0, trained.err
    assert [gate.label for gate in find_gates(Predictor.load(tmp_path / "runs" / "small-pruned", "cpu").network)] == ["decoder 0"]


def test_stages_go_one_by_one():
    predictor = strong_predictor({"encoder": {"block": "cse", "stages": [0, 1]}, "decoder": "sse", "bottleneck": "eca"}, **THREE)
    places = {place.name: place for place in removable_gates(find_gates(predictor.network))}
    one = without_gates(predictor.config, [places["encoder 1"], places["decoder 0"]]).attention
    assert one.encoder.stages == (0,)
    assert one.decoder.stages == (1,)
    assert one.bottleneck == predictor.config.attention.bottleneck
    both = without_gates(predictor.config, [places["encoder 0"], places["encoder 1"], places["bottleneck 2"]])
    assert both.attention.encoder is None
    assert both.attention.bottleneck is None
    assert both.attention.decoder == predictor.config.attention.decoder
    network = predictor.config.network
    assert count_parameters(network, both.attention, 1, 3) < count_parameters(network, predictor.config.attention, 1, 3)


@pytest.mark.parametrize(("dims", "placement"), [(2, "standard"), (3, "pre"), (2, "post"), (3, "identity")])
def test_gates_inside_units_are_pruned(placement, dims, tmp_path):
    attention = {"encoder": {"block": "sse", "placement": placement}, "decoder": "cse"}
    predictor = strong_predictor(attention, dims, unit="residual", encoder_units=2)
    means = {gate.name: torch.rand(gate.module.channels) for gate in find_gates(predictor.network)}
    done = prune(predictor, ["encoder 0"], means, tmp_path)
    loaded = Predictor.load(done.model, "cpu")
    assert [gate.label for gate in find_gates(loaded.network)] == ["decoder 0"]
    assert done.difference < 1e-5


def test_what_cannot_be_folded_stays_in_the_model_alone(tmp_path):
    predictor = strong_predictor({"skip": "attention_gate", "encoder": "sse"})
    means = {gate.name: torch.full((1,), 0.7) for gate in find_gates(predictor.network)}
    both = prune(predictor, ["skip 0", "encoder 0"], means, tmp_path / "both")
    assert load_config(both.config).attention == type(predictor.config.attention)()
    assert [gate.label for gate in find_gates(Predictor.load(both.model, "cpu").network)] == ["skip 0"]
    assert "skip 0 stays" in both.sentence
    assert "encoder 0) it is the mean over cases and voxels" in both.sentence
    alone = prune(predictor, ["skip 0"], means, tmp_path / "alone")
    assert alone.model is None
    assert not (tmp_path / "alone" / "pruned").exists()


def test_a_model_that_differs_is_not_written(tmp_path, monkeypatch):
    predictor = strong_predictor({"encoder": "cse"})
    means = {"gates.encoder_0": torch.full((4,), 0.5)}
    fold = module.fold_gates

    def careless(network, factors):
        return fold(network, {name: 1.1 * factor for name, factor in factors.items()})

    monkeypatch.setattr(module, "fold_gates", careless)
    with pytest.raises(RunError, match="nothing was written"):
        prune(predictor, ["encoder 0"], means, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_errors(tmp_path):
    predictor = strong_predictor({"encoder": "cse"})
    with pytest.raises(UsageError, match="choose of encoder 0"):
        prune(predictor, ["decoder 0"], {}, tmp_path)
    with pytest.raises(UsageError, match="no gate to remove"):
        prune(predictor, [], {}, tmp_path)


def test_the_name_stays_within_its_length():
    predictor = strong_predictor({"encoder": "cse"})
    config = predictor.config.model_copy(update={"name": "x" * 100})
    pruned = without_gates(config, removable_gates(find_gates(predictor.network)))
    assert len(pruned.name) == 100
    assert pruned.name.endswith("-pruned")
    build_network(pruned.network, pruned.attention, 1, 3, 0)
