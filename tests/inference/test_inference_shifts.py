"""Test-time shifts: the mean over grids of the stem, exactly undone, and evenly spread."""

from __future__ import annotations

import math
from itertools import product

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny_model import make_config, make_network, make_plan
from torch import nn

from se_med.inference.predictor import Predictor
from se_med.inference.shifts import choose_shifts

BLOCKS = st.lists(st.sampled_from([1, 2, 4]), min_size=3, max_size=3).map(tuple)


@settings(deadline=None)
@given(blocks=BLOCKS, most=st.integers(1, 70))
def test_shifts_are_different_and_start_with_none(blocks, most):
    shifts = choose_shifts(blocks, most)
    assert shifts[0] == (0, 0, 0)
    assert len(shifts) == len(set(shifts)) == min(most, math.prod(blocks))
    assert set(shifts) <= set(product(*map(range, blocks)))


def test_few_shifts_lie_far_apart():
    assert choose_shifts((2, 2, 2), 2) == [(0, 0, 0), (1, 1, 1)]
    assert choose_shifts((1, 4, 1), 2) == [(0, 0, 0), (0, 2, 0)]


class Grid(nn.Module):
    """Says class 1 with 3 : 1 in the first voxel of each block of two along the first axis, and how bright each voxel is."""

    divisor = (2, 2, 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        first = (torch.arange(x.shape[2]) % 2 == 0)[:, None, None] * math.log(3.0)
        return torch.cat([torch.zeros_like(x), torch.zeros_like(x) + first, 0 * x - 100], 1)


class Pointwise(nn.Module):
    """Sees one voxel at a time."""

    divisor = (4, 4, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.cat([x, -x, x.square()], dim=1)


def shifted(network: nn.Module, stem, most: int, patch: int = 16, **inference) -> Predictor:
    plan = make_plan(patch=(patch,) * 3).model_copy(update={"stem": stem})
    return Predictor(network, make_config(plan, test_time_shifts=most, **inference), plan)


@settings(deadline=None, max_examples=25)
@given(
    blocks=BLOCKS,
    most=st.integers(1, 9),
    shape=st.tuples(*[st.sampled_from([1, 5, 8, 9, 17])] * 3),
    whole=st.sampled_from(["auto", "never"]),
)
def test_what_does_not_depend_on_the_grid_is_unchanged(blocks, most, shape, whole):
    image = np.random.default_rng(0).normal(size=(1, *shape)).astype(np.float32)
    expected = Pointwise()(torch.from_numpy(image)[None])[0].softmax(0)
    found = shifted(Pointwise(), blocks, most, patch=8, whole_volume=whole).segment(image).softmax(0)
    assert torch.allclose(found, expected, atol=1e-5)


@pytest.mark.parametrize("length", [4, 16, 20, 31])
def test_the_mean_is_one_of_probabilities_on_every_grid(length):
    image = np.zeros((1, length, 4, 4), np.float32)
    mean = shifted(Grid(), (2, 1, 1), 2).segment(image).softmax(0)
    # Where windows overlap, the last voxel of one has no counterpart in the other pass; its weight is a thousandth.
    assert torch.allclose(mean[1], torch.full((length, 4, 4), (0.75 + 0.5) / 2), atol=1e-6 if length <= 16 else 3e-3)


def test_the_border_goes_on_for_the_shift_and_beyond_is_the_minimum():
    seen = []

    class Watch(Pointwise):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            seen.extend(x[:, 0].clone())
            return super().forward(x)

    image = np.arange(1.0, 11.0, dtype=np.float32).reshape(1, 10, 1, 1)
    shifted(Watch(), (2, 1, 1), 2).segment(image)
    lines = [one[:, 7, 7].tolist() for one in seen]  # one voxel of padding more after than before, where it is odd
    values = list(range(1, 11))
    assert lines == [[1, 1, *values, 10, 1, 1, 1], [1, 1, 1, *values, 1, 1, 1]]


def test_a_single_shift_is_one_plain_pass(noise):
    plain, one = (shifted(make_network(make_config(make_plan()), make_plan()), (1, 1, 1), most) for most in (1, 8))
    assert len(one.shifts) == 1
    assert torch.equal(plain.segment(noise[None]), one.segment(noise[None]))
