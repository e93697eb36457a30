"""The stem is pixel-unshuffle with a factor per axis, the head its inverse."""

import itertools

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from se_med.networks.stem import DepthToSpace, SpaceToDepth, make_stem

factors_2d_3d = st.lists(st.sampled_from([1, 2, 4]), min_size=2, max_size=3)


@settings(max_examples=30, deadline=None)
@given(factors=factors_2d_3d, coarse=st.lists(st.integers(1, 3), min_size=3, max_size=3), channels=st.integers(1, 3))
def test_each_channel_holds_one_offset_of_one_input_channel(factors, coarse, channels):
    sizes = [size * factor for size, factor in zip(coarse, factors, strict=False)]
    x = torch.randn(2, channels, *sizes)
    y = SpaceToDepth(factors)(x)
    expected = [
        x[(slice(None), slice(c, c + 1), *(slice(o, None, f) for o, f in zip(offset, factors, strict=True)))]
        for c in range(channels)
        for offset in itertools.product(*(range(factor) for factor in factors))
    ]
    assert torch.equal(y, torch.cat(expected, 1))
    assert torch.equal(DepthToSpace(factors)(y), x)


def test_equal_factors_in_2d_are_torch_pixel_unshuffle():
    x = torch.randn(2, 3, 8, 12)
    assert torch.equal(SpaceToDepth((4, 4))(x), torch.pixel_unshuffle(x, 4))
    y = torch.randn(2, 32, 3, 5)
    assert torch.equal(DepthToSpace((4, 4))(y), torch.pixel_shuffle(y, 4))


@pytest.mark.parametrize("factors", [(1, 1), (1, 1, 1)])
def test_no_stem_changes_nothing(factors):
    x = torch.randn(1, 2, *(4,) * len(factors))
    for layer in make_stem(factors):
        assert layer(x) is x
