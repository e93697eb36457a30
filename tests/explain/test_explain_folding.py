"""Constant gates fold into the layers around them exactly, at every site, in every unit, in 2D and 3D."""

import copy

import pytest
import torch
from explain_model import make_network

from se_med.attention import Gate
from se_med.explain.folding import fold_gates
from se_med.explain.gates import find_gates, replacing
from se_med.networks.units import UNITS

SITES = ("encoder", "bottleneck", "decoder", "upsample", "skip", "concat", "head")
STAGES = ("encoder", "bottleneck", "decoder")
INSIDE = [(unit, placement) for unit, kind in UNITS.items() for placement in kind.placements]


def drawn(network, low=0.1, high=0.9, seed=0):
    """Random constant factors for all gates of a network, and the network with random weights in double precision."""
    generator = torch.Generator().manual_seed(seed)
    network = network.double()
    with torch.no_grad():
        for name, parameter in network.named_parameters():
            if parameter.ndim == 1 and "gates" not in name:
                parameter.add_(0.3 * torch.randn(parameter.shape, generator=generator, dtype=torch.float64))
        for name, buffer in network.named_buffers():
            if "running" in name:
                buffer.add_(0.3 * torch.rand(buffer.shape, generator=generator, dtype=torch.float64))
    factors = {}
    for gate in find_gates(network):
        uniform = torch.rand(gate.module.channels, generator=generator, dtype=torch.float64)
        factors[gate.name] = low + (high - low) * uniform
    return network, factors


def image(network):
    rank = len(network.divisor)
    generator = torch.Generator().manual_seed(4)
    return torch.randn(2, 1, *(16 if rank == 2 else 8,) * rank, generator=generator, dtype=torch.float64)


def constant(network, factors, x):
    rank = x.ndim - 2
    with torch.no_grad(), replacing(network, {name: one.reshape(1, -1, *(1,) * rank) for name, one in factors.items()}):
        return network(x)


def agrees(network, factors):
    """Fold all gates, which must leave none, and compare in double and in single precision."""
    folding = fold_gates(network, factors)
    assert folding.kept == ()
    assert {one.gate for one in folding.folded} == set(factors)
    assert not any(isinstance(module, Gate) for module in folding.network.modules())
    x = image(network)
    wanted = constant(network, factors, x)
    with torch.no_grad():
        before = network(x)
        found = folding.network(x)
        single = folding.network.float()(x.float())
    scale = wanted.abs().max()
    assert (found - wanted).abs().max() / scale < 1e-10
    rounded = constant(copy.deepcopy(network).float(), {name: factor.float() for name, factor in factors.items()}, x.float())
    assert (single - rounded).abs().max() / scale < 1e-5
    # Something was folded at all: the gates as they are give something else.
    assert (before - wanted).abs().max() / scale > 1e-3


@pytest.mark.parametrize("unit", UNITS)
@pytest.mark.parametrize(("sites", "dims"), [*((site, 2) for site in SITES), (SITES, 3)], ids=str)
def test_gates_at_sites(sites, unit, dims):
    """Each alone in 2D, all of them in 3D."""
    attention = dict.fromkeys([sites] if isinstance(sites, str) else sites, "scse")
    agrees(*drawn(make_network(attention, dims, unit=unit, features=(8, 12), encoder_units=2, decoder_units=2)))


@pytest.mark.parametrize(("unit", "placement"), INSIDE)
@pytest.mark.parametrize(("sites", "dims"), [*((site, 2) for site in STAGES), (STAGES, 3)], ids=str)
def test_gates_inside_units(sites, unit, placement, dims):
    units = 2 if unit != "residual_preact" or placement not in ("pre", "identity") else 1
    attention = {site: {"block": "sse", "placement": placement} for site in ([sites] if isinstance(sites, str) else sites)}
    agrees(*drawn(make_network(attention, dims, unit=unit, features=(8, 12), encoder_units=units, decoder_units=units)))


@pytest.mark.parametrize("norm", ["batch", "group"])
@pytest.mark.parametrize("activation", ["relu", "elu", "gelu"])
@pytest.mark.parametrize("unit", ["plain", "residual", "inception"])
def test_norms_and_activations(unit, activation, norm):
    """Behind an activation that is not linear on both sides of 0 the factor goes on to the next convolutions."""
    units = 1 if unit == "residual" else 2
    network = make_network(
        {"encoder": "cse", "bottleneck": "cse", "decoder": "cse", "skip": "cse", "concat": "cse"},
        2,
        unit=unit,
        norm=norm,
        norm_groups=2,
        activation=activation,
        features=(8, 12, 16),
        strides=((2, 2), (2, 2)),
        kernels=((3, 3),) * 3,
        encoder_units=units,
        decoder_units=units,
    )
    agrees(*drawn(network))


