"""Counts are those of the formulas, of torch's counter and of a real backward pass's memory, on networks of every make."""

import copy
import math

import pytest
import torch
from network_cases import build, image
from torch.utils.flop_counter import FlopCounterMode

from se_med.attention import attention_class, create_attention, list_attention
from se_med.fused import kernels
from se_med.networks.cost import Cost, measure, measure_network
from se_med.networks.units import UNITS

WITH_GATES = [
    None,
    "scse",
    {"encoder": {"block": "cse", "reduction": 2, "min_hidden": 2}, "decoder": "sse", "bottleneck": "cbam"},
    {"skip": "attention_gate", "upsample": "eca", "concat": "global_context", "head": "pe"},
    {"skip": "fine_attention_gate", "encoder": "se_norm", "bottleneck": "shuffled"},
]
EXTRAS = [{}, {"unit": "residual", "norm": "batch", "dropout": 0.2}, {"stem": (2, 2, 2), "deep_supervision": (1.0, 0.5)}]


def kept_by_a_backward_pass(module, *inputs):
    """Run a real forward pass and return the bytes of all storages that it keeps, without those of weights and inputs."""
    known = {tensor.untyped_storage().data_ptr() for tensor in (*module.parameters(), *module.buffers(), *inputs)}
    kept = {}

    def pack(tensor):
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in known:
            kept[storage.data_ptr()] = storage  # kept alive, so that no address is used twice
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        output = module(*inputs)
    assert output is not None
    return sum(storage.nbytes() for storage in kept.values())


def real_flops(module, *inputs):
    # The counter does not see the multiplications of the fused kernels.
    with pytest.MonkeyPatch.context() as patch, FlopCounterMode(display=False) as counter, torch.no_grad():
        patch.setattr(kernels, "library", lambda: None)
        module(*inputs)
    return counter.get_total_flops()


@pytest.mark.parametrize("extra", EXTRAS, ids=["plain", "residual", "stem"])
@pytest.mark.parametrize("attention", WITH_GATES, ids=["none", "scse", "many", "sites", "norms"])
def test_network_is_counted_as_torch_counts_it(attention, extra):
    network, x = build(3, attention, **extra), image(3, size=16)
    cost = measure_network(network, 1, (16, 16, 16), 2).total
    assert cost.parameters == sum(parameter.numel() for parameter in network.parameters())
    assert 2 * 2 * cost.macs == real_flops(copy.deepcopy(network), x)
    assert cost.activation_bytes == kept_by_a_backward_pass(network, x)


@pytest.mark.parametrize("rank", [2, 3])
@pytest.mark.parametrize("name", list_attention())
def test_block_is_counted_as_torch_counts_it(name, rank):
    signal = attention_class(name).signal
    block = create_attention(name, 12, rank, **({"signal_channels": 10} if signal else {}))
    inputs = [torch.randn(2, 12, *(8, 6, 4)[:rank], requires_grad=True)]
    if signal:
        spatial = (4, 3, 2) if signal == "coarse" else (8, 6, 4)
        inputs.append(torch.randn(2, 10, *spatial[:rank], requires_grad=True))
    cost = measure(block, *(tensor.shape for tensor in inputs))
    assert 2 * 2 * cost.macs == real_flops(copy.deepcopy(block), *inputs)
    assert cost.activation_bytes == kept_by_a_backward_pass(block, *inputs)


