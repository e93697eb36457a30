"""Planes that take turns in memory hold the means that sums over the whole volume would give."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from se_med.errors import RunError
from se_med.inference.planes import Planes
from se_med.inference.tiling import tile


@settings(deadline=None, max_examples=40)
@given(
    shape=st.tuples(*[st.sampled_from([5, 16, 23, 40])] * 3),
    overlap=st.sampled_from([0.0, 0.4, 0.5, 0.75]),
    axis=st.sampled_from([None, 0, 1, 2]),
    batch=st.sampled_from([1, 3]),
    outputs=st.sampled_from([2, 14]),
    last=st.booleans(),
)
def test_means_and_classes_are_those_of_sums_over_the_whole_volume(shape, overlap, axis, batch, outputs, last):
    tiling = tile(shape, (8, 8, 8), (0, 0, 0), overlap, batch, axis)
    generator = torch.Generator().manual_seed(0)
    weights = None if tiling.disjoint else torch.rand(8, 8, 8, generator=generator) + 0.1
    whole, total = torch.zeros(outputs, *tiling.extent), torch.zeros(tiling.extent)
    planes, done = Planes(outputs, tiling, "fp32", weighted=not tiling.disjoint), 0
    means, classes = torch.empty(outputs, *shape), torch.empty(shape, dtype=torch.uint8)
    for starts, after in tiling.groups():
        for start in starts:
            output = torch.randn(1, outputs, 8, 8, 8, generator=generator)
            where = tuple(slice(first, first + 8) for first in start)
            whole[:, *where] += output[0] * (1 if weights is None else weights)
            total[where] += 1 if weights is None else weights
            memory = torch.channels_last_3d if last else torch.contiguous_format
            planes.add(start, output.contiguous(memory_format=memory)[0], 1.0, weights)
        planes.finish(after)
        ready = planes.finished
        if ready > done:
            means.narrow(1 + tiling.axis, done, ready - done).copy_(planes.read(slice(done, ready)))
            planes.choose(slice(done, ready), classes.narrow(tiling.axis, done, ready - done))
            planes.release(ready)
            done = ready
    assert done == shape[tiling.axis]
    inside = tuple(slice(low, low + length) for low, length in zip(tiling.origin, shape, strict=True))
    torch.testing.assert_close(means, whole[:, *inside] / total[inside], rtol=1e-4, atol=1e-5)
    assert np.array_equal(classes.numpy(), means.numpy().argmax(0))


def test_planes_that_are_not_finished_or_forgotten_are_refused():
    tiling = tile((40, 8, 8), (8, 8, 8), (0, 0, 0), 0.5, 1, 0)
    planes = Planes(2, tiling, "bf16", weighted=not tiling.disjoint)
    with pytest.raises(ValueError, match="not there"):
        planes.read(slice(0, 1))
    weights = torch.ones(8, 8, 8)
    planes.add((0, 0, 0), torch.ones(2, 8, 8, 8), 1.0, weights)
    planes.finish(4)
    with pytest.raises(ValueError, match="not there"):
        planes.read(slice(3, 5))
    planes.release(3)
    with pytest.raises(ValueError, match="not there"):
        planes.read(slice(2, 4))
    with pytest.raises(ValueError, match="forgotten"):
        planes.add((0, 0, 0), torch.ones(2, 8, 8, 8), 1.0, weights)
    with pytest.raises(ValueError, match="no room"):
        planes.add((32, 0, 0), torch.ones(2, 8, 8, 8), 1.0, weights)


def test_an_output_that_is_not_finite_is_named_with_its_arithmetic():
    tiling = tile((16, 8, 8), (8, 8, 8), (0, 0, 0), 0.5, 1, 0)
    planes, output = Planes(2, tiling, "bf16", weighted=not tiling.disjoint), torch.ones(2, 8, 8, 8)
    output[1, 7, 7, 7] = float("nan")
    planes.add((0, 0, 0), output, 1.0, torch.ones(8, 8, 8))
    planes.finish(8)
    with pytest.raises(RunError, match="not finite in bf16"):
        planes.read(slice(0, 8))
    with pytest.raises(RunError, match="not finite in bf16"):
        planes.choose(slice(0, 8), torch.empty(8, 8, 8, dtype=torch.uint8))
