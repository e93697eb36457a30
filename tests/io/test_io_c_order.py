"""Turning volumes around tile by tile."""

from __future__ import annotations

import numpy as np
import pytest

from se_med.io.stored import in_c_order


@pytest.mark.parametrize("shape", [(1, 1, 1), (65, 9, 3), (64, 8, 5), (130, 20, 7), (2, 70, 17, 4)])
@pytest.mark.parametrize("order", ["C", "F"])
def test_the_copy_is_that_of_numpy(shape, order):
    voxels = np.asarray(np.random.default_rng(0).integers(-1000, 1000, shape), dtype=">i2", order=order)
    copy = in_c_order(voxels, np.float32)
    assert copy.dtype == np.float32
    assert copy.flags.c_contiguous
    assert np.array_equal(copy, np.ascontiguousarray(voxels, dtype=np.float32))


def test_an_axis_that_was_moved_is_turned_too():
    voxels = np.moveaxis(np.asfortranarray(np.arange(2 * 66 * 9 * 3).reshape(66, 9, 3, 2)), -1, 0)
    assert np.array_equal(in_c_order(voxels, np.int64), voxels)
