"""The U-Net: shapes, divisor, deep supervision, stem, and what it refuses."""

import pytest
import torch
from network_cases import SITES, build, image

from se_med.attention import Gate
from se_med.networks.units import UNITS


@pytest.mark.parametrize("rank", [2, 3])
@pytest.mark.parametrize("unit", UNITS)
@pytest.mark.parametrize("norm", ["instance", "batch", "group"])
def test_logits_have_the_size_of_the_image(rank, unit, norm):
    net = build(rank, unit=unit, norm=norm, in_channels=2, num_classes=5)
    logits = net(image(rank, channels=2))
    assert logits.shape == (2, 5, *(8,) * rank)
    logits.square().mean().backward()
    assert all(parameter.grad is not None and torch.isfinite(parameter.grad).all() for parameter in net.parameters())


def test_anisotropic_strides_kernels_and_units_per_stage():
    net = build(
        strides=((1, 2, 2), (2, 2, 1)), kernels=((1, 3, 3), (3, 3, 3), (3, 5, 1)), encoder_units=(1, 2, 3), decoder_units=(2, 1)
    )
    assert net.divisor == (2, 4, 2)
    x = torch.randn(1, 1, 4, 12, 6)
    assert net(x).shape == (1, 3, 4, 12, 6)
    assert [len(stage) for stage in net.encoder] == [1, 2, 3]
    assert [len(stage) for stage in net.decoder] == [2, 1]
    assert net.encoder[0][0].conv.weight.shape[2:] == (1, 3, 3)
    assert net.encoder[2][0].conv.weight.shape[2:] == (3, 5, 1)
    assert net.upsample[0].weight.shape[2:] == (1, 2, 2)


@pytest.mark.parametrize(("stem", "divisor"), [((1, 1, 1), (4, 4, 4)), ((2, 2, 2), (8, 8, 8)), ((1, 4, 2), (4, 16, 8))])
def test_divisor_counts_stem_and_strides(stem, divisor):
    net = build(stem=stem)
    assert net.divisor == divisor
    good = torch.randn(1, 1, *(2 * size for size in divisor))
    assert net(good).shape == (1, 3, *good.shape[2:])
    for axis in range(3):
        bad = list(good.shape)
        bad[2 + axis] += 1
        with pytest.raises(ValueError, match=r"must be divisible by \["):
            net(torch.randn(bad))


def test_rank_of_the_input_is_checked():
    with pytest.raises(ValueError, match="divisible"):
        build(3)(torch.randn(1, 1, 8, 8))


@pytest.mark.parametrize("rank", [2, 3])
@pytest.mark.parametrize("stem", [1, 2])
def test_deep_supervision_lists_logits_in_training_only(rank, stem):
    net = build(rank, deep_supervision=(1, 0.5), stem=(stem,) * rank)
    x = image(rank, size=16)
    outputs = net(x)
    assert [output.shape for output in outputs] == [(2, 3, *(size,) * rank) for size in (16, 8)]
    assert net.num_heads == len(net.heads) == 2
    plain = build(rank, stem=(stem,) * rank).eval()
    assert torch.equal(net.eval()(x), plain(x))
    net.heads[1].register_forward_hook(lambda *_: pytest.fail("an auxiliary head ran at inference"))
    net(x)


def test_one_deep_supervision_weight_is_a_list_of_one():
    (logits,) = build(deep_supervision=(1,))(image())
    assert logits.shape == (2, 3, 8, 8, 8)


def test_dropout_drops_whole_channels_in_training_only():
    net = build(dropout=0.5, features=(16, 16))
    x = image()
    first, second = net(x), net(x)
    assert not torch.equal(first, second)
    dropped = net.encoder[0](x)
    assert {(channel == 0).float().mean().item() for channel in dropped.flatten(0, 1)} == {0.0, 1.0}
    assert torch.equal(net.eval()(x), net(x))
    assert torch.equal(net(x), build(features=(16, 16)).eval()(x))


@pytest.mark.parametrize("rank", [2, 3])
@pytest.mark.parametrize("norm", ["instance", "batch"])
def test_one_voxel_in_the_last_stage_is_refused_with_advice(rank, norm):
    net = build(rank, norm=norm)
    with pytest.raises(ValueError, match=r"one voxel is left in the last stage.*larger patches"):
        net(image(rank, batch=1, size=4))


def test_one_voxel_in_the_last_stage_works_where_the_norm_still_has_values():
    assert build(norm="group", norm_groups=2)(image(batch=1, size=4)).shape == (1, 3, 4, 4, 4)
    assert build(norm="batch")(image(batch=2, size=4)).shape == (2, 3, 4, 4, 4)
    assert build(norm="batch").eval()(image(batch=1, size=4)).shape == (1, 3, 4, 4, 4)
    with pytest.raises(ValueError, match="one voxel"):
        build(norm="instance").eval()(image(batch=2, size=4))


