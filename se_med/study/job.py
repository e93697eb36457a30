"""Work in a process of its own, wherever the executor's worker is: started, watched, stopped when asked to, never orphaned.

A run gets a fresh process, so that its memory is its own, its threads are set before torch is loaded, and a signal reaches its
main thread, which the workers of Dask do not have for tasks. The process reads what to do from its standard input, which stays
open: when it ends, the worker has died, and the process writes a checkpoint and leaves. Nothing heavy is imported here.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import IO, Any, Literal

POLL_SECONDS = 0.2


@dataclass(frozen=True)
class Job:
    """What a process shall do; plain data, so that it can be sent anywhere.

    Attributes:
        kind: ``train`` makes a run, or goes on with it; ``trial`` times some steps and the scoring of a case.
        title: what messages call it.
        folder: the run folder; of a trial, any folder for its files.
        config: effective configuration, as YAML.
        plan: the plan, as JSON.
        fold: names of the cases: ``{"train": [...], "validation": [...], "selection": [...]}``.
        threads: CPU threads.
        stop: a file whose existence asks every job to stop.
    """

    kind: Literal["train", "trial"]
    title: str
    folder: str
    config: str
    plan: str
    fold: dict[str, list[str]]
    threads: int
    stop: str


@dataclass(frozen=True)
class End:
    """How a job has ended.

    Attributes:
        status: ``finished``, ``failed``, or ``stopped`` with a checkpoint (or before there was anything to keep).
        error: one line; why it failed.
        result: what a trial has measured.
    """

    status: Literal["finished", "failed", "stopped"]
    error: str = ""
    result: dict[str, Any] = field(default_factory=dict)


def work_apart(job: Job) -> End:
    """Do a job in a process of its own and wait for it."""
    stop = Path(job.stop)
    if stop.exists():
        return End("stopped")
    names = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")
    environment = {**os.environ, **dict.fromkeys(names, str(job.threads))}
    with tempfile.TemporaryFile() as answer, tempfile.TemporaryFile() as said:
        process = subprocess.Popen(
            [sys.executable, "-m", "se_med.study.child"],
            stdin=subprocess.PIPE,
            stdout=answer,
            stderr=said,
            env=environment,
            start_new_session=True,  # Ctrl-C is for the main process, which asks all jobs to stop
        )
        stopped = _watch(process, json.dumps(asdict(job)), stop)
        return _end(process.returncode, _text(answer), _text(said), stopped=stopped)


def _watch(process: subprocess.Popen[bytes], message: str, stop: Path) -> bool:
    """Send the job, wait for its end, and pass the wish to stop on; return whether there was one."""
    stopped = False
    try:
        if process.stdin is None:  # it was asked for
            raise ValueError("no pipe")
        try:
            process.stdin.write(message.encode() + b"\n")
            process.stdin.flush()
        except BrokenPipeError:
            pass  # it has died already, and its exit code says how
        while process.poll() is None:
            if not stopped and stop.exists():
                stopped = True
                process.send_signal(signal.SIGTERM)
            time.sleep(POLL_SECONDS)
    finally:
        if process.poll() is None:
            process.terminate()
            process.wait()
        if process.stdin is not None:
            process.stdin.close()
    return stopped


def _end(code: int, answer: str, said: str, *, stopped: bool) -> End:
    last = answer.splitlines()[-1:]
    if last:
        return End(**json.loads(last[0]))
    if stopped:
        return End("stopped")
    if code < 0:
        name = signal.Signals(-code).name
        memory = ", which the system sends when memory runs out" if name == "SIGKILL" else ""
        return End("failed", f"its process was ended by {name}{memory}")
    lines = [line.strip() for line in said.splitlines() if line.strip()] or ["nothing was said"]
    return End("failed", f"its process left with exit code {code}: {lines[-1]}")


def _text(file: IO[bytes]) -> str:
    file.seek(0)
    return file.read().decode("utf-8", errors="replace")
