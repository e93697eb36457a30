"""Tasks in a few processes of this machine, with a pipe to each.

Libraries were looked at first: `concurrent.futures` and loky give up every task when one process is killed; pebble loses only
that task, but its processes are daemons, which may not start the loader processes of a training, share pipes and locks that a
killed process can leave taken, and finish their task when the parent is gone. With one pipe per process there is nothing to
share: its end tells that the process has died.
"""

from __future__ import annotations

import contextlib
import logging
import multiprocessing
import os
import pickle
import signal
import threading
import time
import weakref
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from multiprocessing.connection import Connection, wait
from typing import Any, Self, TypeVar

from se_med.executor.outcome import Outcome, Reply, attempt, limit_threads, lost

log = logging.getLogger(__name__)

T = TypeVar("T")
Task = TypeVar("Task")

GRACE = 30.0
"""Seconds that a task has to end after SIGTERM, for a training writes a checkpoint first; then its process is killed."""
_LOOK = 1.0  # seconds between looks at processes whose pipe a child of theirs may hold open
_SPAWN = multiprocessing.get_context("spawn")  # a fork of a process with torch's threads can hang


class LocalExecutor:
    """Runs tasks in spawned processes of this machine; see `se_med.executor.Executor` and `make_executor`."""

    def __init__(self, workers: int, threads: int, attempts: int = 2) -> None:
        self._size = workers
        self._threads = threads
        self._attempts = attempts
        self._workers: list[_Worker] = []
        # Python waits for its processes when it ends: those of an executor that nobody closed would keep it for ever.
        self._finalizer = weakref.finalize(self, _stop, self._workers)

    def run(self, function: Callable[[Task], T], tasks: Mapping[str, Task]) -> Iterator[Outcome[T]]:
        """See `Executor.run`. A task whose worker was killed is tried again after all others."""
        waiting = deque((key, 1) for key in tasks)
        running: dict[_Worker, tuple[str, int]] = {}
        try:
            while waiting or running:
                while waiting and len(running) < self._size:
                    key, attempt = waiting.popleft()
                    worker = self._idle_worker(running)
                    running[worker] = key, attempt
                    worker.send(function, tasks[key])
                for worker in _ended(running):
                    key, attempt = running.pop(worker)
                    reply = worker.receive()
                    if reply is not None:
                        yield reply.outcome(key, attempt)
                        continue
                    how = worker.end()
                    self._workers.remove(worker)
                    log.debug("%s: worker %s in attempt %d", key, how, attempt)
                    if attempt < self._attempts:
                        waiting.append((key, attempt + 1))
                    else:
                        yield lost(key, how, attempt)
        finally:
            _stop(list(running))
            for worker in running:
                self._workers.remove(worker)

    def close(self) -> None:
        """End all worker processes."""
        _stop(self._workers)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *details: object) -> None:
        self.close()

    def _idle_worker(self, running: Mapping[_Worker, object]) -> _Worker:
        for worker in [worker for worker in self._workers if worker not in running]:
            if worker.is_ready():
                return worker
            worker.end()
            self._workers.remove(worker)
        self._workers.append(_Worker(self._threads))
        return self._workers[-1]


class _Worker:
    """A process that works on one task at a time, and the parent's end of the pipe to it."""

    def __init__(self, threads: int) -> None:
        self._connection, theirs = _SPAWN.Pipe()
        self.process = _SPAWN.Process(target=_work, args=(theirs, threads), name="se-med worker")
        self.process.start()
        theirs.close()  # the only one left is the worker's: when it dies, the pipe ends

    def send(self, function: Callable[[Any], Any], task: Any) -> None:
        message = pickle.dumps((function, task))
        with contextlib.suppress(OSError):  # it has died; who waits for its answer will see
            self._connection.send_bytes(message)

    def is_ready(self) -> bool:
        """Return whether the process lives; the pipe of one that is dying ends before the system says so of the process."""
        return self.process.is_alive() and not self._connection.poll()

    def receive(self) -> Reply | None:
        """Return the answer; None when the process died before it had given one."""
        try:
            if self._connection.poll():
                reply: Reply = pickle.loads(self._connection.recv_bytes())  # noqa: S301  (from our own process)
                return reply
        except (EOFError, OSError):
            pass
        return None

    def end(self) -> str:
        """Clear up after the process has died, and say how it did."""
        self._connection.close()
        self.process.join(_LOOK)
        self.process.kill()
        self.process.join()
        code = self.process.exitcode or 0
        if code >= 0:
            return f"with exit code {code}"
        name = signal.Signals(-code).name
        return f"by {name}{', which the system sends when memory runs out' if name == 'SIGKILL' else ''}"

    def waitable(self) -> Connection:
        return self._connection

    def terminate(self) -> None:
        self._connection.close()
        self.process.terminate()

    def kill_after(self, seconds: float) -> None:
        try:
            self.process.join(max(0.0, seconds))
        finally:
            self.process.kill()
            self.process.join()


def _ended(running: Mapping[_Worker, object]) -> list[_Worker]:
    """Wait until workers have answered or died, and return them."""
    ready = wait([worker.waitable() for worker in running], timeout=_LOOK)
    return [worker for worker in running if worker.waitable() in ready or worker.process.exitcode is not None]


def _stop(workers: list[_Worker]) -> None:
    """End workers, all at once, and empty the list."""
    ending, deadline = list(workers), time.monotonic() + GRACE
    workers.clear()
    for worker in ending:
        worker.terminate()
    try:
        for worker in ending:
            worker.kill_after(deadline - time.monotonic())
    finally:  # whoever interrupts the waiting
        for worker in ending:
            worker.kill_after(0.0)


def _work(connection: Connection, threads: int) -> None:
    """Work on tasks until the pipe ends. Runs in the worker process."""
    # Ctrl-C is for the parent, which ends its workers by a single SIGTERM; a terminal would send it to them too.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    if hasattr(os, "setpgrp"):
        os.setpgrp()
    threading.Thread(target=_leave_with_parent, daemon=True).start()
    limit_threads(threads)
    while True:
        try:
            message = connection.recv_bytes()
        except (EOFError, OSError):
            return
        reply = attempt(lambda message=message: _answer(message, threads))  # type: ignore[misc]
        with contextlib.suppress(OSError):  # nobody waits for it any more; the next read says so
            connection.send_bytes(pickle.dumps(reply) if reply.error else reply.value)


def _answer(message: bytes, threads: int) -> bytes:
    """Call the function, and pickle here too: an answer that cannot be pickled is an error of the task."""
    start = time.perf_counter()
    function, task = pickle.loads(message)  # noqa: S301  (from our own parent)
    limit_threads(threads)  # unpickling may have imported torch
    value = function(task)
    return pickle.dumps(Reply(value, "", "", time.perf_counter() - start))


def _leave_with_parent() -> None:
    """Wait until the parent has ended, however it did, and end this process as the parent would have."""
    parent = multiprocessing.parent_process()
    if parent is None:
        return
    parent.join()
    os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(GRACE)
    os._exit(1)
