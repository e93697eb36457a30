"""Commands of se-med as processes that are forked from this one, what they tell, and what they leave running.

This process imports what the commands need and starts no thread, so a fork of it is a command that has its imports behind it: a
trial takes as long as its work. `fresh` commands are started by the interpreter instead, imports and all. Whatever a command
starts becomes a child of this process when the command dies, so none can hide (Linux).
"""

from __future__ import annotations

import atexit
import contextlib
import ctypes
import fcntl
import mmap
import os
import signal
import struct
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PATIENCE = 60.0
"""Seconds in which what a dead command has left running must end: workers give their tasks 30 s for a checkpoint."""
_COUNT = struct.Struct("q")
_PIPE = 1 << 20
_ASKING = {signal.SIGINT, signal.SIGTERM}
_SET_CHILD_SUBREAPER, _BOUNDING_DROP = 36, 24
_CAPABILITIES = 0x20080522
_OVERRIDES = (1, 2)  # CAP_DAC_OVERRIDE, CAP_DAC_READ_SEARCH: what lets root write where nobody may


def adopt_orphans() -> None:
    """Become the parent of every process below this one whose own parent dies."""
    ctypes.CDLL(None).prctl(_SET_CHILD_SUBREAPER, 1, 0, 0, 0)


def import_ahead(names: Sequence[str]) -> None:
    """Import modules."""
    for name in names:
        with contextlib.suppress(ImportError):
            __import__(name)


def apart(work: Callable[[], object]) -> None:
    """Do some work in a fork of this process, so that this one stays as it is.

    Raises:
        RuntimeError: it failed.
    """
    refuse_threads()
    sys.stdout.flush()
    pid = os.fork()
    if pid == 0:
        code = 1
        try:
            work()
            code = 0
        finally:
            os._exit(code)
    if os.waitpid(pid, 0)[1]:
        raise RuntimeError("the work in a process of its own has failed")


def refuse_threads() -> None:
    """See to it that this process has a single thread.

    Raises:
        RuntimeError: it has more; a fork of it could hang.
    """
    if len(list(Path("/proc/self/task").iterdir())) > 1:
        raise RuntimeError("a library has started a thread, so that processes cannot be forked; set OMP_NUM_THREADS=1")


