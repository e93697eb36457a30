"""The seconds in which heavy libraries are imported: a word on the terminal, and Ctrl-C at any moment."""

from __future__ import annotations

import os
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager

_CLEAR = "\r\x1b[K"


@contextmanager
def loading() -> Iterator[None]:
    """Import heavy libraries in this block, after everything that can be checked without them.

    On a terminal a line says so, and goes away at the end. Ctrl-C ends the process at once with exit code 130: nothing has been
    written yet, and an exception in the midst of an import is swallowed by some libraries and dressed up by others.
    """
    shown = sys.stderr.isatty()
    if shown:
        sys.stderr.write("loading libraries ...")
        sys.stderr.flush()
    try:
        with _leaving_at_once(shown):
            yield
    finally:
        if shown:
            sys.stderr.write(_CLEAR)
            sys.stderr.flush()


@contextmanager
def _leaving_at_once(shown: bool) -> Iterator[None]:
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def leave(signum: int, frame: object) -> None:
        os.write(2, (_CLEAR * shown + "interrupted\n").encode())
        os._exit(130)

    before = signal.signal(signal.SIGINT, leave)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)
