"""Concurrent excitation: max-out over outputs, its own backward pass, and the memory it keeps."""

import pytest
import torch
from attention_cases import image, make

from se_med.attention.max_out import max_out


def gates(rank=3, channels=5):
    generator = torch.Generator().manual_seed(4)
    x = image(2, channels, (6, 5, 4)[:rank])
    channel = torch.rand(2, channels, *(1,) * rank, generator=generator, dtype=torch.float64)
    spatial = torch.rand(2, 1, *x.shape[2:], generator=generator, dtype=torch.float64)
    return x, channel, spatial


def gradients(function, tensors):
    tensors = [tensor.detach().clone().requires_grad_() for tensor in tensors]
    y = function(*tensors)
    weights = torch.linspace(-1, 2, y.numel(), dtype=y.dtype).reshape(y.shape)
    return y, *torch.autograd.grad((y * weights).sum(), tensors)


def naive(x, channel, spatial):
    return torch.maximum(x * channel, x * spatial)


@pytest.mark.parametrize("rank", [2, 3])
def test_max_out_has_the_value_and_gradients_of_the_naive_form(rank):
    for ours, theirs in zip(gradients(max_out, gates(rank)), gradients(naive, gates(rank)), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-12, atol=1e-12)


def test_max_out_splits_ties_as_torch_does():
    x, channel, spatial = gates()
    x[0, 0] = 0
    channel.fill_(0.5)
    spatial.fill_(0.5)
    for ours, theirs in zip(gradients(max_out, (x, channel, spatial)), gradients(naive, (x, channel, spatial)), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-12, atol=1e-12)


def test_max_out_keeps_one_full_map_for_the_backward_pass():
    x, channel, spatial = (tensor.requires_grad_() for tensor in gates())
    kept = {}
    with torch.autograd.graph.saved_tensors_hooks(lambda t: kept.setdefault(t.data_ptr(), t.numel()), lambda n: n):
        max_out(x, channel, spatial)
    assert sum(kept.values()) == x.numel() + channel.numel() + spatial.numel()


def test_max_is_over_outputs_and_not_over_gates():
    block, x = make("scse", 6, 3, {"aggregation": "max"}), image(2, 6, (6, 5, 4))
    larger = torch.maximum(block.channel.gate(x), block.spatial.gate(x))
    y = block(x)
    assert torch.equal(y[x >= 0], (x * larger)[x >= 0])
    assert (y[x < 0] != (x * larger)[x < 0]).all()
    assert torch.equal(make("scse", 6, 3, {})(x.abs()), x.abs() * torch.maximum(*both(make("scse", 6, 3, {}), x.abs())))


def both(block, x):
    return block.channel.gate(x), block.spatial.gate(x)
