"""Which entries of a cache are in use: a file per process that lists them, locked for as long as the process lives.

Locks end with the process however it ends, so nothing has to be tidied up for a cache to be cleared; a process that ends well
removes its list, and the next one those of processes that were killed. On a folder that may only
be read nothing is written: whoever cannot write there cannot clear it either.
"""

from __future__ import annotations

import atexit
import fcntl
import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TextIO

from se_med.io.atomic import temporary_path

USES = ".uses"
"""Folder of the files in which processes list what they use."""
LOCK = ".lock"
"""Held shared while an entry is looked up, alone while entries are taken away."""

_held: dict[tuple[Path, int], TextIO] = {}
_guard = threading.Lock()


def announce_use(folder: Path, name: str) -> None:
    """Tell that this process uses an entry, until it ends.

    Args:
        folder: the cache.
        name: of the entry.
    """
    key = folder.resolve(), os.getpid()  # a process that was forked is another one
    with _guard, suppress(OSError):
        if key not in _held:
            _held[key] = _open_list(key[0])
        os.write(_held[key].fileno(), f"{name}\n".encode())  # past buffers, which a full disk would leave filled


def used_entries(folder: Path) -> set[str]:
    """Return the names of the entries that living processes use; the lists of others are removed."""
    names: set[str] = set()
    for path in (folder / USES).glob("*.tmp"):
        with suppress(FileNotFoundError), path.open("r+", encoding="utf-8") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError:  # its process lives
                names.update(file.read().split())
            else:
                path.unlink()
    return names


@contextmanager
def looking_up(folder: Path) -> Iterator[None]:
    """Keep entries from being taken away while the block announces and looks up one."""
    with _locked(folder, fcntl.LOCK_SH):
        yield


@contextmanager
def taking_away(folder: Path) -> Iterator[None]:
    """Keep other processes from looking up entries while the block finds out which are free, and takes these away."""
    with _locked(folder, fcntl.LOCK_EX):
        yield


@contextmanager
def _locked(folder: Path, kind: int) -> Iterator[None]:
    try:
        file = (folder / LOCK).open("a", encoding="utf-8")
    except OSError:  # a folder that may only be read
        yield
        return
    with file:
        fcntl.flock(file, kind)
        yield


def _open_list(folder: Path) -> TextIO:
    (folder / USES).mkdir(exist_ok=True)
    used_entries(folder)
    path = temporary_path(folder / USES / "entries")
    file = path.open("w", encoding="utf-8")
    fcntl.flock(file, fcntl.LOCK_EX)
    atexit.register(_remove_list, path, os.getpid())
    return file


def _remove_list(path: Path, process: int) -> None:
    if os.getpid() == process:  # not in a fork
        with suppress(OSError):
            path.unlink()
