"""Tasks in processes of their own, on this machine or on many, of which each may die without harm to the others."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Literal, Protocol, Self, TypeVar

from se_med.errors import UsageError
from se_med.executor.local import LocalExecutor
from se_med.executor.outcome import Outcome, limit_threads

__all__ = ["Executor", "Outcome", "limit_threads", "make_executor"]

T = TypeVar("T")
Task = TypeVar("Task")


class Executor(Protocol):
    """Runs tasks in worker processes. A context manager; leaving it ends the workers."""

    def run(self, function: Callable[[Task], T], tasks: Mapping[str, Task]) -> Iterator[Outcome[T]]:
        """Call `function` once per task, and yield what became of each as soon as it is known, in any order.

        Function and tasks are pickled: the function is one of a module, or a `functools.partial` of one. What an attempt
        raises becomes its outcome's error; only a task whose worker was killed is tried again. Who leaves the iterator
        early ends the tasks that run.
        """
        ...

    def close(self) -> None:
        """End the workers; tasks that still run get SIGTERM, and SIGKILL when they have not ended 30 seconds later."""
        ...

    def __enter__(self) -> Self: ...
    def __exit__(self, *details: object) -> None: ...


def make_executor(
    engine: Literal["local", "dask"], workers: int, threads: int, address: str | None = None, attempts: int = 2
) -> Executor:
    """Return an executor. Its workers start with the first tasks.

    Args:
        engine: `local` for processes of this machine; `dask` for Dask (extra `dask`).
        workers: number of worker processes; each works on one task at a time. Without meaning when there is an address.
        threads: threads that each worker computes with.
        address: of a Dask scheduler, such as `tcp://host:8786`; without one, Dask starts workers on this machine.
        attempts: how often a task is started at most, when its worker is killed each time.

    Raises:
        UsageError: an address without Dask, Dask is not installed, or nobody answers at the address.
    """
    if address is not None and engine != "dask":
        raise UsageError(f"address {address}: only the engine dask has one; add --engine dask")
    if workers < 1 or threads < 1 or attempts < 1:
        raise UsageError(f"workers {workers}, threads {threads}, attempts {attempts}: each must be at least 1")
    if engine == "local":
        return LocalExecutor(workers, threads, attempts)
    from se_med.executor.dask import DaskExecutor

    return DaskExecutor(workers, threads, address, attempts)
