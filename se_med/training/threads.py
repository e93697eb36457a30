"""How many threads to compute with, where the configuration leaves it open."""

from __future__ import annotations

import logging
import os
import time
from pathlib import Path

log = logging.getLogger(__name__)

WATCHED_SECONDS = 0.5


def choose_threads(configured: int | None, recorded: int | None, processes: int) -> int:
    """Return the number of threads of each process.

    Threads wait for one another after every operation. On two cores with one busy neighbour, two threads were measured to be
    15 times slower than one, so by default a run takes the cores that are free when it starts.

    Args:
        configured: ``training.threads``.
        recorded: the number that a resumed run was started with, since its last digits depend on it.
        processes: processes that train together and share the cores.
    """
    if configured or recorded:
        return configured or recorded or 1
    cores = own_cores()
    free = max(1, cores - round(busy_cores()))
    if free < cores:
        log.info("threads: %d of %d cores, since other work keeps the rest busy; set training.threads to take more", free, cores)
    return max(1, free // processes)


def own_cores() -> int:
    """Return how many cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def busy_cores() -> float:
    """Return how many cores all processes together keep busy, watched for half a second while this one sleeps.

    0 where the system does not tell.
    """
    neighbours = Neighbours()
    time.sleep(WATCHED_SECONDS)
    return neighbours.busy()


class Neighbours:
    """Watches how many cores other processes keep busy, from when it is made."""

    def __init__(self) -> None:
        self._start = time.monotonic()
        self._before = _ticks()
        self._own = time.process_time()

    def busy(self) -> float:
        """Return the mean number of cores that others have kept busy since; 0 where the system does not tell."""
        after = _ticks()
        if self._before is None or after is None or after[1] <= self._before[1]:
            return 0.0
        all_busy = (after[0] - self._before[0]) / (after[1] - self._before[1]) * (os.cpu_count() or 1)
        own = (time.process_time() - self._own) / (time.monotonic() - self._start)
        return max(0.0, all_busy - own)


def _ticks() -> tuple[int, int] | None:
    """Return the busy and all ticks of all cores since the system started (Linux)."""
    try:
        fields = [int(field) for field in Path("/proc/stat").read_text(encoding="ascii").split("\n", 1)[0].split()[1:9]]
    except (OSError, ValueError):
        return None
    idle = fields[3] + fields[4]
    return sum(fields) - idle, sum(fields)
