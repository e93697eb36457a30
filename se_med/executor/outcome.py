"""What became of a task, and what a worker tells of one attempt."""

from __future__ import annotations

import logging
import os
import sys
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from se_med.errors import SeMedError

log = logging.getLogger(__name__)

T = TypeVar("T")


@dataclass(frozen=True)
class Outcome(Generic[T]):
    """What became of one task.

    Attributes:
        key: the task's key.
        value: what the function returned; None when it failed.
        error: why it failed, one line; empty when it is done.
        attempts: how often it was started.
        seconds: time of its last attempt that ended, as the worker measured it; 0 when its worker was killed.
        killed: whether it failed because every attempt ended with its worker killed, and is so set aside.
    """

    key: str
    value: T | None
    error: str = ""
    attempts: int = 1
    seconds: float = 0.0
    killed: bool = False


@dataclass(frozen=True)
class Reply:
    """How one attempt ended, as the worker tells it.

    Attributes:
        value: what the function returned.
        error: why it failed, one line; empty when it did not.
        details: traceback of an error that is no `SeMedError`.
        seconds: time that it took.
    """

    value: Any
    error: str
    details: str
    seconds: float

    def outcome(self, key: str, attempts: int) -> Outcome[Any]:
        """Return the task's outcome; the traceback is logged."""
        if self.details:
            log.error("%s: %s", key, self.details)
        return Outcome(key, self.value, self.error, attempts, self.seconds)


def attempt(call: Callable[[], Any]) -> Reply:
    """Call and catch whatever is raised: a worker goes on after an error of a task."""
    start = time.perf_counter()
    value, message, details = None, "", ""
    try:
        value = call()
    except SeMedError as error:
        message = error.message
    except Exception as error:  # noqa: BLE001  (the parent reports it with its traceback)
        message = f"{type(error).__name__}: {error}"
        details = traceback.format_exc()
    return Reply(value, " ".join(message.splitlines()), details, time.perf_counter() - start)


def limit_threads(threads: int) -> None:
    """Make this process compute with that many threads, whether it has imported torch or will."""
    for library in ("OMP", "MKL", "OPENBLAS"):
        os.environ[f"{library}_NUM_THREADS"] = str(threads)
    torch = sys.modules.get("torch")
    if torch is not None and torch.get_num_threads() != threads:
        torch.set_num_threads(threads)


def lost(key: str, how: str, attempts: int) -> Outcome[Any]:
    """Return the outcome of a task whose workers all died."""
    times = "once" if attempts == 1 else f"{attempts} times, the last one"
    return Outcome(key, None, f"its worker process died {times} {how}; set aside", attempts, killed=True)
