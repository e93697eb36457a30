"""Tasks through Dask: on workers that it starts on this machine, or on those of a scheduler, which may be many machines.

Workers on other machines need se-med of the same version, and the files under the same paths. Tasks and their results travel
pickled, as everything does in Dask: a scheduler belongs into a network whose users may run code on its machines.

Tasks run in a thread of the worker, so what needs the main thread, such as handlers of signals, is not for this engine.
"""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from typing import Any, Self, TypeVar

from se_med.errors import RunError, UsageError
from se_med.executor.outcome import Outcome, Reply, attempt, limit_threads, lost

T = TypeVar("T")
Task = TypeVar("Task")

log = logging.getLogger(__name__)

_ANSWER_SECONDS = 30
_LOOK = 5.0  # seconds between looks at how many workers there are now


class DaskExecutor:
    """Runs tasks on Dask workers; see `se_med.executor.Executor` and `make_executor`.

    No more tasks are handed out than there are workers, so a worker that dies takes one task along. Without an address, that
    task is tried again here; at an address the scheduler does so, as often as its `distributed.scheduler.allowed-failures`
    says (3 times, unless its owner has set it).
    """

    def __init__(self, workers: int, threads: int, address: str | None = None, attempts: int = 2) -> None:
        try:
            import dask
            import distributed
        except ImportError as error:
            raise UsageError(f"engine dask: {error.name} is not installed; pip install 'se-med[dask]'") from None
        self._dask: Any = distributed
        self._threads = threads
        self._attempts = 1 if address else attempts
        self._address = address
        self._cluster: Any = None
        if address is None:
            # Not daemons, since a training starts processes that load its data. They end with their parent all the same.
            settings = {"distributed.scheduler.allowed-failures": 0, "distributed.worker.daemon": False}
            with dask.config.set(settings):
                self._cluster = self._dask.LocalCluster(
                    n_workers=workers,
                    threads_per_worker=1,
                    memory_limit=0,  # the system says when memory has run out, not a share of it
                    dashboard_address=None,
                    silence_logs=logging.CRITICAL,
                )
        try:
            self._client: Any = self._dask.Client(self._cluster or address, timeout=_ANSWER_SECONDS)
        except (OSError, ValueError) as error:
            raise UsageError(f"address {address}: no Dask scheduler answers ({error or type(error).__name__})") from None

    def run(self, function: Callable[[Task], T], tasks: Mapping[str, Task]) -> Iterator[Outcome[T]]:
        """See `Executor.run`."""
        waiting = deque((key, 1) for key in tasks)
        running: dict[Any, tuple[str, int]] = {}
        try:
            while waiting or running:
                while waiting and len(running) < self._places():
                    key, number = waiting.popleft()
                    call = partial(_call, function, tasks[key], self._threads)
                    running[self._client.submit(call, pure=False)] = key, number
                for future in self._ended(list(running)):
                    key, number = running.pop(future)
                    outcome = self._outcome(future, key, number)
                    if outcome.killed and number < self._attempts:
                        waiting.append((key, number + 1))
                    else:
                        yield outcome
        finally:
            self._client.cancel(list(running))

    def close(self) -> None:
        """Leave the scheduler; end the workers that were started here."""
        self._client.close()
        if self._cluster is not None:
            self._cluster.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *details: object) -> None:
        self.close()

    def _places(self) -> int:
        """Return how many tasks may run at once: one per worker that is there now."""
        return max(1, len(self._client.nthreads()))

    def _ended(self, futures: list[Any]) -> list[Any]:
        try:
            return list(self._dask.wait(futures, timeout=_LOOK, return_when="FIRST_COMPLETED").done)
        except TimeoutError:
            if not self._client.nthreads():
                log.warning("the Dask scheduler has no workers; waiting for one")
            return []

    def _outcome(self, future: Any, key: str, number: int) -> Outcome[Any]:
        if future.status == "finished":
            reply: Reply = future.result()
            return reply.outcome(key, number)
        if future.status != "error":
            where = f"at {self._address}" if self._address else "of this machine"
            raise RunError(f"the Dask scheduler {where} has gone; start it again and repeat the command")
        error = future.exception()
        if isinstance(error, self._dask.KilledWorker):
            return lost(key, f"at {error.last_worker.address}", number + error.allowed_failures)
        return Outcome(key, None, " ".join(f"{type(error).__name__}: {error}".splitlines()), number)


def _call(function: Callable[[Any], Any], task: Any, threads: int) -> Reply:
    limit_threads(threads)
    return attempt(partial(function, task))
