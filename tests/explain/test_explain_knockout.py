"""Knock-outs: what is computed once gives what plain passes give, and planted gates cost what they must."""

from itertools import pairwise

import numpy as np
import pytest
import torch
from own_cases import means_of, strong_predictor, write_cases
from scipy import stats

from se_med.data.case import Case
from se_med.errors import UsageError
from se_med.explain.gates import find_gates, replacing, watching
from se_med.explain.knockout import CAVEAT, knock_out, mean_interval, removable_gates, summarise
from se_med.explain.variants import Variant, fitted, predict_variants, single_pass
from se_med.io.images import read_image

EVERYWHERE = dict.fromkeys(("encoder", "bottleneck", "upsample", "skip", "concat", "decoder", "head"), "scse")
ATTENTION = [
    EVERYWHERE,
    EVERYWHERE | {"skip": "attention_gate"},
    {"encoder": {"block": "cse", "placement": "standard", "squeeze_from": "pre_norm"}, "decoder": "se_norm"},
]
THREE = {"features": (4, 6, 8)}


def three_stages(attention, dims, inference=None):
    network = {**THREE, "strides": ((2,) * dims,) * 2, "kernels": ((3,) * dims,) * 3, "encoder_units": 2}
    return strong_predictor(attention, dims, inference, **network)


@pytest.mark.parametrize("dims", [2, 3])
@pytest.mark.parametrize("attention", ATTENTION)
def test_what_is_computed_once_is_what_plain_passes_give(attention, dims, tmp_path):
    """Every gate alone, two together, all together, with factors of their own and of another case; windows overlap."""
    predictor = three_stages(attention, dims, {"whole_volume": "never", "test_time_flips": False})
    (case,) = write_cases(tmp_path, predictor, 1, (18, 16, 2) if dims == 2 else (18, 16, 16))
    prepared = predictor.preparation.forward(read_image(case.images[0]))
    names = [gate.name for gate in find_gates(predictor.network)]
    ones = {name: torch.full((1, 1, *(1,) * dims), 0.3) for name in names}
    variants = [Variant(), *(Variant({name: ones[name]}) for name in names)]
    variants += [Variant({name: ones[name] for name in pair}) for pair in pairwise(names)]
    variants += [Variant(ones), Variant(shuffled=tuple(names))]
    found = predict_variants(predictor, prepared, variants, prepared.array)
    for variant, labels in zip(variants, found, strict=True):
        # A donor that is the case itself gives each gate the factor that it has anyway.
        with replacing(predictor.network, variant.factors):
            assert np.array_equal(labels, predictor.label(prepared))
    assert len({labels.tobytes() for labels in found}) > 2


def test_shuffled_gates_take_the_factors_of_the_donor(tmp_path):
    predictor = strong_predictor("scse")
    case, other = (one.images[0] for one in write_cases(tmp_path, predictor, 2))
    prepared, donor = (predictor.preparation.forward(read_image(path)) for path in (case, other))
    name = find_gates(predictor.network)[0].name
    (labels,) = predict_variants(predictor, prepared, [Variant(shuffled=(name,))], donor.array)
    # The volumes pass in one piece, so that the donor's factors can be had from one pass of the padded donor.
    factors = {}
    shape = prepared.array.shape[1:]
    at_place = fitted(donor.array, shape)
    with watching(predictor.network, lambda gate, factor: factors.update({gate.name: factor})):
        predictor.segment(at_place)
    with replacing(predictor.network, {name: factors[name]}):
        wanted = predictor.label(prepared)
    assert np.array_equal(labels, wanted)
    assert not np.array_equal(labels, predictor.label(prepared))
    with pytest.raises(ValueError, match="another case"):
        predict_variants(predictor, prepared, [Variant(shuffled=(name,))])


def test_variants_in_several_rounds_are_the_same(tmp_path):
    predictor = strong_predictor("cse", inference={"whole_volume": "never", "window_batch": 1})
    (case,) = write_cases(tmp_path, predictor, 1)
    prepared = predictor.preparation.forward(read_image(case.images[0]))
    variants = [Variant(), *(Variant({gate.name: torch.ones(1, 1, 1, 1, 1)}) for gate in find_gates(predictor.network))]
    at_once = predict_variants(predictor, prepared, variants)
    small = single_pass(predictor)
    inference = predictor.config.inference.model_copy(update={"max_memory": 1e-4})
    small.config = predictor.config.model_copy(update={"inference": inference})
    for one, other in zip(at_once, predict_variants(small, prepared, variants), strict=True):
        assert np.array_equal(one, other)


