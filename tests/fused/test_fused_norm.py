"""The fused kernels equal their formula in float64, forward and backward; networks are the same with and without them."""

from __future__ import annotations

import itertools
import re
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from torch import nn

from se_med.attention import create_attention
from se_med.config.experiment import Config
from se_med.fused import kernels
from se_med.fused.norm import PLAIN, memory_format, norm_act, usable
from se_med.networks.build import build_network

pytestmark = pytest.mark.skipif(kernels.library() is None, reason="the kernels were not compiled when se-med was installed")

BLOCKS = {
    "plain": None,
    "channel": ("cse", {}),
    "blended channel": ("cse", {"identity_start": True, "gate_function": "tanh"}),
    "neighbours": ("eca", {}),
    "lines": ("pe", {}),
    "cascade": ("cbam", {}),
    "spatial": ("sse", {}),
    "larger": ("scse", {"aggregation": "max"}),
    "sum": ("scse", {"aggregation": "add"}),
}


def setting(rank, channels, size, block, seed):
    torch.manual_seed(seed)
    x = 2 * torch.randn(3, channels, *size[:rank]) + 3
    norm = nn.GroupNorm(channels, channels)
    nn.init.normal_(norm.weight)
    nn.init.normal_(norm.bias)
    gate = None if block is None else create_attention(block[0], channels, rank, **block[1])
    for parameter in [] if gate is None else gate.parameters():
        nn.init.normal_(parameter, std=0.4)
    return x, norm, gate


def gradients(y, weights, *modules, x):
    inputs = [x, *itertools.chain(*(module.parameters() for module in modules if module is not None))]
    return torch.autograd.grad((y * weights).sum(), inputs)


def relative(found, expected):
    return float((found.double() - expected.double()).abs().max() / expected.abs().max().clamp(min=1e-12))


@pytest.mark.parametrize("name", BLOCKS)
@settings(max_examples=12, deadline=None)
@given(
    rank=st.sampled_from([2, 3]),
    channels=st.sampled_from([1, 3, 8, 32, 33, 70]),
    size=st.tuples(*[st.integers(1, 13)] * 3),
    slope=st.sampled_from([0.0, 0.01, 1.0]),
    seed=st.integers(0, 99),
)
def test_equals_the_formula(name, rank, channels, size, slope, seed):
    size = (size[0] + 20, *size[1:])
    x, norm, gate = setting(rank, channels, size, BLOCKS[name], seed)
    exact_x, exact_norm = x.double().requires_grad_(), nn.GroupNorm(channels, channels).double()
    exact_norm.load_state_dict(norm.state_dict())
    exact_gate = None if gate is None else create_attention(*BLOCKS[name][:1], channels, rank, **BLOCKS[name][1]).double()
    if gate is not None:
        exact_gate.load_state_dict(gate.state_dict())
    normalised = exact_norm(exact_x)
    activated = F.leaky_relu(normalised, slope)
    expected = activated if exact_gate is None else exact_gate(activated)
    if (
        name == "larger" and x.numel() < 10_000
    ):  # where both gates are equal to the last digits, one of few voxels has the other's gradient
        assume(float((exact_gate.channel.weigh(activated) - exact_gate.spatial.weigh(activated)).abs().min()) > 1e-6)
    weights = torch.randn_like(x)
    wanted = gradients(expected, weights.double(), exact_norm, exact_gate, x=exact_x)

    x = x.contiguous(memory_format=memory_format(rank)).requires_grad_()
    assert usable(x)
    gating = PLAIN if gate is None else gate.gating()
    found = norm_act(x, norm.weight, norm.bias, norm.eps, slope, gating)
    # What the activation lets through may be small beside the numbers that were rounded.
    rounding = 1e-5 * float(normalised.detach().abs().max())
    assert float((found.detach().double() - expected.detach()).abs().max()) < rounding
    with torch.no_grad():  # nothing is kept for a way back, and less computed
        alone = norm_act(x, norm.weight, norm.bias, norm.eps, slope, gating)
    assert float((alone.double() - expected.detach()).abs().max()) < rounding
    # A value within rounding of zero may fall on the other side of the activation, so gradients are compared as a whole.
    for mine, theirs in zip(gradients(found, weights, norm, gate, x=x), wanted, strict=True):
        assert float((mine.double() - theirs).norm() / theirs.norm().clamp(min=1e-9)) < 2e-3


@pytest.mark.parametrize("source", ["norm.c", "lines.c", "cascade.c", "loss.c"])
def test_addresses_are_passed_whole(source):
    """Without declared arguments ctypes cuts an address to 32 bits, which goes well until memory lies high."""
    text = (Path(kernels.__file__).parent / source).read_text()
    names = re.findall(r"^\w+ (se_med_\w+)\(const \w+ \*", text, re.MULTILINE)
    assert names
    assert not [name for name in names if getattr(kernels.library(), name).argtypes is None]