class Command:
    """A command that runs.

    Args:
        arguments: of `se-med`.
        environment: variables on top of those of this process.
        phase: the part of its work whose progress is counted.
        fresh: start an interpreter of its own.
        imported: a file for the names of the modules that it has imported when it ends.
    """

    def __init__(
        self,
        arguments: Sequence[str],
        environment: Mapping[str, str],
        phase: str = "",
        fresh: bool = False,
        imported: Path | None = None,
    ) -> None:
        refuse_threads()
        self._phase = phase
        self._counts = mmap.mmap(-1, _COUNT.size)
        self._counts[:] = _COUNT.pack(-1)
        # A pipe, which neither a full disk nor a limit on files cuts off.
        self._says, says = os.pipe()
        for descriptor in (self._says, says):
            with contextlib.suppress(OSError):
                fcntl.fcntl(descriptor, fcntl.F_SETPIPE_SZ, _PIPE)
        os.set_blocking(self._says, False)
        self._said = b""
        self.begin = time.monotonic()
        self.code: int | None = None
        sys.stdout.flush()
        signal.pthread_sigmask(signal.SIG_BLOCK, _ASKING)
        self.pid = os.fork()
        if self.pid == 0:
            code = 1
            try:
                code = self._become(arguments, environment, says, fresh, imported)
            except KeyboardInterrupt:
                traceback.print_exc()
                code = 130
            except BaseException:  # noqa: BLE001  (what the interpreter does with it)
                traceback.print_exc()
            finally:
                sys.stderr.flush()
                os._exit(code)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, _ASKING)
        os.close(says)

    @property
    def said(self) -> str:
        """What it has said on both streams."""
        with contextlib.suppress(BlockingIOError):
            while block := os.read(self._says, _PIPE):
                self._said += block
        return self._said.decode(errors="replace")

    def close(self) -> None:
        """Listen no more."""
        os.close(self._says)
        self._counts.close()

    @property
    def count(self) -> int:
        """Units of its main work that it has told to be done; -1 while it has told none. Fresh commands tell none."""
        return int(_COUNT.unpack(self._counts[:])[0])

    def wait(self, seconds: float | None = None) -> int | None:
        """Wait for its end; returns its exit code, negative when a signal ended it, or None when the time is up."""
        deadline = None if seconds is None else time.monotonic() + seconds
        while self.code is None:
            pid, status = os.waitpid(self.pid, os.WNOHANG)
            if pid:
                self.code = os.waitstatus_to_exitcode(status)
            elif deadline is not None and time.monotonic() >= deadline:
                break
            else:
                time.sleep(0.002)
        return self.code

    def kill(self, number: int) -> None:
        """Send it a signal."""
        os.kill(self.pid, number)

    def _become(
        self, arguments: Sequence[str], environment: Mapping[str, str], says: int, fresh: bool, imported: Path | None
    ) -> int:
        for stream in (1, 2):
            os.dup2(says, stream)
        os.close(says)
        os.close(self._says)
        _give_up_overrides()
        os.environ.update(environment)
        os.chdir(environment["HOME"])
        signal.signal(signal.SIGINT, signal.default_int_handler)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, _ASKING)
        if fresh:
            os.execve(sys.executable, [sys.executable, "-m", "se_med", *arguments], os.environ)  # noqa: S606
        sys.argv = ["se-med", *arguments]
        return self._run(arguments, imported)

    def _run(self, arguments: Sequence[str], imported: Path | None) -> int:
        """Run the command as the interpreter would, with a progress bar that counts."""
        import se_med.cli.progress
        from se_med.cli.app import main

        counts = self._counts

        @contextmanager
        def counting(description: str, total: int | None) -> Iterator[object]:
            def advance(done: int, note: str) -> None:
                counts[:] = _COUNT.pack(done)

            yield advance if description == self._phase else lambda done, note: None

        se_med.cli.progress.progress_bar = counting  # type: ignore[assignment]
        try:
            code = main(arguments)
        except SystemExit as end:
            code = end.code if isinstance(end.code, int) else 1
        threading._shutdown()  # type: ignore[attr-defined]
        atexit._run_exitfuncs()
        if imported is not None:
            imported.write_text("\n".join(name for name in sorted(sys.modules) if "__" not in name))
        sys.stdout.flush()
        sys.stderr.flush()
        return code


def children_of(parent: int) -> list[int]:
    """Return what a process has started, and what these have started, oldest first."""
    parents: dict[int, list[int]] = {}
    for path in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError, ValueError):
            fields = path.read_text().rpartition(")")[2].split()
            if fields[0] != "Z":
                parents.setdefault(int(fields[1]), []).append(int(path.parent.name))
    found = [parent]
    for known in found:
        found += sorted(parents.get(known, []))
    return found[1:]


def wait_for_orphans() -> tuple[float, int]:
    """Wait until nothing runs any more below this process.

    Returns:
        The seconds that it took, and how many processes had not ended after `PATIENCE`; these are killed.
    """
    begin = time.monotonic()
    while time.monotonic() - begin < PATIENCE:
        with contextlib.suppress(ChildProcessError):
            while os.waitpid(-1, os.WNOHANG)[0]:
                pass
        if not children_of(os.getpid()):
            return time.monotonic() - begin, 0
        time.sleep(0.01)
    left = children_of(os.getpid())
    for pid in left:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    with contextlib.suppress(ChildProcessError):
        while True:
            os.waitpid(-1, 0)
    return PATIENCE, len(left)


def _give_up_overrides() -> None:
    """Let root respect the rights of files like anybody else, here and in every process that is started from here."""
    if os.geteuid() != 0:
        return
    libc = ctypes.CDLL(None, use_errno=True)
    for capability in _OVERRIDES:
        libc.prctl(_BOUNDING_DROP, capability, 0, 0, 0)
    head = (ctypes.c_uint32 * 2)(_CAPABILITIES, 0)
    sets = (ctypes.c_uint32 * 6)()
    if libc.capget(head, sets) == 0:
        for index in (0, 1, 2):  # effective, permitted, inheritable
            sets[index] &= ~sum(1 << capability for capability in _OVERRIDES)
        libc.capset(head, sets)
