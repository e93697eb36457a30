"""The fused loss equals MONAI's Dice and cross-entropy, forward and backward."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from monai.losses.dice import DiceCELoss

from se_med.fused import kernels, loss
from se_med.fused.loss import DiceCrossEntropy

pytestmark = pytest.mark.skipif(kernels.library() is None, reason="the kernels were not compiled when se-med was installed")

MONAI = DiceCELoss(softmax=True, to_onehot_y=True, include_background=False, batch=True)


class Refused(torch.nn.Module):
    def forward(self, logits, target):
        raise AssertionError("the kernels were not used")


def both(logits, target, factor=1.0):
    exact = logits.detach().double().requires_grad_()
    expected = factor * MONAI(exact, target)
    (expected_gradient,) = torch.autograd.grad(expected, exact)
    logits = logits.detach().requires_grad_()
    found = factor * DiceCrossEntropy(Refused())(logits, target)
    (gradient,) = torch.autograd.grad(found, logits)
    return found.detach(), expected.detach(), gradient, expected_gradient


@settings(max_examples=40, deadline=None)
@given(
    batch=st.integers(1, 3),
    classes=st.integers(2, 20),
    size=st.lists(st.integers(1, 40), min_size=2, max_size=3),
    spread=st.sampled_from([0.1, 3.0, 60.0]),
    seed=st.integers(0, 99),
)
def test_equals_monai(batch, classes, size, spread, seed):
    torch.manual_seed(seed)
    logits = spread * torch.randn(batch, classes, *size)
    target = torch.randint(0, classes, (batch, 1, *size))
    found, expected, gradient, expected_gradient = both(logits, target, factor=0.5)
    assert float(found) == pytest.approx(float(expected), rel=2e-5, abs=2e-6)
    # Where a class is certain its gradient is p - 1 divided by the voxels: in float32 no better than the rounding of p.
    rounding = 1e-7 / target.numel()
    assert float((gradient - expected_gradient).abs().max()) <= 2e-5 * float(expected_gradient.abs().max()) + rounding + 1e-9


def test_bf16_logits_are_summed_in_float32():
    torch.manual_seed(0)
    logits, target = torch.randn(2, 3, 20, 20, 20).bfloat16(), torch.randint(0, 3, (2, 1, 20, 20, 20), dtype=torch.uint8)
    found, expected, gradient, expected_gradient = both(logits, target)
    assert float(found) == pytest.approx(float(expected), rel=1e-5)
    assert gradient.dtype == torch.bfloat16
    assert float((gradient - expected_gradient).abs().max()) <= 2**-8 * float(expected_gradient.abs().max())


def test_a_class_that_is_absent_and_a_perfect_answer():
    target = torch.zeros(1, 1, 8, 8, dtype=torch.long)
    logits = torch.zeros(1, 3, 8, 8)
    logits[:, 0] = 50
    found, expected, gradient, expected_gradient = both(logits, target)
    assert float(found) == pytest.approx(float(expected), abs=1e-6)
    assert torch.allclose(gradient.double(), expected_gradient, atol=1e-7)


def test_a_number_that_is_not_finite_shows():
    logits, target = torch.zeros(1, 2, 8, 8), torch.zeros(1, 1, 8, 8, dtype=torch.long)
    logits[0, 0, 3, 3] = torch.nan
    assert not torch.isfinite(DiceCrossEntropy(Refused())(logits, target))


def test_results_do_not_depend_on_the_number_of_threads():
    torch.manual_seed(0)
    logits, target = torch.randn(2, 3, 30, 30, 30), torch.randint(0, 3, (2, 1, 30, 30, 30))
    before, found = torch.get_num_threads(), []
    try:
        for threads in (1, 3):
            torch.set_num_threads(threads)
            leaf = logits.clone().requires_grad_()
            value = DiceCrossEntropy(Refused())(leaf, target)
            found.append((value, *torch.autograd.grad(value, leaf)))
    finally:
        torch.set_num_threads(before)
    assert all(torch.equal(a, b) for a, b in zip(*found, strict=True))


def test_what_the_kernels_do_not_know_is_left_to_torch(monkeypatch):
    logits, target = torch.randn(1, 3, 8, 8), torch.randint(0, 3, (1, 1, 8, 8))
    expected = MONAI(logits, target)
    assert torch.equal(DiceCrossEntropy(MONAI)(logits.double(), target), MONAI(logits.double(), target))
    many, some = torch.randn(1, 70, 8, 8), torch.randint(0, 70, (1, 1, 8, 8))
    assert torch.equal(DiceCrossEntropy(MONAI)(many, some), MONAI(many, some))
    monkeypatch.setattr(loss, "library", lambda: None)
    assert torch.equal(DiceCrossEntropy(MONAI)(logits, target), expected)
