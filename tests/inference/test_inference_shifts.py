"""Test-time shifts: the mean over grids of the stem, exactly undone, and evenly spread."""

from __future__ import annotations

import math
from itertools import product

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from se_med.inference.shifts import choose_shifts, mean_over_shifts

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


@settings(deadline=None)
@given(blocks=BLOCKS, most=st.integers(1, 9), seed=st.integers(0, 20))
def test_what_does_not_depend_on_the_grid_is_unchanged(blocks, most, seed):
    image = np.random.default_rng(seed).normal(size=(1, 5, 6, 7)).astype(np.float32)

    def by_voxel(array):
        return torch.from_numpy(np.concatenate([array, -array, array**2]))

    found = mean_over_shifts(by_voxel, image, choose_shifts(blocks, most))
    assert torch.allclose(found.softmax(0), by_voxel(image).softmax(0), atol=1e-6)


def test_the_mean_is_one_of_probabilities_on_every_grid():
    image = np.zeros((1, 4, 4, 4), np.float32)

    def grid(array):  # class 1 in the first voxel of each block of two along the first axis
        first = torch.arange(array.shape[1]) % 2 == 0
        return torch.stack([torch.zeros(array.shape[1:]), first[:, None, None].expand(array.shape[1:]) * math.log(3.0)])

    mean = mean_over_shifts(grid, image, choose_shifts((2, 1, 1), 2)).softmax(0)
    assert torch.allclose(mean[1], torch.full((4, 4, 4), (0.75 + 0.5) / 2), atol=1e-6)


@pytest.mark.parametrize("shape", [(1, 3, 3, 3), (2, 9, 1, 4)])
def test_a_single_shift_is_one_plain_pass(shape):
    image = np.zeros(shape, np.float32)
    seen = []

    def segment(array):
        seen.append(array)
        return torch.zeros(2, *array.shape[1:])

    mean_over_shifts(segment, image, choose_shifts((2, 2, 2), 1))
    assert len(seen) == 1
    assert seen[0] is image