def test_a_static_gate_costs_nothing_and_a_working_one_does(tmp_path):
    predictor = strong_predictor({"encoder": "static", "decoder": "cse"})
    cases = write_cases(tmp_path, predictor)
    result = knock_out(predictor, cases, means_of(predictor, cases), seed=3)
    assert [place.name for place in result.places] == ["encoder 0", "decoder 0"]
    assert result.row("encoder 0", "mean").dice == 1.0
    for replacement in ("mean", "shuffled"):
        row = result.row("encoder 0", replacement)
        assert (row.change, row.low, row.high) == (0.0, 0.0, 0.0)
        assert result.row("decoder 0", replacement).change < 0
    assert result.row("encoder 0", "one").change < -0.01
    assert {row.structure for row in result.rows} == {"mean", "dark", "bright"}
    assert CAVEAT in result.notes
    assert "nothing about the luck" in CAVEAT


def test_rows_follow_from_the_cases(tmp_path):
    predictor = strong_predictor("scse")
    cases = write_cases(tmp_path, predictor, 3)
    result = knock_out(predictor, cases, means_of(predictor, cases), replacements=("mean", "one"))
    row = result.row("decoder 0", "one")
    changes = [scores["mean"] for scores in result.changes["decoder 0", "one"].values()]
    low, high = stats.t.interval(0.95, 2, np.mean(changes), stats.sem(changes))
    assert row.cases == 3
    assert row.change == pytest.approx(np.mean(changes))
    assert (row.low, row.high) == (pytest.approx(low), pytest.approx(high))
    structures = [result.row("decoder 0", "one", name).change for name in ("dark", "bright")]
    assert row.change == pytest.approx(np.mean(structures))


def test_a_limit_draws_cases_and_a_single_one_is_not_shuffled(tmp_path):
    predictor = strong_predictor({"decoder": "cse"})
    cases = write_cases(tmp_path, predictor, 3)
    means = means_of(predictor, cases[:1])
    two = knock_out(predictor, cases, means, limit=2, seed=1)
    assert len(two.cases) == 2
    assert two.available == 3
    assert any("2 of 3 cases" in note for note in two.notes)
    one = knock_out(predictor, cases, means, limit=1)
    assert {row.replacement for row in one.rows} == {"mean", "one"}
    assert one.row("decoder 0", "mean").low is None
    assert any("nothing was shuffled" in note for note in one.notes)


def test_gates_inside_units_go_together():
    predictor = strong_predictor({"encoder": {"block": "sse", "placement": "standard"}}, encoder_units=2)
    (place,) = removable_gates(find_gates(predictor.network))
    assert place.gates == ("gates.encoder_0_0", "gates.encoder_0_1")
    concat = strong_predictor({"decoder": {"block": "scse", "aggregation": "concat"}, "encoder": "cse"})
    assert [place.site for place in removable_gates(find_gates(concat.network))] == ["encoder"]


def test_false_alarms_and_absent_structures():
    """What is right to be absent is perfect where the other prediction raised a false alarm, else it is not counted."""
    (mean,) = summarise({"a": {"mean": 1.0}}, {"a": {"mean": -1.0}, "b": {}}, "g", "cse", "mean")
    assert (mean.cases, mean.change, mean.low) == (1, -1.0, None)


def test_interval_of_equal_values_has_no_width():
    assert mean_interval(np.array([0.5, 0.5, 0.5])) == (0.5, 0.5, 0.5)


def test_errors(tmp_path):
    predictor = strong_predictor("cse")
    (case,) = write_cases(tmp_path, predictor, 1)
    means = means_of(predictor, [case])
    with pytest.raises(ValueError, match="'zero' is not one of"):
        knock_out(predictor, [case], means, replacements=("zero",))
    with pytest.raises(UsageError, match="no labelled case"):
        knock_out(predictor, [], means)
    with pytest.raises(UsageError, match="has no label"):
        knock_out(predictor, [Case(case.name, case.images, None)], means)
