"""A study from beginning to end: plan, trial, runs, tables. What is there already is not made again."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path

from se_med.config.dump import dump_config
from se_med.errors import UsageError
from se_med.executor import Executor
from se_med.io.atomic import write_text
from se_med.progress import Progress, silent
from se_med.study.arms import Study
from se_med.study.board import Board
from se_med.study.engine import Maker, open_executor, workers_of
from se_med.study.job import End, work_apart
from se_med.study.ledger import collect, is_complete
from se_med.study.matching import foresee
from se_med.study.places import Places, Stop, claim, link_runs
from se_med.study.planning import PlannedArm, plan_study
from se_med.study.runs import Run, distinct, make_runs
from se_med.study.steps import Work, make_job, steps_of_arms
from se_med.study.tables import PLAN, STUDY, Tables, write_tables
from se_med.study.trials import write_trials

log = logging.getLogger(__name__)

ATTEMPTS = 2
"""Times that a run is started before it is excluded."""

Show = Callable[[Board], AbstractContextManager[None]]
"""Shows the board while the block runs."""


@dataclass(frozen=True)
class Result:
    """What a study has come to.

    Attributes:
        folder: the study folder.
        tables: everything measured.
        made: number of runs made now.
        failures: why runs failed, by title.
    """

    folder: Path
    tables: Tables
    made: int
    failures: dict[str, str] = field(default_factory=dict)


@dataclass
class Progressed:
    """What became of the runs that were made now.

    Attributes:
        made: number of runs made.
        failures: why runs failed, by key.
        attempts: how often runs were started, by key.
    """

    made: int = 0
    failures: dict[str, str] = field(default_factory=dict)
    attempts: dict[str, int] = field(default_factory=dict)


def compare(
    study: Study,
    studies: Path | None = None,
    *,
    progress: Progress = silent,
    show: Show = lambda board: nullcontext(),
    maker: Maker | None = None,
    work: Work = work_apart,
) -> Result:
    """Make all runs of a study that are not there yet, and write its tables.

    Args:
        study: the study.
        studies: folder of studies; by default that of the study, or ``studies``.
        progress: shows long work.
        show: shows the board while runs are made.
        maker: makes the executor; by default as the study says.
        work: does a job; by default in a process of its own.

    Raises:
        UsageError: a mistake in study, base or arms, matched arms are required and one is not, or another process works on the
            study. No run was started.
        DataError: the data set has errors.
        InterruptedRunError: a signal asked to stop; the same command goes on.
        RunError: no trial came to its end, or a run folder is damaged.
    """
    places, workers = Places.of(study, studies), workers_of(study)
    planned = plan_study(study, progress)
    _refuse_unmatched(study, foresee(planned.arms, study.config.folds[0], study.config.seeds[0]))
    with claim(places), Stop(places) as stop, open_executor(study, workers, maker) as executor:
        write_text(places.folder / STUDY, dump_config(study.config))
        write_text(places.folder / PLAN, planned.plan.model_dump_json(indent=2) + "\n")
        arms, trials, _ = steps_of_arms(planned, places, executor, work, workers, everything=False)
        stop.refuse()
        write_trials(places.folder, trials)
        reasons = foresee(arms, study.config.folds[0], study.config.seeds[0])
        _tell_arms(arms, reasons)
        _refuse_unmatched(study, reasons)
        runs = make_runs(arms, study.config.seeds, study.config.threads)
        done = _make(runs, places, executor, work, show)
        link_runs(runs, places)
        tables = collect(study, arms, runs, places.folder, places.runs, done.failures, done.attempts)
        write_tables(places.folder, tables)
        stop.refuse()
    return Result(
        places.folder, tables, done.made, {run.title: done.failures[run.key] for run in runs if run.key in done.failures}
    )


def _make(runs: Sequence[Run], places: Places, executor: Executor, work: Work, show: Show) -> Progressed:
    """Make the runs that are missing, each failing one twice."""
    board, done = Board.of(runs, places.runs), Progressed()
    waiting = distinct([run for run in runs if not is_complete(places.runs / run.key)])
    for key in {run.key for run in runs} - {run.key for run in waiting}:
        board.tell(key, "finished")
    log.info("%d runs, of which %d are to be made", len(runs), len(waiting))
    with show(board):
        for attempt in range(1, ATTEMPTS + 1):
            by_key = {run.key: run for run in waiting}
            jobs = {run.key: make_job("train", run, places.runs / run.key, places.stop) for run in waiting}
            for outcome in executor.run(work, jobs) if jobs and not places.stop.exists() else ():
                end = outcome.value or End("failed", outcome.error)
                done.attempts[outcome.key] = attempt
                done.failures.pop(outcome.key, None)
                again = end.status == "failed" and attempt < ATTEMPTS
                if end.status == "finished":
                    done.made += 1
                elif end.status == "failed":
                    done.failures[outcome.key] = end.error
                board.tell(outcome.key, "waiting" if again else end.status, end.error)
                _tell(by_key[outcome.key], end, board, again=again)
            waiting = [run for run in waiting if run.key in done.failures]
    return done


def _tell(run: Run, end: End, board: Board, *, again: bool) -> None:
    entry = next(entry for entry in board.entries if entry.run.key == run.key)
    done = f"{board.count('finished')} of {len(board.entries)}"
    if end.status == "finished":
        log.info("%s: finished, Dice %s (%s)", run.title, "-" if entry.dice is None else f"{entry.dice:.4f}", done)
    elif end.status == "failed":
        log.warning("%s: failed: %s; %s", run.title, end.error, "it is tried once more" if again else "it is excluded")
    else:
        log.info("%s: stopped with a checkpoint", run.title)


def _tell_arms(arms: Sequence[PlannedArm], reasons: Mapping[str, str]) -> None:
    """Say what is special about an arm."""
    for arm in arms:
        if arm.note:
            log.info("arm %s: %s", arm.name, arm.note)
        if arm.own_plan:
            log.info("arm %s: its settings change the plan: %s", arm.name, ", ".join(arm.own_plan))
        if reasons[arm.name]:
            log.info("arm %s: unmatched: %s", arm.name, reasons[arm.name])


def _refuse_unmatched(study: Study, reasons: Mapping[str, str]) -> None:
    wrong = [f"arm {name}: unmatched: {reason}" for name, reason in reasons.items() if reason]
    if study.config.require_matched and wrong:
        raise UsageError("\n".join([*wrong, f"{study.path}: require_matched refuses these arms; change them, or remove the key"]))
