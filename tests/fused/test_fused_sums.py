"""Weighted sums over windows, their means, and the highest: compiled and by torch, in every memory order."""

from __future__ import annotations

from contextlib import contextmanager, nullcontext
from unittest import mock

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from se_med.fused import sums as module
from se_med.fused.kernels import library
from se_med.fused.sums import Part, add_windows, highest_mean, mean_outputs, raise_highest

ORDERS = {
    "contiguous": lambda x: x.contiguous(),
    "channels last": lambda x: x[None].contiguous(memory_format=torch.channels_last_3d)[0],
    "turned": lambda x: x.permute(0, 3, 2, 1).contiguous().permute(0, 3, 2, 1),
    "flipped": lambda x: x.flip(1).contiguous().flip(1),
}


WAYS = pytest.mark.parametrize("compiled", [True, False])


@contextmanager
def computed(compiled: bool):
    """By the kernels, or by torch."""
    if compiled and library() is None:
        pytest.skip("the kernels are not compiled, or turned off")
    with nullcontext() if compiled else mock.patch.object(module, "library", return_value=None):
        yield


@WAYS
@settings(deadline=None, max_examples=40)
@given(
    shape=st.tuples(st.sampled_from([1, 2, 14, 16, 33]), st.integers(1, 6), st.integers(1, 5), st.sampled_from([1, 7, 64, 513])),
    order=st.sampled_from(sorted(ORDERS)),
    kind=st.sampled_from([torch.float32, torch.bfloat16, torch.float16]),
    weighted=st.booleans(),
    counted=st.booleans(),
)
def test_a_window_is_added_where_it_lies_and_nowhere_else(shape, order, kind, weighted, counted, compiled):
    generator = torch.Generator().manual_seed(0)
    large = torch.randn(shape[1] + 2, shape[2] + 1, shape[3] + 3, shape[0], generator=generator)
    total = torch.randn(large.shape[:3], generator=generator)
    inside = (slice(1, 1 + shape[1]), slice(0, shape[2]), slice(2, 2 + shape[3]))
    output = ORDERS[order](torch.randn(shape, generator=generator).to(kind))
    weights = torch.rand(shape[1:], generator=generator) if weighted else None
    expected, expected_total = large.clone(), total.clone()
    expected[*inside] += 0.3 * (1 if weights is None else weights.unsqueeze(-1)) * output.float().permute(1, 2, 3, 0)
    if counted:
        expected_total[*inside] += 0.3 * (torch.ones(shape[1:]) if weights is None else weights)
    with computed(compiled):
        add_windows([Part(large[*inside], output, 0.3, weights, total[*inside] if counted else None)])
    torch.testing.assert_close(large, expected, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(total, expected_total, rtol=1e-5, atol=1e-6)


@WAYS
@pytest.mark.parametrize("kind", [torch.float32, torch.bfloat16])
def test_windows_behind_one_another_are_added_as_one_by_one(kind, compiled):
    generator = torch.Generator().manual_seed(0)
    sums = torch.zeros(4, 5, 40, 3)
    outputs = [ORDERS[order](torch.randn(3, 4, 5, 16, generator=generator).to(kind)) for order in ORDERS]
    weights = torch.rand(4, 5, 16, generator=generator)
    places = [slice(first, first + 16) for first in (0, 8, 16, 24)]
    expected = torch.zeros_like(sums)
    for place, output in zip(places, outputs, strict=True):
        expected[:, :, place] += (weights * output.float()).permute(1, 2, 3, 0)
    with computed(compiled):
        add_windows([Part(sums[:, :, place], output, 1.0, weights) for place, output in zip(places, outputs, strict=True)])
    torch.testing.assert_close(sums, expected, rtol=1e-5, atol=1e-6)


@WAYS
def test_sums_that_division_makes_equal_stay_with_the_first(compiled):
    generator = torch.Generator().manual_seed(0)
    lower = torch.rand(100, 10, 16, generator=generator)
    sums = torch.stack([lower, torch.nextafter(lower, torch.ones(()))], -1)
    total = 1 + torch.rand(lower.shape, generator=generator)
    means = sums / total.unsqueeze(-1)
    classes = torch.empty(lower.shape, dtype=torch.uint8)
    with computed(compiled):
        highest_mean(sums, total, classes)
    assert bool((means[..., 0] == means[..., 1]).any())
    assert torch.equal(classes.bool(), means[..., 1] > means[..., 0])


def sums_of(shape: tuple[int, ...], outputs: int, totalled: bool) -> tuple[torch.Tensor, torch.Tensor | None]:
    """Parts of larger sums with many ties, and of the total of their weights."""
    generator = torch.Generator().manual_seed(2)
    large = torch.randint(0, 4, (shape[0] + 1, shape[1] + 2, shape[2] + 5, outputs), generator=generator).float()
    total = torch.randint(1, 5, large.shape[:3], generator=generator).float() / 3
    inside = (slice(1, None), slice(0, shape[1]), slice(3, 3 + shape[2]))
    return large[*inside], total[*inside] if totalled else None


MEANS = {
    "shape": st.tuples(st.integers(1, 4), st.integers(1, 4), st.sampled_from([1, 5, 16, 37])),
    "outputs": st.sampled_from([1, 2, 3, 14, 40]),
    "totalled": st.booleans(),
    "order": st.permutations(range(3)),
}


@WAYS
@settings(deadline=None, max_examples=40)
@given(**MEANS)
def test_means_are_sums_over_weights(shape, outputs, totalled, order, compiled):
    sums, total = sums_of(shape, outputs, totalled)
    expected = (sums if total is None else sums / total.unsqueeze(-1)).permute(3, 0, 1, 2)
    means = torch.empty(outputs, *(shape[axis] for axis in order)).permute(0, *(1 + order.index(axis) for axis in range(3)))
    with computed(compiled):
        assert mean_outputs(sums, total, means)
    assert torch.equal(means, expected)


@WAYS
@settings(deadline=None, max_examples=40)
@given(**MEANS)
def test_the_highest_mean_is_that_of_numpy(shape, outputs, totalled, order, compiled):
    sums, total = sums_of(shape, outputs, totalled)
    expected = (sums if total is None else sums / total.unsqueeze(-1)).numpy().argmax(-1)
    classes = torch.empty([shape[axis] for axis in order], dtype=torch.uint8).permute(*(order.index(axis) for axis in range(3)))
    with computed(compiled):
        assert highest_mean(sums, total, classes)
    assert np.array_equal(classes.numpy(), expected)


@WAYS
@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("place", [(0, 0, 0, 0), (1, 2, 18, 2), (1, 0, 5, 1)])
def test_values_that_are_not_finite_are_seen(value, place, compiled):
    sums = torch.ones(2, 3, 19, 3)
    sums[*place] = value
    with computed(compiled):
        assert not mean_outputs(sums, None, torch.empty(3, 2, 3, 19))
        assert not highest_mean(sums, torch.ones(2, 3, 19), torch.empty(2, 3, 19, dtype=torch.uint8))


@WAYS
@settings(deadline=None, max_examples=40)
@given(
    shape=st.tuples(st.integers(1, 5), st.integers(1, 4), st.sampled_from([1, 3, 33, 200])),
    outputs=st.integers(2, 20),
    order=st.sampled_from(sorted(ORDERS)),
)
def test_the_highest_wins_and_ties_stay_with_the_first(shape, outputs, order, compiled):
    values = torch.randint(0, 4, (outputs, *shape), generator=torch.Generator().manual_seed(1)).float()
    ordered = ORDERS[order](values)
    best, classes = ordered[0].clone(memory_format=torch.contiguous_format), torch.zeros(shape, dtype=torch.uint8)
    with computed(compiled):
        for index in range(1, outputs):
            raise_highest(best, classes, ordered[index], index)
    assert np.array_equal(classes.numpy(), values.numpy().argmax(0))  # numpy's argmax takes the first of equals
    assert torch.equal(best, values.amax(0))