def test_group_norm_takes_the_largest_divisor_of_the_channels():
    net = build(norm="group", norm_groups=8, features=(12, 20))
    assert net.encoder[0][0].norm.num_groups == 6
    assert net.encoder[1][0].norm.num_groups == 5


def test_unresolved_configuration_is_refused():
    with pytest.raises(ValueError, match="must be filled in"):
        build(stem=None)


@pytest.mark.parametrize("rank", [2, 3])
def test_a_gate_at_every_site_is_found_by_site_and_stage(rank):
    net = build(rank, attention=dict.fromkeys(SITES, "scse"))
    stages = {site: [stage for stage in range(4) if net.gate(site, stage) is not None] for site in SITES}
    assert stages == {**{site: [0, 1] for site in SITES}, "bottleneck": [2], "head": [0]}
    assert isinstance(net.gate("head", 0), Gate)
    assert net.gate("concat", 1).channels == 12
    seen = []
    for gate in net.gates.values():
        gate.register_forward_hook(lambda gate, inputs, output: seen.append(inputs[0].shape[1] == gate.channels))
    net(image(rank))
    assert seen == [True] * 12


def test_sites_gate_the_maps_they_are_named_for():
    """A gate of zeros silences what runs through it and nothing else."""
    x = image()
    for site in SITES:
        net = build(attention={site: "cse"}).eval()
        maps = {}
        for name in ("encoder.0", "encoder.1", "encoder.2", "upsample.0", "upsample.1", "decoder.0", "decoder.1", "heads.0"):
            net.get_submodule(name).register_forward_hook(lambda m, i, o, name=name, maps=maps: maps.update({name: (i[0], o)}))
        stage = 2 if site == "bottleneck" else 0
        net.gate(site, stage).forward = torch.zeros_like
        net(x)
        joined, up = maps["decoder.0"][0], maps["upsample.0"][1]
        below, skip = maps["encoder.1"][0], joined[:, up.shape[1] :]
        zero = {
            "below": not below.any(),
            "skip": not skip.any(),
            "deepest": not maps["upsample.1"][0].any(),
            "up": not joined[:, : up.shape[1]].any(),
            "head": not maps["heads.0"][0].any(),
        }
        expected = {
            "encoder": set(zero),  # biases start at 0, so that a zero map stays zero
            "skip": {"skip"},
            "bottleneck": {"deepest"},
            "upsample": {"up"},
            "concat": {"skip", "up", "head"},
            "decoder": {"head"},
            "head": {"head"},
        }[site]
        assert {key for key, value in zero.items() if value} == expected, site


@pytest.mark.parametrize("rank", [2, 3])
def test_export_and_autocast(rank):
    net = build(rank, attention=dict.fromkeys(SITES, "scse"), stem=(2,) * rank).eval()
    x = image(rank, size=16)
    with torch.inference_mode():
        expected = net(x)
        with torch.autocast("cpu", torch.bfloat16):
            rough = net(x)
    assert (rough - expected).abs().max() < 0.1 * expected.abs().max()
    exported = torch.export.export(net, (x,)).module()
    torch.testing.assert_close(exported(x), expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    "unit", [pytest.param(unit, marks=() if unit in ("bottleneck", "inception") else pytest.mark.slow) for unit in UNITS]
)
def test_export_with_gates_inside_units(unit):
    gate = {"block": "cse", "placement": "standard", "squeeze_from": None if unit == "residual_preact" else "pre_norm"}
    net = build(2, unit=unit, attention={"encoder": gate, "decoder": gate}).eval()
    x = image(2)
    exported = torch.export.export(net, (x,)).module()
    with torch.inference_mode():
        torch.testing.assert_close(exported(x), net(x), rtol=1e-4, atol=1e-5)


def test_inception_with_fewer_channels_than_branches_is_refused():
    with pytest.raises(ValueError, match="features: the 4 branches of unit inception need at least 4 channels"):
        build(unit="inception", features=(3, 6))


@pytest.mark.parametrize("activation", ["leaky_relu", "relu", "elu", "gelu"])
def test_activations_follow_every_norm(activation):
    net = build(activation=activation)
    kinds = {type(module).__name__.lower() for module in net.modules()}
    assert {name for name in ("leakyrelu", "relu", "elu", "gelu") if name in kinds} == {activation.replace("_", "")}
    assert net(image()).isfinite().all()
