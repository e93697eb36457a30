"""Where the runs of a study are made, and how many at a time."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import replace
from typing import Any

from se_med.executor import Executor, make_executor
from se_med.study.arms import Study

Maker = Callable[[int, int], Executor]
"""Makes an executor of a number of workers with a number of threads each."""


def workers_of(study: Study) -> int:
    """Return how many runs are made at a time: as the study says, else what the cores allow."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return study.config.workers or max(1, cores // study.config.threads)


def open_executor(study: Study, workers: int, maker: Maker | None) -> Executor:
    """Return the executor of a study; `maker` makes another one."""
    if maker is not None:
        return maker(workers, study.config.threads)
    return make_executor(study.config.engine, workers, study.config.threads, study.config.address)


def with_machine(study: Study, **settings: Any) -> Study:
    """Return the study with other settings of the machine, those that are not None: engine, workers, threads, address."""
    given = {key: value for key, value in settings.items() if value is not None}
    return replace(study, config=type(study.config).model_validate(study.config.model_dump() | given)) if given else study
