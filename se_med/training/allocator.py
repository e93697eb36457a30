"""Where the memory of a training step comes from, and where it goes after."""

from __future__ import annotations

import ctypes
import os
import sys

# The parameters of glibc's mallopt, from malloc.h.
M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3
NEVER = 2**31 - 1
HEAP = 32 * 2**20
"""Bytes up to which blocks come from the heap: the most that glibc takes."""


def keep_memory_between_steps() -> bool:
    """Keep what a step frees for the next one, and take what is larger in huge pages. Call it before torch is imported.

    Every step allocates the same activations again. By default glibc gives them back to the system, which clears every 4 KiB
    page that is asked for anew. Both settings are of the process and last; its peak of memory grows (703 to 732 and
    790 MB with a small network), and a part of it is held to the end.

    Returns:
        Whether the C library has taken its part: false where it is not glibc.
    """
    os.environ.setdefault("THP_MEM_ALLOC_ENABLE", "1")  # torch's own switch, for blocks of 2 MiB and more
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None) if sys.platform == "linux" else None
    if mallopt is None:
        return False
    # Either one alone would fix the other at its small default.
    return bool(mallopt(M_MMAP_THRESHOLD, HEAP)) and bool(mallopt(M_TRIM_THRESHOLD, NEVER))
