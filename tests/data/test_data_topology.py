from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from se_med.data.topology import check_patch, choose_kernels, choose_patch, choose_stem, grow_topology
from se_med.errors import UsageError

ISOTROPIC = (1.0, 1.0, 1.0)


def test_isotropic_input_is_halved_along_all_axes_down_to_four():
    topology = grow_topology((64, 64, 64), ISOTROPIC, (1, 1, 1), max_stages=6)
    assert topology.strides == ((2, 2, 2),) * 4
    assert topology.kernels == ((3, 3, 3),) * 5
    assert topology.multiple == (16, 16, 16)


def test_a_coarse_axis_is_halved_later_and_has_kernels_of_one_until_then():
    topology = grow_topology((256, 256, 20), (1.0, 1.0, 5.0), (1, 1, 1), max_stages=6)
    assert topology.strides[:3] == ((2, 2, 1), (2, 2, 1), (2, 2, 2))
    assert topology.kernels[:3] == ((3, 3, 1), (3, 3, 1), (3, 3, 3))


def test_the_stem_counts_as_a_halving():
    topology = grow_topology((40, 56, 40), ISOTROPIC, (2, 2, 2), max_stages=6)
    assert topology.strides == ((2, 2, 2), (2, 2, 2))
    assert topology.multiple == (8, 8, 8)


def test_the_number_of_stages_is_limited():
    assert len(grow_topology((1024, 1024), (1.0, 1.0), (1, 1), max_stages=5).kernels) == 5


def test_a_given_number_of_stages_is_met_or_refused():
    assert len(grow_topology((32, 32, 32), ISOTROPIC, (1, 1, 1), 6, stages=3).kernels) == 3
    assert len(grow_topology((32, 32, 32), ISOTROPIC, (1, 1, 1), 6, stages=6).kernels) == 6
    with pytest.raises(UsageError, match="7 stages are too many for a patch of 32x32x32 voxels; at most 6 fit"):
        grow_topology((32, 32, 32), ISOTROPIC, (1, 1, 1), 6, stages=7)


def test_kernels_stay_three_once_they_are():
    kernels = choose_kernels((1.0, 1.0, 3.0), (1, 1, 1), ((2, 2, 1), (2, 2, 2), (1, 1, 4)))
    assert kernels == ((3, 3, 1), (3, 3, 3), (3, 3, 3), (3, 3, 3))


@pytest.mark.parametrize(
    ("size", "spacing", "stem"),
    [
        ((35, 50, 36), ISOTROPIC, (2, 2, 2)),
        ((216, 256, 9), (1.5, 1.5, 10.0), (2, 2, 1)),
        ((64, 64, 12), ISOTROPIC, (2, 2, 1)),
        ((200, 200), (0.5, 0.5), (2, 2)),
        ((8, 8, 8), ISOTROPIC, (1, 1, 1)),
    ],
)
def test_stem(size, spacing, stem):
    assert choose_stem(size, spacing) == stem


@given(
    st.lists(st.integers(1, 700), min_size=2, max_size=3),
    st.lists(st.floats(0.3, 10), min_size=3, max_size=3),
    st.sampled_from([2_000, 40_000, 2_000_000]),
    st.booleans(),
)
def test_a_patch_fits_the_network_and_the_budget_and_the_shape(shape, spacing, budget, with_stem):
    spacing = spacing[: len(shape)]
    stem = choose_stem(shape, spacing) if with_stem else (1,) * len(shape)
    patch, topology = choose_patch(shape, spacing, budget, lambda size: grow_topology(size, spacing, stem, 6))
    check_patch(patch, topology.multiple)
    smallest = all(extent == step for extent, step in zip(patch, topology.multiple, strict=True))
    assert smallest or math.prod(patch) / math.prod(stem) <= budget
    assert all(extent < full + step for extent, full, step in zip(patch, shape, topology.multiple, strict=True))


def test_a_small_volume_is_covered_and_a_large_one_becomes_a_cube():
    def plan(size):
        return grow_topology(size, (1.0, 1.0, 1.0), (2, 2, 2), 6)

    assert choose_patch((35, 50, 36), ISOTROPIC, 40_000, plan)[0] == (40, 56, 40)
    patch = choose_patch((500, 400, 600), ISOTROPIC, 40_000, plan)[0]
    assert max(patch) <= min(patch) + 16
    assert patch[0] >= 56


def test_a_voxel_over_a_multiple_is_not_worth_padding():
    patch, _ = choose_patch((65, 65, 65), ISOTROPIC, 1e9, lambda size: grow_topology(size, ISOTROPIC, (1, 1, 1), 6))
    assert patch == (64, 64, 64)


@pytest.mark.parametrize(("extent", "advice"), [(50, "take 48 or 56"), (5, "take 8")])
def test_a_wrong_patch_names_its_neighbours(extent, advice):
    with pytest.raises(UsageError, match=rf"training\.patch: {extent} \(axis 1\) is not a multiple of 8, .*; {advice}$"):
        check_patch((40, extent, 40), (8, 8, 8))
