"""How much memory there is, how much reading a case takes, and a limit on how many cases are read at once."""

from __future__ import annotations

import math
import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path

import numpy as np

from se_med.data.case import Case
from se_med.errors import ImageError
from se_med.io.image2d import is_flat, read_flat_size
from se_med.io.images import read_geometry
from se_med.io.volume import Geometry

SHARE_OF_FREE = 0.5
"""Share of the memory that is free which preparation takes where no limit is given."""
READ_BYTES = 16
"""Bytes per stored voxel and channel while a case is read and turned: as stored (up to 8), as float32, and turned."""
LABEL_BYTES = 6
"""Bytes per stored voxel of the label map: as stored, as class indices, turned, and the masks in between."""


def reading_bytes(case: Case) -> int:
    """Estimate the bytes of memory that reading a case takes; 0 where a header cannot be read, which reading will tell."""
    geometry = case_geometry(case)
    return 0 if geometry is None else math.prod(geometry.shape) * (READ_BYTES * geometry.channels + LABEL_BYTES)


def case_geometry(case: Case) -> Geometry | None:
    """Return the grid of a case with all its channels, from the headers alone; None where one cannot be read."""
    try:
        geometries = [_flat_geometry(path) if is_flat(path) else read_geometry(path) for path in case.images]
    except (ImageError, OSError):
        return None
    return replace(geometries[0], channels=sum(geometry.channels for geometry in geometries))


def _flat_geometry(path: Path) -> Geometry:
    """Return the grid of a 2D image without decoding it."""
    columns, rows, channels = read_flat_size(path)
    return Geometry((columns, rows, 1), np.eye(4), (1.0, 1.0, 1.0), channels)


class Allowance:
    """A number of bytes that threads share: who asks for more than is left waits.

    Args:
        limit: bytes.
    """

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self._taken = 0
        self._changed = threading.Condition()

    @contextmanager
    def take(self, size: int) -> Iterator[None]:
        """Hold `size` bytes while the block runs. What is larger than the limit runs too, but alone."""
        with self._changed:
            self._changed.wait_for(lambda: self._taken == 0 or self._taken + size <= self.limit)
            self._taken += size
        try:
            yield
        finally:
            with self._changed:
                self._taken -= size
                self._changed.notify_all()


def memory_limit(gib: float | None) -> int:
    """Return the bytes that preparation may take: the limit of the user, else half of what is free."""
    return int(gib * 2**30) if gib is not None else int(SHARE_OF_FREE * free_memory())


def free_memory() -> int:
    """Return the bytes of memory that are free: of the machine, and of the control group that this process is in."""
    found = [_group_memory()]
    with suppress(OSError, ValueError):
        lines = Path("/proc/meminfo").read_text(encoding="ascii").splitlines()
        found += [int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable:")]
    known = [size for size in found if size is not None]
    return min(known) if known else total_memory() // 2


def total_memory() -> int:
    """Return the bytes of memory that the machine has, or the control group that this process is in."""
    total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") if hasattr(os, "sysconf") else 8 * 2**30
    limit = _group_limit()
    return total if limit is None else min(total, limit)


def _group_limit() -> int | None:
    with suppress(OSError, ValueError):
        return int(Path("/sys/fs/cgroup/memory.max").read_text(encoding="ascii"))  # "max" is no number: no limit
    return None


def _group_memory() -> int | None:
    limit = _group_limit()
    if limit is None:
        return None
    with suppress(OSError, ValueError):
        return max(0, limit - int(Path("/sys/fs/cgroup/memory.current").read_text(encoding="ascii")))
    return limit
