"""The process of one job: ``python -m se_med.study.child``. It reads a `Job` from standard input and prints its `End`."""

from __future__ import annotations

import json
import logging
import os
import signal
import sys
import threading
from dataclasses import asdict

from se_med.errors import SeMedError
from se_med.study.job import End, Job


def main() -> int:
    """Read the job, do it, and print how it ended; the exit code is 0 whenever that could be said."""
    answer = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)  # what libraries print must not mix with the answer
    job = Job(**json.loads(sys.stdin.buffer.readline()))
    threading.Thread(target=_leave_with_worker, daemon=True).start()
    logging.getLogger("se_med").setLevel(logging.DEBUG)  # all of it goes to the run's log
    logging.getLogger("se_med").propagate = False
    logging.getLogger("se_med").addHandler(logging.NullHandler())
    end = do(job)
    answer.write(json.dumps(asdict(end)) + "\n")
    answer.close()
    return 0


def do(job: Job) -> End:
    """Do a job in this process."""
    from se_med.training.allocator import keep_memory_between_steps

    keep_memory_between_steps()
    from se_med.study.work import make_trial, train_run
    from se_med.training.interruption import InterruptedRunError

    try:
        return End("finished", result=train_run(job) if job.kind == "train" else make_trial(job))
    except InterruptedRunError as error:
        return End("stopped", error.message)
    except SeMedError as error:
        return End("failed", " ".join(error.message.splitlines()))


def _leave_with_worker() -> None:
    """Wait for the end of standard input, which means that the worker has died, and then leave as on SIGTERM."""
    while sys.stdin.buffer.read(4096):
        pass
    os.kill(os.getpid(), signal.SIGTERM)


if __name__ == "__main__":
    sys.exit(main())
