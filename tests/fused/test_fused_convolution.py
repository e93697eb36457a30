"""Gradients of convolutions by tiles equal those by torch."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from se_med.fused import convolution
from se_med.fused.convolution import Conv2d, Conv3d, has_tiles

pytestmark = pytest.mark.skipif(not has_tiles(), reason="needs a processor with matrix tiles (AMX) and compiled kernels")


def gradients(layer: nn.Module, x: torch.Tensor, grad: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    x = x.clone().requires_grad_()
    with torch.autocast("cpu", torch.bfloat16):
        y = layer(x)
    y.backward(grad.to(y.dtype))
    return y.detach(), x.grad, layer.weight.grad


@settings(deadline=None, max_examples=40)
@given(data=st.data())
def test_gradients_equal_the_formula_in_any_shape(data):
    rank = data.draw(st.integers(2, 3))
    inputs, outputs = (data.draw(st.integers(convolution.FEWEST, 70)) for _ in range(2))
    kernel = data.draw(st.sampled_from([(3, 3), (3, 5), (1, 9)] if rank == 2 else [(3, 3, 3), (1, 3, 3), (3, 1, 3), (5, 3, 1)]))
    size = [data.draw(st.integers(1, 12)) for _ in range(rank)]
    samples = data.draw(st.integers(1, 3))
    torch.manual_seed(data.draw(st.integers(0, 1000)))
    layer = (Conv3d if rank == 3 else Conv2d)(inputs, outputs, kernel, padding=[side // 2 for side in kernel], bias=False)
    layer.weight.data = layer.weight.data.bfloat16().float()
    x, grad = torch.randn(samples, inputs, *size).bfloat16(), torch.randn(samples, outputs, *size).bfloat16()
    y, grad_x, grad_w = gradients(layer, x, grad)
    exact = (nn.Conv3d if rank == 3 else nn.Conv2d)(inputs, outputs, kernel, padding=layer.padding, bias=False).double()
    exact.weight.data = layer.weight.data.double()
    x64 = x.double().requires_grad_()
    expected = exact(x64)
    expected.backward(grad.double())
    torch.testing.assert_close(y.double(), expected.detach(), rtol=1e-2, atol=1e-2)
    torch.testing.assert_close(grad_x.double(), x64.grad, rtol=1e-2, atol=1e-2 * float(x64.grad.abs().max()))
    torch.testing.assert_close(grad_w.double(), exact.weight.grad, rtol=1e-5, atol=1e-5 * float(exact.weight.grad.abs().max()))


def test_it_is_used_in_training_alone(monkeypatch):
    used = []
    way = convolution.weight_gradient
    monkeypatch.setattr(convolution, "weight_gradient", lambda *arguments: used.append(1) or way(*arguments))
    layer, x = Conv3d(32, 32, 3, padding=1, bias=False), torch.randn(1, 32, 5, 6, 7)
    layer(x).sum().backward()
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        layer(x)
    assert not used
    with torch.autocast("cpu", torch.bfloat16):
        layer(x).sum().backward()
    assert used


def test_threads_change_no_bit():
    layer, found = Conv3d(40, 33, 3, padding=1, bias=False), []
    x, grad = torch.randn(3, 40, 6, 7, 8).bfloat16(), torch.randn(3, 33, 6, 7, 8).bfloat16()
    before = torch.get_num_threads()
    try:
        for threads in (1, 2, 3):
            torch.set_num_threads(threads)
            layer.weight.grad = None
            found.append(gradients(layer, x, grad)[2])
    finally:
        torch.set_num_threads(before)
    assert torch.equal(found[0], found[1])
    assert torch.equal(found[0], found[2])


def test_other_convolutions_stay_torchs():
    x = torch.randn(1, 32, 6, 6, 6)
    for layer in (
        *(Conv3d(32, 32, 3, stride=2, padding=1, bias=False), Conv3d(32, 32, 3, padding=1), Conv3d(32, 32, 1, bias=False)),
        *(Conv3d(32, 32, 3, bias=False), Conv3d(32, 32, 3, padding=1, groups=2, bias=False)),
    ):
        same = nn.Conv3d(32, 32, layer.kernel_size, layer.stride, layer.padding, groups=layer.groups, bias=layer.bias is not None)
        same.load_state_dict(layer.state_dict())
        with torch.autocast("cpu", torch.bfloat16):
            assert torch.equal(layer(x), same(x))
