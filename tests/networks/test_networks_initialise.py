"""Initial weights depend on seed and parameter name alone, and have the usual distributions."""

import inspect
import itertools
import math

import pytest
import torch
from network_cases import SITES, build
from scipy import stats
from torch import nn

from se_med.attention import attention_class, list_attention
from se_med.networks.build import build_network
from se_med.networks.initialise import initialise
from se_med.networks.placement import sites_of
from se_med.networks.units import UNITS


def networks(rank):
    """Networks that differ in everything that the configuration offers."""
    made = {
        f"{unit}-{norm}-{activation}": build(rank, unit=unit, norm=norm, activation=activation)
        for unit, norm, activation in itertools.product(UNITS, ("instance", "batch", "group"), ("relu", "gelu"))
    }
    made["deep"] = build(rank, features=(4, 6, 8, 10))
    made["stem"] = build(rank, stem=(2,) * rank, deep_supervision=(1, 0.5))
    made["units"] = build(rank, encoder_units=2, decoder_units=3, dropout=0.2)
    for name in list_attention():
        if rank in attention_class(name).ranks:
            for site in sites_of(name):
                made[f"{site}-{name}"] = build(rank, attention={site: name})
            made[f"{name}-reduction"] = build(rank, attention={site: {"block": name, **narrow(name)} for site in sites_of(name)})
    for unit, kind in UNITS.items():
        made[f"{unit}-two"] = build(rank, unit=unit, encoder_units=2, groups=4)
        for placement in kind.placements:
            gate = {"block": "scse", "placement": placement}
            made[f"{unit}-{placement}"] = build(rank, unit=unit, norm="batch", attention={"encoder": gate, "decoder": gate})
    made["all"] = build(rank, attention=dict.fromkeys(SITES, "scse"))
    return made


def narrow(name):
    """Options that make a smaller hidden layer, where the block has one."""
    return {"min_hidden": 3} if "min_hidden" in inspect.signature(attention_class(name)).parameters else {}


@pytest.mark.parametrize("rank", [2, 3])
def test_any_two_networks_start_equal_in_all_they_share(rank):
    seen = {}
    shared = 0
    for name, net in networks(rank).items():
        for key, parameter in net.named_parameters():
            first_name, first = seen.setdefault((key, parameter.shape), (name, parameter))
            assert torch.equal(first, parameter), f"{key} of {name} and {first_name}"
            shared += first is not parameter
    assert shared > 500


@pytest.mark.parametrize("rank", [2, 3])
def test_a_gate_renames_nothing(rank):
    plain = dict(build(rank).named_parameters())
    for site in SITES:
        gated = dict(build(rank, attention={site: "scse"}).named_parameters())
        assert set(plain) < set(gated)
        assert all(key.startswith("gates.") for key in set(gated) - set(plain))


def test_another_seed_gives_other_weights():
    first, second = build(attention="scse"), build(attention="scse", seed=1)
    for (key, a), (_, b) in zip(first.named_parameters(), second.named_parameters(), strict=True):
        constant = "norm" in key or key.endswith("bias")
        assert torch.equal(a, b) == constant, key


def test_parameters_of_equal_shape_differ_from_each_other():
    net = build(features=(8, 8, 8), encoder_units=3)
    weights = [p for p in net.parameters() if p.shape == (8, 8, 3, 3, 3)]
    assert len(weights) > 5
    assert all(not torch.equal(a, b) for a, b in itertools.combinations(weights, 2))


def test_building_leaves_the_random_state_alone_and_ignores_it():
    torch.manual_seed(5)
    expected = torch.rand(4)
    torch.manual_seed(5)
    first = build(attention="scse")
    assert torch.equal(torch.rand(4), expected)
    torch.manual_seed(99)
    second = build(attention="scse")
    assert all(torch.equal(a, b) for a, b in zip(first.parameters(), second.parameters(), strict=True))


@pytest.mark.parametrize("unit", UNITS)
def test_a_gate_inside_units_renames_nothing(unit):
    plain = dict(build(unit=unit, norm="batch").named_parameters())
    for placement in UNITS[unit].placements:
        gate = {"block": "scse", "placement": placement}
        gated = dict(build(unit=unit, norm="batch", attention={"encoder": gate, "decoder": gate}).named_parameters())
        assert set(plain) < set(gated)
        assert all(key.startswith(("gates.encoder_", "gates.decoder_")) for key in set(gated) - set(plain))
        assert all(torch.equal(plain[key], gated[key]) for key in plain)


@pytest.mark.parametrize("rank", [2, 3])
@pytest.mark.parametrize("unit", ["plain", "residual"])
def test_convolutions_are_he_normal_and_norms_neutral(rank, unit):
    net = build(rank, unit=unit, features=(16, 32, 48), encoder_units=2, stem=(2,) * rank, deep_supervision=(1, 1))
    checked = 0
    for name, module in net.named_modules():
        if isinstance(module, (nn.Conv2d, nn.Conv3d, nn.ConvTranspose2d, nn.ConvTranspose3d)):
            weight = module.weight.detach()
            std = math.sqrt(2 / (1 + 0.01**2) / weight[0].numel())
            # A thousandth for each of some 30 tensors: a wrong scale of a few percent fails, chance does not.
            assert stats.kstest(weight.flatten().numpy() / std, "norm").pvalue > 1e-3, name
            assert module.bias is None or not module.bias.any()
            checked += 1
        elif hasattr(module, "num_groups"):
            assert torch.equal(module.weight, torch.ones_like(module.weight))
            assert not module.bias.any()
    assert checked > 10


def test_layers_of_gates_are_uniform_as_torch_has_them():
    net = build(features=(64, 128, 256), attention={**dict.fromkeys(SITES, "scse")}, seed=3)
    checked = 0
    for name, module in net.gates.named_modules():
        if isinstance(module, (nn.Linear, nn.Conv3d)):
            bound = module.weight[0].numel() ** -0.5
            values = module.weight.detach().flatten()
            assert values.abs().max() <= bound
            assert stats.kstest(values.numpy(), "uniform", (-bound, 2 * bound)).pvalue > 1e-3, name
            assert not module.bias.any()
            checked += 1
    assert checked > 25


def test_a_layer_without_a_rule_is_refused():
    class Unknown(nn.Module):
        def __init__(self):
            super().__init__()
            self.table = nn.Parameter(torch.zeros(3))

    with pytest.raises(TypeError, match=r"0\.table: no rule for the parameters of Unknown"):
        initialise(nn.Sequential(Unknown()), 0)


def test_build_network_is_float32_on_the_cpu_in_training_mode():
    from network_cases import configure

    from se_med.config.attention import AttentionConfig

    net = build_network(configure(), AttentionConfig(), 1, 2, 0)
    assert net.training
    assert {(p.dtype, p.device.type) for p in net.parameters()} == {(torch.float32, "cpu")}