def test_large_offsets_lose_no_digits():
    x = (1000 + torch.randn(2, 4, 16, 16)).contiguous(memory_format=torch.channels_last)
    y = norm_act(x, torch.ones(4), torch.zeros(4), 1e-5, 1.0)
    assert relative(y, F.group_norm(x.double(), 4)) < 1e-4


def test_bf16_rounds_once():
    x = torch.randn(2, 16, 6, 5, 4).bfloat16().contiguous(memory_format=torch.channels_last_3d)
    weight, bias = torch.randn(16), torch.randn(16)
    y = norm_act(x, weight, bias, 1e-5, 0.01)
    exact = F.leaky_relu(F.group_norm(x.float(), 16, weight, bias), 0.01)
    assert y.dtype == torch.bfloat16
    assert torch.equal(y, exact.bfloat16()) or float((y.float() - exact).abs().max()) <= float(exact.abs().max()) * 2**-8
    x[0, 0, 0, 0, 0] = torch.nan
    assert norm_act(x, weight, bias, 1e-5, 0.01)[0, 0].isnan().all()


@pytest.mark.parametrize("name", ["larger", "lines", "cascade"])
def test_results_do_not_depend_on_the_number_of_threads(name):
    x, norm, gate = setting(3, 32, (20, 18, 14), BLOCKS[name], 0)
    x = x.contiguous(memory_format=torch.channels_last_3d).requires_grad_()
    before, found = torch.get_num_threads(), []
    try:
        for threads in (1, 2, 3):
            torch.set_num_threads(threads)
            y = norm_act(x, norm.weight, norm.bias, norm.eps, 0.01, gate.gating())
            found.append((y, *gradients(y, torch.ones_like(y), norm, x=x)))
    finally:
        torch.set_num_threads(before)
    for other in found[1:]:
        assert all(torch.equal(a, b) for a, b in zip(found[0], other, strict=True))


def test_what_the_kernels_do_not_know_is_left_to_torch(monkeypatch):
    x = torch.zeros(1, 4, 8, 8)
    assert usable(x)
    assert not usable(x.double())
    assert not usable(x.half())
    assert not usable(x[0])
    assert not usable(x.to("meta"))
    assert not usable(torch.zeros(1, 4096, 1, 2))
    for block, options in (("cse", {"squeeze": "max"}), ("scse", {"aggregation": "concat"}), ("cbam", {"identity_start": True})):
        assert create_attention(block, 8, 2, **options).gating() is None
    for block in ("sse", "pe"):
        assert create_attention(block, 8, 2, identity_start=True).gating() is None
    kernels.library.cache_clear()
    monkeypatch.setenv("SE_MED_NO_KERNELS", "1")
    try:
        assert not usable(x)
    finally:
        kernels.library.cache_clear()


@pytest.mark.parametrize("unit", ["plain", "residual", "bottleneck"])
@pytest.mark.parametrize("attention", [None, "scse", {"encoder": "cse", "decoder": "sse", "bottleneck": "eca", "skip": "scse"}])
def test_networks_are_the_same_without_kernels(unit, attention, monkeypatch):
    config = Config.model_validate(
        {
            "network": {
                "spatial_dims": 3,
                "unit": unit,
                "features": [8, 16, 24],
                "strides": [[2, 2, 2], [2, 2, 2]],
                "kernels": [[3, 3, 3]] * 3,
                "stem": [1, 1, 1],
            },
            "attention": attention,
        }
    )
    network = build_network(config.network, config.attention, 1, 3, seed=0)
    x, weights = torch.randn(2, 1, 16, 24, 16), torch.randn(2, 3, 16, 24, 16)

    def run():
        network.zero_grad()
        logits = network(x)
        (logits * weights).sum().backward()
        return logits.detach(), torch.cat([parameter.grad.flatten() for parameter in network.parameters()])

    logits, gradient = run()
    monkeypatch.setattr(kernels, "library", lambda: None)
    expected, expected_gradient = run()
    assert relative(logits, expected) < 1e-4
    assert float((gradient - expected_gradient).norm() / expected_gradient.norm()) < 1e-2


def test_a_watched_gate_is_called_by_itself():
    config = Config.model_validate(
        {
            "network": {
                "spatial_dims": 2,
                "features": [8, 16],
                "strides": [[2, 2]],
                "kernels": [[3, 3]] * 2,
                "stem": [1, 1],
            },
            "attention": {"decoder": "cse"},
        }
    )
    network, x = build_network(config.network, config.attention, 1, 2, seed=0), torch.randn(1, 1, 16, 16)
    calls = []
    fused = network(x)
    handle = network.gate("decoder", 0).register_forward_hook(lambda *_: calls.append(1))
    watched = network(x)
    handle.remove()
    assert calls == [1]
    assert relative(fused, watched) < 1e-5
