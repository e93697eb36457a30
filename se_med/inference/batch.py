"""Many cases through one model: several at a time in this process, or one per worker of an executor."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass, replace
from functools import lru_cache, partial
from itertools import islice
from pathlib import Path

import torch

from se_med.errors import RunError, SeMedError
from se_med.executor import Executor
from se_med.inference.cases import InputCase
from se_med.inference.outputs import LABELS_ALONE, Outputs
from se_med.inference.predictor import Predictor
from se_med.inference.results import CaseResult, Status, find_result, predict_case
from se_med.io.atomic import sweep_temporaries

LANES = 4
"""Most cases that pass through this process at the same time."""


@dataclass(frozen=True)
class Job:
    """What a worker process needs to know to load the model that the command was given.

    Attributes:
        runs: run folders, absolute.
        device: as for `Predictor.load`.
        test_time_flips: as for `Predictor.load`.
        single_pass: as for `Predictor.load`.
        outputs: as for `predict_case`.
        overwrite: as for `predict_case`.
    """

    runs: tuple[Path, ...]
    device: str = "auto"
    test_time_flips: bool | None = None
    single_pass: bool = False
    outputs: Outputs = LABELS_ALONE
    overwrite: bool = False

    def load(self) -> Predictor:
        """Load the model.

        Raises:
            UsageError, ConfigError, RunError: as `Predictor.load`.
        """
        return Predictor.load(self.runs, self.device, self.test_time_flips, self.single_pass)


def predict_cases(
    predictor: Predictor,
    cases: Iterable[InputCase],
    outputs: Outputs = LABELS_ALONE,
    overwrite: bool = False,
    lanes: int | None = None,
) -> Iterator[CaseResult]:
    """Segment cases in this process and write each result; see `predict_case`. A case that fails is reported, the rest go on.

    Several cases are on their way at a time, each in a thread with its share of torch's threads: while one is read or written,
    the network works on another, and no operation on a small volume waits for threads. Together they take no more memory than
    the predictor allows: a case for which there is none left waits.

    Args:
        predictor: the model.
        cases: what `find_cases` found for the model's number of channels.
        outputs: what to write beside the labels.
        overwrite: segment again what has a result already.
        lanes: how many at a time; by default `LANES`, but no more than there are threads.

    Yields:
        What became of each case, as soon as it is known.

    Raises:
        RunError: the folder of the results cannot be made.
    """
    cases = list(cases)
    make_folders(cases)
    lanes = min(lanes or min(LANES, torch.get_num_threads()), max(1, len(cases)))
    run = partial(predict_case, predictor, outputs=outputs, overwrite=overwrite)
    yield from map(run, cases) if lanes == 1 else _in_lanes(run, cases, lanes)


def predict_with(executor: Executor, job: Job, predictor: Predictor, cases: Sequence[InputCase]) -> Iterator[CaseResult]:
    """Segment cases in the workers of an executor and write each result; see `predict_case`.

    A case whose worker is killed is tried again, and set aside when that happens in each attempt; the rest go on. Cases that
    have their result already are not handed out.

    Args:
        executor: its workers load the model with their first case.
        job: how they load it.
        predictor: the model in this process, to know which results are there.
        cases: what `find_cases` found for the model's number of channels.

    Yields:
        What became of each case, as soon as it is known.

    Raises:
        RunError: the folder of the results cannot be made.
    """
    make_folders(cases)
    waiting: dict[str, InputCase] = {}
    for case in cases:
        found = None if job.overwrite else _found(predictor, case, job.outputs)
        if found is None:  # workers may have another working folder
            files = tuple(path.absolute() for path in case.files)
            waiting[case.name] = replace(case, files=files, output=case.output.absolute())
        else:
            yield found
    for outcome in executor.run(partial(_predict_one, job), waiting):
        case = waiting[outcome.key]
        if outcome.value is not None:
            yield outcome.value
        else:
            status: Status = "set aside" if outcome.killed else "failed"
            yield CaseResult(case.name, status, case.output, outcome.error, outcome.seconds)


def make_folders(cases: Iterable[InputCase]) -> None:
    """Make the folders of the results, and remove what killed processes left there.

    Raises:
        RunError: a folder cannot be made.
    """
    for folder in {case.output.parent for case in cases}:
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise RunError(f"{folder}: cannot be made: {error.strerror}; name another folder for the results") from None
        sweep_temporaries(folder)


def _found(predictor: Predictor, case: InputCase, outputs: Outputs) -> CaseResult | None:
    try:
        return find_result(predictor, case, outputs)
    except (SeMedError, OSError):  # the worker will say so
        return None


def _in_lanes(run: Callable[[InputCase], CaseResult], cases: Sequence[InputCase], lanes: int) -> Iterator[CaseResult]:
    threads = torch.get_num_threads()
    share = max(1, threads // lanes)
    waiting = iter(cases)
    # Torch's number of threads belongs to the thread that sets it.
    running: set[Future[CaseResult]] = set()
    pool = ThreadPoolExecutor(lanes, "lane", torch.set_num_threads, (share,))
    try:
        running = {pool.submit(run, case) for case in islice(waiting, lanes)}
        while running:
            ended, running = wait(running, return_when=FIRST_COMPLETED)
            running |= {pool.submit(run, case) for case in islice(waiting, len(ended))}
            for future in ended:
                yield future.result()
    finally:  # who leaves early does not wait for the cases on their way; they end by themselves
        pool.shutdown(wait=not running, cancel_futures=True)
        torch.set_num_threads(threads)


@lru_cache(maxsize=1)
def _load(job: Job) -> Predictor:
    return job.load()


def _predict_one(job: Job, case: InputCase) -> CaseResult:
    """Runs in a worker, which keeps the model that it has loaded."""
    return predict_case(_load(job), case, job.outputs, job.overwrite)
