"""Attention blocks in a network: any block at its sites, two-input gates, replaced norms, identity at the start."""

import pytest
import torch
from network_cases import build, image
from torch import nn

from se_med.attention import attention_class, list_attention
from se_med.attention.se_norm import SENorm
from se_med.config.attention import AttentionConfig
from se_med.errors import ConfigError
from se_med.networks.placement import sites_of
from se_med.networks.units import UNITS

BLENDED = [name for name in list_attention() if attention_class(name).kind != "normalisation"]


@pytest.mark.parametrize("name", list_attention())
def test_every_block_has_a_configuration_with_the_defaults_of_its_class(name):
    import inspect

    gate = AttentionConfig.model_validate({"skip": name}).skip
    parameters = inspect.signature(attention_class(name)).parameters
    defaults = {key: value.default for key, value in parameters.items() if value.default is not inspect.Parameter.empty}
    defaults.pop("stride", None)  # comes from the network
    assert gate.options() == defaults


@pytest.mark.parametrize("rank", [2, 3])
@pytest.mark.parametrize("unit", ["plain", "residual"])
@pytest.mark.parametrize("name", list_attention())
def test_every_block_at_all_its_sites(name, rank, unit):
    net = build(rank, unit=unit, attention=dict.fromkeys(sites_of(name), name))
    logits = net(image(rank))
    logits.square().mean().backward()
    assert logits.shape == (2, 3, *(8,) * rank)
    assert all(parameter.grad.isfinite().all() for parameter in net.parameters() if parameter.grad is not None)
    assert net.eval()(image(rank)).isfinite().all()


@pytest.mark.parametrize("rank", [2, 3])
@pytest.mark.parametrize("name", BLENDED)
def test_a_plain_checkpoint_gives_equal_logits_in_an_identity_start_network(name, rank):
    plain = build(rank, seed=4)
    gated = build(rank, attention={site: {"block": name, "identity_start": True} for site in sites_of(name)})
    found = gated.load_state_dict(plain.state_dict(), strict=False)
    assert found.unexpected_keys == []
    assert all(key.startswith("gates.") for key in found.missing_keys)
    x = image(rank)
    assert torch.equal(gated(x), plain(x))
    assert torch.equal(gated.eval()(x), plain.eval()(x))


@pytest.mark.parametrize("unit", UNITS)
@pytest.mark.parametrize("name", [name for name in BLENDED if sites_of(name) != ("skip",)])
def test_every_block_inside_every_unit(name, unit):
    placements = UNITS[unit].placements if unit == "bottleneck" else ["standard"]
    for placement in placements:
        gate = {"block": name, "placement": placement}
        net = build(2, unit=unit, norm="batch", features=(4, 6), attention=dict.fromkeys(("encoder", "decoder"), gate))
        logits = net(image(2))
        logits.square().mean().backward()
        assert sorted(net.gates) == ["decoder_0_0", "encoder_0_0"]
        assert logits.shape == (2, 3, 8, 8)
        assert all(parameter.grad is not None and parameter.grad.isfinite().all() for parameter in net.parameters())


@pytest.mark.parametrize("rank", [2, 3])
@pytest.mark.parametrize(("unit", "placement"), [(unit, where) for unit, kind in UNITS.items() for where in kind.placements])
def test_a_plain_checkpoint_gives_equal_logits_with_identity_start_inside_units(unit, placement, rank):
    plain = build(rank, seed=4, unit=unit, norm="batch", encoder_units=2)
    x = image(rank)
    gate = {"block": {2: "cse", 3: "scse"}[rank], "placement": placement, "identity_start": True}
    attention = dict.fromkeys(("encoder", "bottleneck", "decoder"), gate)
    gated = build(rank, unit=unit, norm="batch", encoder_units=2, attention=attention)
    found = gated.load_state_dict(plain.state_dict(), strict=False)
    assert found.unexpected_keys == []
    assert all(key.startswith("gates.") for key in found.missing_keys)
    assert torch.equal(gated.eval()(x), plain.eval()(x))


@pytest.mark.parametrize("name", ["attention_gate", "fine_attention_gate"])
@pytest.mark.parametrize("rank", [2, 3])
def test_skip_gates_see_skip_and_decoder_features(name, rank):
    strides = ((1, 2, 2)[-rank:], (2, 2, 4)[-rank:])
    net = build(rank, strides=strides, attention={"skip": name})
    seen = {}
    for stage in (0, 1):
        net.gate("skip", stage).register_forward_hook(lambda m, i, o, stage=stage: seen.update({stage: [t.shape for t in i]}))
    net(torch.randn(2, 1, *(16,) * rank))
    fine = {0: torch.Size((16,) * rank), 1: torch.Size(16 // by for by in strides[0])}
    deep = torch.Size(size // by for size, by in zip(fine[1], strides[1], strict=True))
    channels = {0: 6, 1: 8} if name == "attention_gate" else {0: 4, 1: 6}
    grid = {0: fine[1], 1: deep} if name == "attention_gate" else fine
    for stage in (0, 1):
        assert seen[stage] == [(2, (4, 6)[stage], *fine[stage]), (2, channels[stage], *grid[stage])]


@pytest.mark.parametrize("name", ["attention_gate", "fine_attention_gate"])
@pytest.mark.parametrize("site", ["encoder", "decoder", "head"])
def test_skip_gates_elsewhere_are_refused(name, site):
    with pytest.raises(ConfigError, match=rf"attention\.{site}\.block: {name} cannot stand here; its sites are skip"):
        build(attention={site: name})


@pytest.mark.parametrize("site", ["skip", "upsample", "concat", "head"])
def test_normalisations_where_no_norm_is_are_refused(site):
    with pytest.raises(ConfigError, match=r"se_norm cannot stand here; its sites are encoder, bottleneck, decoder"):
        build(attention={site: "se_norm"})


@pytest.mark.parametrize("unit", ["plain", "residual"])
def test_se_norm_replaces_the_norms_of_its_stages(unit):
    net = build(unit=unit, attention={"encoder": {"block": "se_norm", "stages": [1]}, "bottleneck": "se_norm"}, encoder_units=2)

    def kinds(stage):
        return {type(module).__name__ for module in stage.modules() if isinstance(module, (SENorm, nn.GroupNorm))}

    assert [kinds(stage) for stage in net.encoder] == [{"InstanceNorm"}, {"SENorm"}, {"SENorm"}]
    assert [kinds(stage) for stage in net.decoder] == [{"InstanceNorm"}] * 2
    assert len(net.gates) == 0
    convolutions = [module for module in net.encoder[1].modules() if isinstance(module, nn.Conv3d)]
    assert all(convolution.bias is not None for convolution in convolutions)


def test_se_norm_follows_the_activation():
    net = build(attention={"encoder": "se_norm"})
    x = image()
    unit = net.encoder[0][0]
    assert torch.equal(unit(x), unit.norm(nn.functional.leaky_relu(unit.conv(x), 0.01)))


def test_options_refused_by_a_block_are_located():
    with pytest.raises(ConfigError, match=r"attention\.encoder: kernel: 4 must be odd"):
        build(attention={"encoder": {"block": "eca", "kernel": 4}})
    with pytest.raises(ConfigError, match=r"attention\.decoder: extent: 3 must be 0 or a power of two"):
        build(attention={"decoder": {"block": "gather_excite", "extent": 3}})