@pytest.mark.parametrize("unit", ["plain", "residual", "bottleneck"])
def test_negative_and_zero_factors(unit):
    """A norm in front of an activation cannot take a negative factor, the convolutions behind can."""
    network, factors = drawn(make_network({"encoder": "cse", "upsample": "cse"}, 2, unit=unit, features=(8, 12)), -0.9, 0.9)
    factors = {name: torch.where(factor.abs() < 0.2, 0.0, factor) for name, factor in factors.items()}
    assert any(bool((factor < 0).any()) for factor in factors.values())
    agrees(network, factors)


def test_batch_norm_behind_a_preactivated_gate():
    network = make_network(
        {"encoder": {"block": "cse", "placement": "pre"}},
        2,
        unit="residual_preact",
        norm="batch",
        encoder_units=3,
        features=(8, 12),
    )
    agrees(*drawn(network))


@pytest.mark.parametrize(
    ("attention", "options", "reason"),
    [
        ({"encoder": {"block": "sse", "placement": "pre"}}, {"unit": "residual_preact", "encoder_units": 2}, "norm"),
        ({"encoder": {"block": "sse", "placement": "identity"}}, {"unit": "residual_preact", "encoder_units": 2}, "norm reads"),
        ({"skip": "attention_gate"}, {}, "mix channels"),
        ({"encoder": {"block": "scse", "aggregation": "concat"}}, {}, "no factor"),
        ({"encoder": "global_context"}, {}, "no factor"),
        ({"encoder": "se_norm"}, {}, "norm of its units"),
    ],
)
def test_what_cannot_be_folded_stays_and_says_why(attention, options, reason):
    network, factors = drawn(make_network(attention, 2, features=(8, 12), **options))
    folding = fold_gates(network, factors)
    assert folding.folded == ()
    assert {one.gate for one in folding.kept} == set(factors)
    assert any(reason in one.reason for one in folding.kept)
    x = image(network)
    with torch.no_grad():
        assert torch.equal(folding.network(x), network(x))


def test_a_gate_that_stays_blocks_the_way_on():
    """Behind an ELU the factor would have to pass the skip connection's gate, which reads the map itself."""
    network, factors = drawn(make_network({"encoder": "cse", "skip": "cse"}, 2, activation="elu"))
    alone = {name: factor for name, factor in factors.items() if "encoder" in name}
    (kept,) = fold_gates(network, alone).kept
    assert "skip 0 stays" in kept.reason
    agrees(network, factors)


def test_the_rest_of_the_gates_see_the_same_maps():
    """Some gates folded, the others left as they are: the output is that of the mixture."""
    network, factors = drawn(make_network({"encoder": "scse", "decoder": "scse", "skip": "cse", "bottleneck": "sse"}, 3))
    some = {name: factor for name, factor in factors.items() if "encoder" in name or "bottleneck" in name}
    folding = fold_gates(network, some)
    assert len(folding.folded) == len(some)
    x = image(network)
    wanted = constant(network, some, x)
    with torch.no_grad():
        assert (folding.network(x) - wanted).abs().max() / wanted.abs().max() < 1e-10


def test_the_network_itself_is_left_alone():
    network, factors = drawn(make_network("scse", 3))
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    fold_gates(network, factors)
    assert all(torch.equal(tensor, before[name]) for name, tensor in network.state_dict().items())


def test_factors_of_one_need_no_layer_that_takes_them():
    """Not even in front of a norm, where nothing else could be folded."""
    attention = {"encoder": {"block": "sse", "placement": "pre"}}
    network, factors = drawn(make_network(attention, 2, unit="residual_preact", encoder_units=2, features=(8, 12)))
    agrees(network, {name: torch.ones_like(factor) for name, factor in factors.items()})


def test_one_factor_for_all_channels_and_unknown_names():
    network, factors = drawn(make_network({"decoder": "sse"}, 2))
    agrees(network, dict.fromkeys(factors, torch.tensor([0.4], dtype=torch.float64)))
    with pytest.raises(ValueError, match="no gate of this network"):
        fold_gates(network, {"gates.nowhere_0": torch.ones(1)})
