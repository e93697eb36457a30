"""Weighted sums over windows, and the running maximum: compiled and by torch, in every memory order."""

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
from se_med.fused.sums import add_window, raise_highest

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
    shape=st.tuples(st.integers(1, 15), st.integers(1, 6), st.integers(1, 5), st.sampled_from([1, 7, 64, 513])),
    order=st.sampled_from(sorted(ORDERS)),
    kind=st.sampled_from([torch.float32, torch.bfloat16, torch.float16]),
    weighted=st.booleans(),
    counted=st.booleans(),
)
def test_a_window_is_added_where_it_lies_and_nowhere_else(shape, order, kind, weighted, counted, compiled):
    generator = torch.Generator().manual_seed(0)
    large = torch.randn(shape[0], shape[1] + 2, shape[2] + 1, shape[3] + 3, generator=generator)
    total = torch.randn(large.shape[1:], generator=generator)
    inside = (slice(1, 1 + shape[1]), slice(0, shape[2]), slice(2, 2 + shape[3]))
    output = ORDERS[order](torch.randn(shape, generator=generator).to(kind))
    weights = torch.rand(shape[1:], generator=generator) if weighted else None
    expected, expected_total = large.clone(), total.clone()
    expected[:, *inside] += 0.3 * (1 if weights is None else weights) * output.float()
    if counted:
        expected_total[*inside] += 0.3 * (torch.ones(shape[1:]) if weights is None else weights)
    with computed(compiled):
        add_window(large[:, *inside], output, 0.3, weights, total[*inside] if counted else None)
    torch.testing.assert_close(large, expected, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(total, expected_total, rtol=1e-5, atol=1e-6)


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
