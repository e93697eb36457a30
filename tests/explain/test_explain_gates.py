"""Gates are found where the configuration puts them, watched without a trace, and replaced."""

import pytest
import torch
from explain_model import make_network
from torch import nn

from se_med.attention import insert_attention
from se_med.explain.gates import find_gates, find_parts, replacing, watching

EVERYWHERE = ("encoder", "bottleneck", "upsample", "skip", "concat", "decoder", "head")
PRODUCTS = [
    "cse",
    "sse",
    "scse",
    {"block": "scse", "aggregation": "add"},
    {"block": "scse", "aggregation": "multiply"},
    {"block": "scse", "aggregation": "gate_multiply"},
    {"block": "scse", "identity_start": True},
    "pe",
    "eca",
    "cbam",
    "gather_excite",
    {"block": "global_context", "fusion": "scale"},
    "static",
    "no_squeeze",
    "mean",
]


def image(dims=3, batch=2):
    return torch.randn(batch, 1, *(16,) * dims, generator=torch.Generator().manual_seed(1))


def test_gates_come_in_the_order_in_which_a_map_passes_them():
    network = make_network(dict.fromkeys(EVERYWHERE, "cse"))
    found = [(gate.site, gate.stage) for gate in find_gates(network)]
    expected = [("encoder", 0), ("bottleneck", 1), ("upsample", 0), ("skip", 0), ("concat", 0), ("decoder", 0), ("head", 0)]
    assert found == expected
    assert {gate.block for gate in find_gates(network)} == {"cse"}
    assert all(network.get_submodule(gate.name) is gate.module for gate in find_gates(network))


def test_gates_inside_units_and_norms_know_their_place():
    inside = make_network({"decoder": {"block": "cse", "placement": "standard"}}, decoder_units=2)
    assert [(gate.site, gate.stage, gate.unit) for gate in find_gates(inside)] == [("decoder", 0, 0), ("decoder", 0, 1)]
    norms = make_network({"encoder": "se_norm", "bottleneck": "se_norm"})
    assert [(gate.site, gate.stage, gate.unit) for gate in find_gates(norms)] == [("encoder", 0, 0), ("bottleneck", 1, 0)]
    assert {gate.kind for gate in find_gates(norms)} == {"normalisation"}


def test_a_plain_network_has_none_and_a_foreign_one_has_its_modules_names():
    assert find_gates(make_network(None)) == ()
    foreign = nn.Sequential(nn.Conv3d(1, 4, 3, padding=1), nn.ReLU())
    insert_attention(foreign, "1", "cse", 3, probe=image())
    assert [(gate.name, gate.site, gate.stage) for gate in find_gates(foreign)] == [("1.attention", "1.attention", None)]


@pytest.mark.parametrize("block", PRODUCTS, ids=str)
@pytest.mark.parametrize("dims", [2, 3])
def test_the_factor_is_what_the_block_multiplies_by(block, dims):
    network, x = make_network({"encoder": block}, dims), image(dims)
    seen = {}
    inputs = {}
    (gate,) = find_gates(network)
    gate.module.register_forward_hook(lambda module, given, output: inputs.update(x=given[0], y=output))
    with torch.inference_mode(), watching(network, lambda gate, factor: seen.update({gate.name: factor})):
        network(x)
    factor = seen[gate.name]
    assert factor.shape[1] in (1, 4)
    torch.testing.assert_close(inputs["x"] * factor, inputs["y"])
    low, high = gate.bounds
    assert float(factor.min()) >= low
    assert float(factor.max()) <= high


@pytest.mark.parametrize("block", [*PRODUCTS, "se_norm", "attention_gate", "fine_attention_gate"], ids=str)
def test_a_gate_replaced_by_its_own_factor_changes_nothing(block):
    site = "skip" if "attention_gate" in block else "encoder"
    network, x = make_network({site: block}), image()
    (gate,) = find_gates(network)
    with torch.inference_mode():
        expected = network(x)
        with replacing(network, {gate.name: lambda factor: factor}):
            torch.testing.assert_close(network(x), expected, rtol=1e-4, atol=1e-5)
        with replacing(network, {gate.name: lambda factor: 0.25 * factor}):
            assert not torch.allclose(network(x), expected, rtol=1e-3, atol=1e-3)
        torch.testing.assert_close(network(x), expected, rtol=0, atol=0)


def test_a_gate_replaced_by_ones_is_a_network_without_it():
    network, plain, x = make_network({"decoder": "scse"}), make_network(None), image()
    with torch.inference_mode(), replacing(network, {"gates.decoder_0": torch.ones(1)}):
        torch.testing.assert_close(network(x), plain(x), rtol=1e-4, atol=1e-5)


def test_watching_leaves_nothing_behind():
    network, x = make_network("scse"), image()
    calls = []
    with torch.inference_mode():
        with watching(network, lambda gate, factor: calls.append(gate.name)):
            network(x)
        with pytest.raises(ValueError, match="divisible"), watching(network, lambda gate, factor: calls.append("never")):
            network(x[..., :-1])
        network(x)
    assert calls == ["gates.encoder_0", "gates.decoder_0"]


@pytest.mark.parametrize(("block", "parts"), [("scse", ["channel", "spatial"]), ("cbam", ["channel"]), ("cse", [])])
def test_parts_are_what_the_block_is_made_of(block, parts):
    (gate,) = find_gates(make_network({"encoder": block}))
    x = torch.randn(2, 4, 8, 8, 8, generator=torch.Generator().manual_seed(2))
    found = find_parts(gate)
    assert [part.part for part in found] == parts
    factors = {part.part: part.factor(x) for part in found}
    if block == "scse":
        torch.testing.assert_close(gate.module(x), torch.maximum(x * factors["channel"], x * factors["spatial"]))
    if block == "cbam":
        ratio = gate.factor(x) / factors["channel"]
        torch.testing.assert_close(ratio, ratio[:, :1].expand_as(ratio))


@pytest.mark.parametrize(
    ("attention", "weighed"),
    [
        ({"encoder": {"block": "scse", "aggregation": "concat"}}, "nothing"),
        ({"encoder": "global_context"}, "nothing"),
        ({"encoder": "se_norm"}, "normalised"),
        ({"skip": "attention_gate"}, "transformed"),
        ({"skip": "fine_attention_gate"}, "input"),
    ],
)
def test_blocks_say_what_their_factor_multiplies(attention, weighed):
    network = make_network(attention)
    (gate,) = find_gates(network)
    assert gate.weighed == weighed
    assert bool(gate.reason) == (weighed != "input")
    seen = []
    with torch.inference_mode(), watching(network, lambda gate, factor: seen.append(gate)):
        network(image())
    assert len(seen) == (weighed != "nothing")


def test_what_cannot_be_replaced_is_refused_by_name():
    network = make_network({"encoder": "global_context"})
    with pytest.raises(ValueError, match="adds a term"), replacing(network, {"gates.encoder_0": torch.ones(1)}):
        pass
    with pytest.raises(ValueError, match=r"gates\.decoder_0"), replacing(network, {"gates.decoder_0": torch.ones(1)}):
        pass
