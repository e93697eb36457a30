"""Large volumes in pieces, by several threads: numpy and isal let others run while they copy and compress."""

from __future__ import annotations

import io
import os
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
from isal import igzip, igzip_threaded
from numpy.typing import NDArray

LARGE = 2**22
"""Values from which on it pays to start threads."""
MOST_THREADS = 4
GZIP_LEVEL = 2


def threads() -> int:
    """Return how many threads may work: the cores of this process, or what `OMP_NUM_THREADS` says, and at most MOST_THREADS."""
    asked = os.environ.get("OMP_NUM_THREADS", "")
    own = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, min(int(asked) if asked.isdecimal() else own, own, MOST_THREADS))


def for_each(work: Callable[[int], None], pieces: Sequence[int], size: int) -> None:
    """Do some work on each piece of something with `size` values."""
    count = min(threads(), len(pieces)) if size >= LARGE else 1
    if count == 1:
        for piece in pieces:
            work(piece)
        return
    with ThreadPoolExecutor(count) as pool:
        for done in [pool.submit(work, piece) for piece in pieces]:
            done.result()


def gzipped(start: bytes, pieces: Iterable[NDArray[Any]], size: int) -> bytes:
    """Compress bytes and, behind them, C-contiguous arrays. Equal bytes give equal results, with any number of threads.

    Args:
        start: the first bytes.
        pieces: what follows.
        size: number of their values.
    """
    if size < LARGE:
        content = b"".join([start, *(piece.tobytes() for piece in pieces)])
        return bytes(igzip.compress(content, compresslevel=GZIP_LEVEL, mtime=0))
    packed = io.BytesIO()
    with igzip_threaded.open(packed, "wb", compresslevel=GZIP_LEVEL, threads=threads()) as stream:
        stream.write(start)
        for piece in pieces:
            stream.write(np.ascontiguousarray(piece).reshape(-1).view(np.uint8).data)
    return packed.getvalue()
