"""Tasks for the executor's tests: worker processes import them from here."""

from __future__ import annotations

import multiprocessing
import os
import signal
import sys
import time
from pathlib import Path

from se_med.errors import ConfigError, ImageError


def double(number: int) -> int:
    return 2 * number


def process_id(seconds: float) -> int:
    time.sleep(seconds)
    return os.getpid()


def die_in_first_attempt(task: tuple[Path, int]) -> int:
    """Kill the own process in the first attempt of a task; the folder keeps count."""
    folder, number = task
    (folder / f"{number}-{time.monotonic_ns()}").touch()
    if len(list(folder.glob(f"{number}-*"))) == 1:
        os.kill(os.getpid(), signal.SIGKILL)
    return number


def die_if_negative(number: int) -> int:
    time.sleep(0.05)
    if number < 0:
        os.kill(os.getpid(), signal.SIGKILL)
    return number


def leave(code: int) -> None:
    sys.exit(code)


def fail(kind: str) -> object:
    if kind == "image":
        raise ImageError("a.nii.gz: truncated; copy it again")
    if kind == "config":  # its arguments are not those of its constructor, so it cannot be pickled
        raise ConfigError(["a.yaml:1:1: first", "a.yaml:2:1: second"])
    if kind == "fault":
        raise ZeroDivisionError("a fault\nof two lines")
    if kind == "memory":
        raise MemoryError
    return lambda: None  # cannot be pickled


def threads(name: str) -> str:
    import torch

    return f"{os.environ[name]} {torch.get_num_threads()}"


def child(number: int) -> int:
    """Use a process of the task's own, as the loader of a training does."""
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        return pool.apply(double, (number,))


def note_and_wait(path: Path) -> None:
    """Write down the process id and stay."""
    path.with_suffix(".tmp").write_text(str(os.getpid()))
    path.with_suffix(".tmp").replace(path)
    time.sleep(120)


def note_and_wait_or_return(path: Path) -> None:
    if path.name == "stays":
        note_and_wait(path)
    while not path.with_name("stays").exists():
        time.sleep(0.05)


def save_when_terminated(path: Path) -> str:
    """Do as a training does: on SIGTERM finish first."""

    def handle(signum: int, frame: object) -> None:
        path.with_suffix(".saved").write_text("checkpoint")
        raise ImageError("interrupted")

    signal.signal(signal.SIGTERM, handle)
    note_and_wait(path)
    return "not reached"
