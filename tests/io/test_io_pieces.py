"""Large volumes by several threads: the same bytes as by one."""

from __future__ import annotations

import gzip

import numpy as np
import pytest

from se_med.io import pieces
from se_med.io.pieces import for_each, gzipped
from se_med.io.stored import in_c_order


@pytest.fixture
def several(monkeypatch):
    """Threads for small volumes too, whatever the machine has."""
    monkeypatch.setattr(pieces, "LARGE", 1)
    monkeypatch.setattr(pieces, "threads", lambda: 3)


def test_every_piece_is_worked_on_once(several):
    done = []
    for_each(done.append, range(50), 50)
    assert sorted(done) == list(range(50))


def test_an_error_in_a_piece_is_raised(several):
    def fail(piece: int) -> None:
        raise ValueError(piece)

    with pytest.raises(ValueError, match="0"):
        for_each(fail, range(3), 3)


@pytest.mark.parametrize("size", [0, 1, 1000, 3_000_000])
def test_compressed_bytes_do_not_depend_on_threads(size, monkeypatch):
    values = np.random.default_rng(0).integers(0, 3, size).astype(np.uint8)
    parts = np.array_split(values, 3)
    monkeypatch.setattr(pieces, "LARGE", 1)
    found = []
    for count in (1, 2, 3):
        monkeypatch.setattr(pieces, "threads", lambda count=count: count)
        found.append(gzipped(b"start", parts, size))
        assert gzip.decompress(found[-1]) == b"start" + values.tobytes()
    assert found[0] == found[1] == found[2]


def test_values_of_several_bytes_are_compressed_as_they_lie(several):
    values = np.arange(1000, dtype=np.uint16).reshape(10, 100)
    assert gzip.decompress(gzipped(b"", [values[:4], values[4:]], values.size)) == values.tobytes()


def test_large_volumes_are_turned_around_by_threads_without_warnings(several, recwarn):
    voxels = np.asarray(np.random.default_rng(0).normal(size=(200, 20, 7)) * 1e300, order="F")
    copy = in_c_order(voxels, np.float32)
    with np.errstate(over="ignore"):
        assert np.array_equal(copy, voxels.astype(np.float32))
    assert copy.flags.c_contiguous
    assert not recwarn


@pytest.mark.parametrize(("asked", "most"), [("1", 1), ("0", 1), ("3", 3), ("", 4), ("many", 4)])
def test_threads_are_those_that_may_be_used(asked, most, monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", asked)
    assert 1 <= pieces.threads() <= most
