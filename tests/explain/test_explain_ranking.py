"""Gates ranked by what their removal costs; sets of them are measured, not added up."""

import numpy as np
import pytest
import torch
from own_cases import means_of, strong_predictor, write, write_cases

from se_med.explain.gates import replacing
from se_med.explain.knockout import constant_variant, knock_out
from se_med.explain.ranking import rank_gates
from se_med.explain.timing import time_folding
from se_med.networks.cost import measure_network

ATTENTION = {"encoder": "static", "bottleneck": "cse", "decoder": "scse"}


@pytest.fixture(scope="module")
def ranked(tmp_path_factory):
    predictor = strong_predictor(ATTENTION)
    cases = write_cases(tmp_path_factory.mktemp("ranked"), predictor, 3)
    means = means_of(predictor, cases)
    knockouts = knock_out(predictor, cases, means, replacements=("mean",))
    return predictor, cases, means, knockouts


def test_the_least_needed_comes_first_with_what_it_saves(ranked):
    predictor, cases, means, knockouts = ranked
    ranking = rank_gates(predictor, cases, knockouts, means)
    assert ranking.rows[0].gate == "encoder 0"
    assert [row.change for row in ranking.rows] == sorted((row.change for row in ranking.rows), reverse=True)
    network = predictor.network
    for row in ranking.rows:
        gate = network.gates[row.gate.replace(" ", "_")]
        assert row.parameters == sum(parameter.numel() for parameter in gate.parameters())
    costs = measure_network(network, 1, (16, 16, 16), 2)
    assert sum(row.macs for row in ranking.rows) == costs.gates.macs
    assert sum(row.macs_percent for row in ranking.rows) == pytest.approx(100 * costs.gates.macs / costs.total.macs)


def test_sets_are_measured_together(ranked):
    predictor, cases, means, knockouts = ranked
    ranking = rank_gates(predictor, cases, knockouts, means)
    order = [row.gate for row in ranking.rows]
    assert [joint.gates for joint in ranking.joints] == [tuple(order[:count]) for count in (1, 2, 3)]
    everything = ranking.joints[-1]
    assert everything.sum_of_changes == pytest.approx(sum(row.change for row in ranking.rows))
    # References are the network's own labels, so that the change follows from two label maps.
    changes = []
    for case in cases:
        before = predictor.predict(case.images[0]).labels
        with replacing(predictor.network, constant_variant(knockouts.places, means, 3).factors):
            after = predictor.predict(case.images[0]).labels
        dice = [
            2 * ((before == value) & (after == value)).sum() / ((before == value).sum() + (after == value).sum())
            for value in (3, 7)
        ]
        changes.append(np.mean(dice) - 1)
    assert everything.change == pytest.approx(np.mean(changes))
    assert everything.change != pytest.approx(everything.sum_of_changes)


def test_the_proposal_keeps_to_what_is_allowed(ranked):
    predictor, cases, means, knockouts = ranked
    for allowed in (0.0, 2.0):
        ranking = rank_gates(predictor, cases, knockouts, means, allowed=allowed)
        fit = [joint for joint in ranking.joints if joint.low >= -allowed]
        assert ranking.proposal == fit[-1]
        assert f"no more than {allowed:g} Dice" in ranking.sentence
        assert "same cases" in ranking.sentence
    assert ranking.proposal.gates == tuple(row.gate for row in ranking.rows)
    assert ranking.timing.before_ms > 0
    assert ranking.timing.threads == torch.get_num_threads()


def test_of_both_constants_the_one_that_costs_less_is_taken(tmp_path):
    """References are those of a network whose encoder gates are 1, so that 1 makes good there what the gates lose."""
    predictor = strong_predictor({"encoder": "scse", "decoder": "cse"})
    cases = write_cases(tmp_path, predictor, 2)
    for case in cases:
        with replacing(predictor.network, {"gates.encoder_0": torch.ones(1, 1, 1, 1, 1)}):
            write(case.label, predictor.predict(case.images[0]).labels)
    means = means_of(predictor, cases)
    knockouts = knock_out(predictor, cases, means, replacements=("mean", "one"))
    ranking = rank_gates(predictor, cases, knockouts, means, allowed=2.0)
    factors = ranking.factors(means)
    words = {"mean": "its mean", "one": "1"}
    for row in ranking.rows:
        changes = {name: knockouts.row(row.gate, name).change for name in words}
        assert row.replacement == max(changes, key=changes.get)
        assert row.change == max(changes.values())
        (name,) = row.modules
        assert torch.equal(factors[name], means[name] if row.replacement == "mean" else torch.ones(4))
        assert f"{row.gate} by {words[row.replacement]}" in ranking.sentence
    (encoder,) = [row for row in ranking.rows if row.gate == "encoder 0"]
    assert encoder.replacement == "one"
    assert encoder.change == pytest.approx(1 - knockouts.row("encoder 0", "one").dice)


def test_nothing_can_go(tmp_path):
    predictor = strong_predictor({"decoder": {"block": "scse", "aggregation": "add"}})
    cases = write_cases(tmp_path, predictor, 2)
    means = {"gates.decoder_0": torch.zeros(4)}  # no mean of anything: shuts the decoder
    knockouts = knock_out(predictor, cases, means, replacements=("mean",))
    ranking = rank_gates(predictor, cases, knockouts, means, allowed=0.001)
    assert ranking.proposal is None
    assert ranking.timing is None
    assert ranking.sentence.startswith("No gate could go")


def test_what_cannot_be_folded_is_not_proposed(tmp_path):
    predictor = strong_predictor({"encoder": "static", "skip": "attention_gate"})
    cases = write_cases(tmp_path, predictor, 2)
    means = means_of(predictor, cases)
    ranking = rank_gates(predictor, cases, knock_out(predictor, cases, means, replacements=("mean",)), means, allowed=2.0)
    (row,) = [row for row in ranking.rows if row.gate == "skip 0"]
    assert not row.foldable
    assert "mix channels" in row.reason
    assert ranking.proposal.gates == ("encoder 0",)
    assert "1 of 2 places cannot be folded" in ranking.sentence


def test_timing_leaves_the_predictor_as_it_was(ranked):
    predictor, _, means, knockouts = ranked
    network = predictor.members[0].network
    timing = time_folding(predictor, knockouts.places, means)
    assert predictor.members[0].network is network is predictor.network
    assert timing.trials == 7
    assert time_folding(predictor, knockouts.places, means, budget=0).trials == 3
