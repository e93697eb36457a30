"""Convolutions by Winograd's tiles equal those by torch, in either direction and any shape."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from se_med.fused import convolution, kernels, winograd
from se_med.fused.convolution import Conv2d, Conv3d

pytestmark = pytest.mark.skipif(
    kernels.library() is None or kernels.library().se_med_width() not in winograd.WIDTHS,
    reason="needs compiled kernels and a processor with AVX2",
)


@pytest.fixture(params=sorted(winograd.WIDTHS.values()))
def vectors(request, monkeypatch):
    """Take the kernels of this width, as far as the processor has it."""
    if {name: width for width, name in winograd.WIDTHS.items()}[request.param] > kernels.library().se_med_width():
        pytest.skip("the processor has no vectors of this width")
    monkeypatch.setattr(winograd, "WIDTHS", dict.fromkeys(winograd.WIDTHS, request.param))


def run(layer: nn.Module, x: torch.Tensor, grad: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    x, layer.weight.grad = x.detach().clone().requires_grad_(), None
    y = layer(x)
    y.backward(grad)
    return y.detach(), x.grad, layer.weight.grad


@settings(deadline=None, max_examples=60)
@given(data=st.data())
def compare_with_float64(data) -> None:
    rank = data.draw(st.integers(2, 3))
    inputs, outputs = (data.draw(st.integers(winograd.FEWEST, 70)) for _ in range(2))
    kernel = (3, 3) if rank == 2 else data.draw(st.sampled_from([(3, 3, 3), (1, 3, 3)]))
    size = [data.draw(st.integers(1, 12)) for _ in range(rank)]
    samples = data.draw(st.integers(1, 3))
    torch.manual_seed(data.draw(st.integers(0, 1000)))
    layer = (Conv3d if rank == 3 else Conv2d)(inputs, outputs, kernel, padding=[side // 2 for side in kernel], bias=False)
    if data.draw(st.booleans()):
        layer = layer.to(memory_format=kernels.memory_format(rank))
    x, grad = torch.randn(samples, inputs, *size), torch.randn(samples, outputs, *size)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(winograd, "TILES_PER_CHANNEL", 0)
        patch.setattr(winograd, "FEWEST_OF_GRADIENT", data.draw(st.sampled_from([0, 100])))
        assert winograd.fits(layer, x)
        found = run(layer, x, grad)
    exact = (nn.Conv3d if rank == 3 else nn.Conv2d)(inputs, outputs, kernel, padding=layer.padding, bias=False).double()
    exact.weight.data = layer.weight.data.double()
    for mine, expected in zip(found, run(exact, x.double(), grad.double()), strict=True):
        assert mine.shape == expected.shape
        torch.testing.assert_close(mine.double(), expected, rtol=2e-6, atol=2e-6 * float(expected.abs().max()))


@pytest.mark.usefixtures("vectors")
def test_it_equals_float64_in_any_shape():
    compare_with_float64()


@pytest.mark.usefixtures("vectors")
def test_threads_change_no_bit():
    layer, found = Conv3d(40, 33, 3, padding=1, bias=False), []
    x, grad = torch.randn(3, 40, 17, 18, 19), torch.randn(3, 33, 17, 18, 19)
    before = torch.get_num_threads()
    try:
        for threads in (1, 2, 3):
            torch.set_num_threads(threads)
            found.append(run(layer, x, grad))
    finally:
        torch.set_num_threads(before)
    for other in found[1:]:
        assert all(torch.equal(one, same) for one, same in zip(found[0], other, strict=True))


def test_a_sample_is_the_same_in_any_batch():
    layer, x = Conv3d(32, 48, 3, padding=1, bias=False), torch.randn(4, 32, 9, 10, 11)
    with torch.no_grad():
        assert torch.equal(layer(x)[2:3], layer(x[2:3]))


def test_it_computes_in_float32_alone(monkeypatch):
    used = []
    way = winograd.convolve
    monkeypatch.setattr(winograd, "convolve", lambda *arguments: used.append(1) or way(*arguments))
    layer, x = Conv3d(32, 32, 3, padding=1, bias=False), torch.randn(1, 32, 10, 9, 11)
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        layer(x)
    layer.double()(x.double())
    assert not used
    with torch.no_grad():
        layer.float()(x)
    assert used


def test_frozen_weights_get_no_gradient():
    layer, x = Conv3d(16, 16, 3, padding=1, bias=False).requires_grad_(False), torch.randn(1, 16, 9, 10, 11, requires_grad=True)
    layer(x).sum().backward()
    assert x.grad is not None
    assert layer.weight.grad is None


def test_other_convolutions_stay_torchs():
    x = torch.randn(1, 32, 12, 12, 12)
    assert winograd.fits(Conv3d(32, 32, 3, padding=1, bias=False), x)
    for layer in (
        *(Conv3d(32, 32, 3, stride=2, padding=1, bias=False), Conv3d(32, 32, 3, padding=1), Conv3d(32, 32, 1, bias=False)),
        *(Conv3d(32, 32, 3, bias=False), Conv3d(32, 32, 3, padding=1, groups=2, bias=False)),
        *(Conv3d(32, 32, 3, padding=2, dilation=2, bias=False), Conv3d(32, 32, (3, 1, 3), padding=(1, 0, 1), bias=False)),
        *(Conv3d(32, 8, 3, padding=1, bias=False), Conv3d(32, 32, 3, padding=1, padding_mode="replicate", bias=False)),
    ):
        assert not winograd.fits(layer, x)
    assert not winograd.fits(Conv3d(32, 32, 3, padding=1, bias=False), x[..., :6, :6, :6])  # too few tiles
    with pytest.raises(RuntimeError, match="channels"):
        Conv3d(16, 16, 3, padding=1, bias=False)(x)


@pytest.mark.parametrize(
    "layer", [Conv3d(32, 64, 3, stride=2, padding=1), Conv3d(8, 32, 3, padding=1, bias=False), Conv2d(4, 6, (3, 1))]
)
def test_single_maps_go_to_onednn(layer, monkeypatch):
    x = torch.randn(1, layer.in_channels, *[10] * (layer.weight.ndim - 2))
    with torch.no_grad():
        found, several = layer(x), layer(torch.cat((x, x)))
        monkeypatch.setattr(convolution, "_is_slow", lambda *_: False)
        expected = layer(x)
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(several[:1], expected, rtol=1e-5, atol=1e-5)
