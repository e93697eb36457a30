"""Units: their shapes, their formulas with a gate at every seat, and the parameter counts of the networks they come from."""

import pytest
import torch
from network_cases import build, configure, image
from torch import nn
from unit_cases import ENDS, SEATS, Formula, gate_channels, label, make_unit

from se_med.attention import create_attention
from se_med.config.attention import AttentionConfig
from se_med.networks.layers import InstanceNorm
from se_med.networks.placement import place_gates
from se_med.networks.seat import Seat
from se_med.networks.units import UNITS, make_stage

RESNET_50 = ((64, 256, 1, 3), (256, 512, 2, 4), (512, 1024, 2, 6), (1024, 2048, 2, 3))
"""Channels before and after, stride and units of the stages of ResNet-50."""


def textures(rank, channels=8, batch=2, size=6):
    """Maps of unlike texture and scale."""
    generator = torch.Generator().manual_seed(batch + channels)
    x = torch.randn(batch, channels, *(size,) * rank, generator=generator, dtype=torch.float64)
    power = torch.linspace(0.6, 2.2, batch * channels, dtype=torch.float64).reshape(batch, channels, *(1,) * rank)
    return x.sign() * x.abs() ** power + 0.3 * power


@pytest.mark.parametrize("rank", [2, 3])
@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("norm", ["instance", "batch", "group"])
@pytest.mark.parametrize("unit", UNITS)
def test_shapes(unit, norm, stride, rank):
    made = make_unit(unit, rank, 3, 12, stride, norm=norm)
    x = textures(rank, 3, size=8)
    assert made(x).shape == (2, 12, *(8 // stride,) * rank)


@pytest.mark.parametrize("rank", [2, 3])
@pytest.mark.parametrize("projected", [False, True], ids=["identity", "projected"])
@pytest.mark.parametrize(("unit", "seat"), SEATS, ids=label)
def test_each_placement_is_its_formula(unit, seat, projected, rank):
    channels_in, stride = (5, 2) if projected else (8, 1)
    variants = [{}, ENDS] if unit == "residual_preact" and not projected else [{}]
    for more in variants:
        made = make_unit(unit, rank, channels_in, 8, stride, seat, "batch", **more)
        width = gate_channels(unit, seat.placement, channels_in, 8, configure(rank, unit=unit))
        gate = create_attention("cse", width, rank, squeeze="avg+max").double()
        x = textures(rank, channels_in)
        formula = Formula(made, lambda y, source, gate=gate: y * gate.gate(source), seat)
        expected = getattr(formula, unit)(x)
        torch.testing.assert_close(made(x.clone(), gate), expected, rtol=1e-12, atol=1e-12)
        without = getattr(Formula(made, None, None), unit)(x)
        torch.testing.assert_close(made(x.clone()), without, rtol=1e-12, atol=1e-12)
        assert (expected - without).abs().max() > 1e-3


@pytest.mark.parametrize(("unit", "seat"), SEATS, ids=label)
def test_gradients_pass_every_seat_and_no_input_is_overwritten(unit, seat):
    for activation in ("leaky_relu", "elu", "gelu"):
        made = make_unit(unit, 2, 8, 8, 1, seat, network={"activation": activation})
        gate = create_attention(
            "cse", gate_channels(unit, seat.placement, 8, 8, configure(2, unit=unit)), 2, squeeze="std"
        ).double()
        x = textures(2)
        kept = x.clone().requires_grad_()
        made(kept, gate).square().sum().backward()
        assert torch.equal(kept, x)
        gradients = [kept.grad, *(parameter.grad for parameter in (*made.parameters(), *gate.parameters()))]
        assert all(gradient is not None and gradient.isfinite().all() for gradient in gradients)


def test_preactivated_units_leave_the_shortcut_alone_under_se_norm():
    stage = make_stage(
        configure(unit="residual_preact"),
        lambda channels: create_attention("se_norm", channels, 3),
        4,
        4,
        (3, 3, 3),
        (1, 1, 1),
        3,
    )
    x = textures(3, 4).float()
    branches = []
    for unit in stage:
        unit.conv2.register_forward_hook(lambda module, inputs, output: branches.append(output))
    y = stage(x)
    total = x
    for branch in branches:
        total = branch + total
    assert torch.equal(y, stage[2].norm3(stage[2].activation3(total.clone())))


def test_a_stage_of_preactivated_units_starts_bare_and_ends_activated():
    stage = make_stage(configure(unit="residual_preact"), None, 4, 6, (3, 3, 3), (2, 2, 2), 3)
    assert [isinstance(unit.norm1, InstanceNorm) for unit in stage] == [False, True, True]
    assert [isinstance(unit.norm3, InstanceNorm) for unit in stage] == [False, False, True]
    assert [name for name, _ in stage[0].shortcut.named_children()] == ["pool", "conv"]


@pytest.mark.parametrize("unit", UNITS)
def test_gates_reach_the_unit_they_are_made_for(unit):
    net = build(
        unit=unit, norm="batch", features=(4, 8), encoder_units=2, decoder_units=2,
        attention={site: {"block": "cse", "placement": "standard"} for site in ("encoder", "bottleneck", "decoder")},
    )  # fmt: skip
    names = ["bottleneck_1_0", "bottleneck_1_1", "decoder_0_0", "decoder_0_1", "encoder_0_0", "encoder_0_1"]
    assert sorted(net.gates) == names
    order = []
    for name, gate in net.gates.items():
        gate.register_forward_hook(lambda module, inputs, output, name=name: order.append(name))
    logits = net(image())
    assert order == ["encoder_0_0", "encoder_0_1", "bottleneck_1_0", "bottleneck_1_1", "decoder_0_0", "decoder_0_1"]
    assert net.gate("decoder", 0, 1) is net.gates["decoder_0_1"]
    assert net.gate("decoder", 0) is None
    for name, gate in net.gates.items():
        gate.forward = torch.zeros_like
        assert not torch.allclose(net(image()), logits), name
        del gate.forward


@pytest.mark.parametrize("stages", [None, [1]])
def test_stages_choose_where_units_have_gates(stages):
    net = build(
        unit="residual", features=(4, 6, 8), norm="batch",
        attention={"encoder": {"block": "cse", "placement": "standard", "stages": stages}},
    )  # fmt: skip
    assert sorted(net.gates) == (["encoder_0_0", "encoder_1_0"] if stages is None else ["encoder_1_0"])
    assert net(image()).isfinite().all()


@pytest.mark.parametrize(
    ("unit", "expected"),
    [("bottleneck", 25_557_032 - 2_049_000 - 9_536), ("resnext", 25_028_904 - 2_049_000 - 9_536)],
)
def test_parameters_are_those_of_resnet_50_and_resnext_50_32x4d(unit, expected):
    """The published counts without the classifier (2048 x 1000 + 1000) and the stem (7 x 7 x 3 x 64 + 2 x 64)."""
    network = configure(2, unit=unit, norm="batch", groups=32)
    with torch.device("meta"):
        stages = [make_stage(network, None, a, b, (3, 3), (stride, stride), units) for a, b, stride, units in RESNET_50]
    assert sum(parameter.numel() for stage in stages for parameter in stage.parameters()) == expected


@pytest.mark.parametrize(("placement", "expected"), [("standard", 2_514_944), ("conv3", 2_514_944 // 16)])
def test_gates_of_an_encoder_like_resnet_50_have_the_published_count(placement, expected):
    gate = {"block": "cse", "reduction": 16, "min_hidden": 1, "placement": placement}
    network = configure(
        2, unit="bottleneck", norm="batch", features=(256, 512, 1024, 2048), encoder_units=(3, 4, 6, 3), strides=((2, 2),) * 3,
        kernels=((3, 3),) * 4,
    )  # fmt: skip
    with torch.device("meta"):
        gates = place_gates(AttentionConfig.model_validate({"encoder": gate, "bottleneck": gate}), network)
    assert len(gates) == 16
    assert sum(block.fc1.weight.numel() + block.fc2.weight.numel() for block in gates.values()) == expected


def test_the_deepest_stage_without_gates_saves_most_of_their_weights():
    features = (256, 512, 1024, 2048)
    network = configure(2, unit="bottleneck", norm="batch", features=features, encoder_units=(3, 4, 6, 3))
    gate = {"block": "cse", "reduction": 16, "min_hidden": 1, "placement": "standard"}
    with torch.device("meta"):
        gates = place_gates(AttentionConfig.model_validate({"encoder": gate}), network)
    assert sum(block.fc1.weight.numel() + block.fc2.weight.numel() for block in gates.values()) == 942_080


@pytest.mark.parametrize("channels", [4, 5, 7, 8, 32, 100])
def test_inception_branches_share_all_channels(channels):
    made = make_unit("inception", 2, 3, channels)
    last = [branch[-1].out_channels for branch in (made.branch1, made.branch2, made.branch3, made.branch4)]
    assert sum(last) == channels
    assert min(last) >= 1
    if channels == 32:
        assert last == [8, 16, 4, 4]


def test_resnext_takes_the_largest_number_of_groups_that_fits():
    groups = {width: make_unit("resnext", 2, 3, 2 * width).conv2.groups for width in (8, 12, 20, 7, 1)}
    assert groups == {8: 8, 12: 6, 20: 5, 7: 7, 1: 1}


def test_units_inside_se_norm_have_biases_and_no_plain_norm():
    for unit in UNITS:
        net = build(unit=unit, features=(4, 8), encoder_units=2, attention={"encoder": "se_norm"})
        convolutions = [module for module in net.encoder[0].modules() if isinstance(module, nn.Conv3d)]
        spare = [net.encoder[0][0].shortcut.conv] if unit == "residual_preact" else []
        assert all((module.bias is None) == any(module is other for other in spare) for module in convolutions), unit
        assert not any(isinstance(module, InstanceNorm) for module in net.encoder[0].modules())
        assert net(image()).isfinite().all()


def test_a_seat_without_a_gate_is_a_plain_unit():
    x = textures(3)
    seated, plain = (make_unit("plain", seat=seat) for seat in (Seat("standard", "post_norm"), None))
    assert torch.equal(seated(x), plain(x))