def test_plain_network_equals_a_count_by_hand():
    features, patch, classes = (4, 6, 8), (16, 8, 8), 3
    network = build(3, None, in_channels=2, features=features, norm="group", encoder_units=(1, 2, 1))
    cost = measure_network(network, 2, patch, 1)
    rows = {stage.name: stage for stage in cost.stages}
    assert list(rows) == ["encoder 0", "encoder 1", "bottleneck", "decoder 1", "decoder 0", "head"]
    voxels = [math.prod(patch) // 8**stage for stage in range(3)]
    assert {name: stage.cost.macs for name, stage in rows.items()} == {
        "encoder 0": 27 * 2 * 4 * voxels[0],
        "encoder 1": 27 * (4 + 6) * 6 * voxels[1],
        "bottleneck": 27 * 6 * 8 * voxels[2],
        "decoder 1": 8 * 8 * 6 * voxels[2] + 27 * 12 * 6 * voxels[1],
        "decoder 0": 8 * 6 * 4 * voxels[1] + 27 * 8 * 4 * voxels[0],
        "head": 4 * classes * voxels[0],
    }
    assert rows["encoder 1"].units == 2
    assert rows["decoder 0"].shape == (4, *patch)
    assert rows["bottleneck"].shape == (8, 4, 2, 2)
    assert rows["head"].shape == (classes, *patch)
    assert rows["bottleneck"].cost.parameters == 27 * 6 * 8 + 2 * 8
    # The norm keeps its input, mean and deviation of its 8 groups; the activation, in place, its output. What enters the
    # convolution is kept by the stage above already.
    assert rows["bottleneck"].cost.activation_bytes == 4 * (2 * 8 * voxels[2] + 2 * 8)
    assert rows["head"].cost.parameters == 4 * classes + classes


@pytest.mark.parametrize("attention", WITH_GATES[1:], ids=["scse", "many", "sites", "norms"])
def test_gates_are_counted_where_they_stand(attention):
    network = build(3, attention)
    cost, plain = (measure_network(net, 1, (16, 16, 16), 2) for net in (network, build(3)))
    gates = {gate.name: (stage.name, gate) for stage in cost.stages for gate in stage.gates}
    stage_of = {"skip": "decoder", "upsample": "decoder", "concat": "decoder"}
    for name, (stage, gate) in gates.items():
        module = network.get_submodule(f"gates.{name}") if name in network.gates else network.get_submodule(name)
        assert gate.cost.parameters == sum(parameter.numel() for parameter in module.parameters())
        assert type(module) is attention_class(gate.block)
        if name in network.gates:
            site, number = name.split("_")
            assert stage == {"bottleneck": "bottleneck", "head": "head"}.get(site, f"{stage_of.get(site, site)} {number}")
    assert {*network.gates} <= {*gates}
    if "se_norm" not in str(attention):
        assert cost.gates.parameters == cost.total.parameters - plain.total.parameters
        assert cost.gates.macs == cost.total.macs - plain.total.macs
    assert cost.gates.parameters > 0
    assert cost.gates.activation_bytes > 0


def test_gates_inside_units_are_counted():
    network = build(3, {"encoder": {"block": "cse", "placement": "standard"}}, encoder_units=2)
    cost = measure_network(network, 1, (16, 16, 16), 2)
    by_stage = {stage.name: [gate.name for gate in stage.gates] for stage in cost.stages if stage.gates}
    assert by_stage == {"encoder 0": ["encoder_0_0", "encoder_0_1"], "encoder 1": ["encoder_1_0", "encoder_1_1"]}
    for stage in cost.stages[:2]:
        width = stage.shape[0]
        assert [gate.cost.macs for gate in stage.gates] == [2 * width * 8] * 2


@pytest.mark.parametrize("unit", UNITS)
def test_every_unit_is_counted_as_torch_counts_it(unit):
    network = build(2, {"encoder": {"block": "sse", "placement": "standard"}}, unit=unit, encoder_units=(1, 2, 1))
    cost, x = measure_network(network, 1, (16, 16), 2), image(2, size=16)
    assert [stage.units for stage in cost.stages] == [1, 2, 1, 1, 1, 0]
    assert [len(stage.gates) for stage in cost.stages] == [1, 2, 0, 0, 0, 0]
    assert cost.total.parameters == sum(parameter.numel() for parameter in network.parameters())
    assert 2 * 2 * cost.total.macs == real_flops(copy.deepcopy(network), x)
    assert cost.total.activation_bytes == kept_by_a_backward_pass(network, x)


def test_counting_leaves_the_network_as_it_is():
    network = build(3, {"decoder": "shuffled"}, norm="batch").eval()
    before = copy.deepcopy(network.state_dict())
    measure_network(network, 1, (16, 16, 16), 2)
    assert all(torch.equal(value, before[key]) for key, value in network.state_dict().items())
    assert not any(module.training or module._forward_hooks for module in network.modules())


def test_a_patch_beyond_all_memory_can_be_counted():
    cost = measure_network(build(3, "scse"), 1, (1024, 1024, 1024), 8).total
    small = measure_network(build(3, "scse"), 1, (64, 64, 64), 8).total
    assert cost.activation_bytes > 1e12
    assert cost.parameters == small.parameters
    assert cost.activation_bytes / small.activation_bytes == pytest.approx(16**3, rel=1e-3)


def test_what_the_network_refuses_is_refused():
    with pytest.raises(ValueError, match="must be divisible by"):
        measure_network(build(3), 1, (9, 16, 16), 2)
    with pytest.raises(ValueError, match="batch size 1"):
        measure_network(build(3, "shuffled"), 1, (16, 16, 16), 1)


def test_difference_in_percent():
    assert Cost(110, 300, 50).percent_above(Cost(100, 200, 100)) == {
        "parameters": pytest.approx(10),
        "macs": pytest.approx(50),
        "activation_bytes": pytest.approx(-50),
    }


def test_se_resnet_50_has_the_gates_of_the_article():
    """2,514,944 weights at a reduction of 16, without biases (Hu et al. 2018); 2 C^2 / r per block."""
    blocks = {256: 3, 512: 4, 1024: 6, 2048: 3}
    counts = {
        width: measure(create_attention("cse", width, 2, reduction=16, min_hidden=1, bias=False), (1, width, 7, 7))
        for width in blocks
    }
    assert sum(number * counts[width].parameters for width, number in blocks.items()) == 2_514_944
    assert sum(number * counts[width].macs for width, number in blocks.items()) == 2_514_944
