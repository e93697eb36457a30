"""One run from configuration to run folder: data, network, steps, validation, weights."""

from __future__ import annotations

import logging
import sys
import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path

import torch

from se_med.config.dump import dump_config
from se_med.config.experiment import Config
from se_med.data.root import require_root
from se_med.errors import RunError
from se_med.evaluation.summary import Summary, summarise
from se_med.inference.model import save_model
from se_med.inference.precision import resolve_device, resolve_precision
from se_med.io.atomic import write_json, write_text
from se_med.progress import Progress, silent
from se_med.training import processes
from se_med.training.budget import budget_minutes, steps_in_budget
from se_med.training.checkpoint import TrainingState, load_checkpoint
from se_med.training.curves import draw_curves
from se_med.training.interruption import InterruptedRunError, Interruption
from se_med.training.metrics_log import MetricsLog
from se_med.training.module import SegmentationModule
from se_med.training.planned import Prescribed
from se_med.training.provenance import machine, numerical_environment, peak_memory_mb, software
from se_med.training.run_data import RunData, gather
from se_med.training.run_folder import RunFolder
from se_med.training.steps import build_module, train_steps
from se_med.training.threads import choose_threads
from se_med.training.tracking import Tracking, open_tracking, require_trackers
from se_med.training.validation import Validation

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class RunResult:
    """What a finished run has come to.

    Attributes:
        folder: the run folder.
        summary: scores of the validation cases after the last step.
        steps: optimiser steps made; fewer than configured where the run has stopped early.
        seconds: time of training, all parts of an interrupted run together.
    """

    folder: Path
    summary: Summary
    steps: int
    seconds: float


def fit(
    config: Config,
    folder: Path,
    *,
    resume: bool = False,
    progress: Progress = silent,
    prescribed: Prescribed | None = None,
    begun: float | None = None,
) -> RunResult:
    """Train one network and write its run folder.

    Args:
        config: the configuration; what it leaves open is planned from the data.
        folder: the run folder to make.
        resume: go on from the last checkpoint where there is one. The stored configuration is used, and `config` must not
            contradict it.
        progress: shows long work.
        prescribed: plan and cases, where a study has decided them.
        begun: moment, by `time.monotonic`, from which a budget in minutes counts; the call by default.

    Returns:
        The validation scores after the last step.

    Raises:
        UsageError: the run is finished or someone else's, the configuration contradicts the run that is resumed, the data
            cannot be found, the budget is too small, or a tracker is not installed.
        DataError: cases cannot be used; nothing was trained.
        InterruptedRunError: a signal asked to stop; a checkpoint was written.
        RunError: training diverged, or a checkpoint cannot be read.
    """
    begun = time.monotonic() if begun is None else begun
    run = RunFolder(folder)
    require_root(config.data)
    require_trackers(config.training.loggers)
    if processes.own_number() > 0:
        with _own_threads(), _quiet_libraries(), Interruption() as interruption:
            _follow(config, run, interruption)
        raise SystemExit(0)
    with run.claim(resume=resume), _log_to(run.log), _own_threads(), _quiet_libraries(), Interruption() as interruption:
        state = load_checkpoint(run.checkpoint) if run.checkpoint.exists() else TrainingState()
        _set_threads(config, state)
        data = gather(config, run, resumed=state.step > 0, progress=progress, prescribed=prescribed)
        module = build_module(data, state)
        if data.config.training.steps is None:
            data = _plan_steps(data, module, state, begun + data.preparing)
            module = build_module(data, state)
        write_text(run.config, dump_config(data.config))
        _warn_of_another_environment(state, data.config)
        interruption.graceful = True
        with open_tracking(run, data.config, state.step) as tracking:
            if state.step < module.steps and not state.stopped:
                with progress("training", module.steps) as advance:
                    train_steps(run, data, module, interruption, advance, tracking)
            return _conclude(run, data, module, interruption, progress, tracking)


def _plan_steps(data: RunData, module: SegmentationModule, state: TrainingState, begun: float) -> RunData:
    """Turn a budget into steps, and note in the state when the last of them is due."""
    config = data.config
    planned, trial = steps_in_budget(data, module, time.monotonic() - begun)
    state.validation_seconds = trial.case * len(data.watched)
    state.deadline = budget_minutes(config) * 60 - (time.monotonic() - begun) - trial.case * len(data.validation)
    return replace(data, config=planned)


def _follow(config: Config, run: RunFolder, interruption: Interruption) -> None:
    """Train as one of the processes that the first one started; it has written everything that is needed."""
    state = load_checkpoint(run.checkpoint) if run.checkpoint.exists() else TrainingState()
    _set_threads(config, state)
    data = gather(config, run, resumed=True, progress=silent)
    interruption.graceful = True
    train_steps(run, data, build_module(data, state), interruption, lambda done, note: None, Tracking())


def _set_threads(config: Config, state: TrainingState) -> None:
    training = config.training
    torch.set_num_threads(choose_threads(training.threads, state.environment.get("threads"), training.processes))


def _conclude(
    run: RunFolder,
    data: RunData,
    module: SegmentationModule,
    interruption: Interruption,
    progress: Progress,
    tracking: Tracking,
) -> RunResult:
    """Validate the trained network, store it, and say what it was made of."""
    state, config = module.progress, data.config
    scores = None
    if state.step == module.steps or state.stopped:
        log.info("validation of %d cases, each on its own grid", len(data.validation))
        validation = Validation(data.validation, config, data.plan)
        module.to(resolve_device(config.training.device))
        with progress("validation", len(data.validation)) as advance:
            scores = validation(module.exported, surfaces=True, stop=lambda: interruption.requested, advance=advance)
    if scores is None:
        raise InterruptedRunError(
            f"{run.path}: interrupted after step {state.step} of {module.steps}; --resume goes on from there",
            interruption.signum or 0,
        )
    if module.schedule.former != (config.training.former_steps or ()):
        made = {"steps": module.steps, "former_steps": module.schedule.former}
        config = config.model_copy(update={"training": config.training.model_copy(update=made)})
        data = replace(data, config=config)
        write_text(run.config, dump_config(config))
    summary = summarise(scores, tolerance=config.evaluation.tolerance)
    summary.write(run.cases, run.summary)
    dice = {"mean_dice": summary.mean_dice, **{f"dice_{name}": value for name, value in summary.dice.items()}}
    tracking.log({"step": state.step, **{name: value for name, value in dice.items() if value is not None}})
    draw_curves(MetricsLog(run.metrics, state.step).rows, summary.dice, run.curves, config.name)
    digest = save_model(run.path, module.exported.state_dict(), config, data.plan)
    write_json(run.provenance, _provenance(data, state, digest))
    return RunResult(run.path, summary, state.step, state.seconds)


def _warn_of_another_environment(state: TrainingState, config: Config) -> None:
    precision = resolve_precision(config.training.precision, resolve_device(config.training.device))
    now = numerical_environment(precision)
    for key, before in state.environment.items():
        if key in now and now[key] != before:
            log.warning(
                "warning: %s is %s, but the run was started with %s; it goes on, and its weights will differ in their last "
                "digits from those of an uninterrupted run",
                key,
                now[key],
                before,
            )


def _provenance(data: RunData, state: TrainingState, model_digest: str) -> dict[str, object]:
    return {
        "finished": datetime.now(UTC).isoformat(timespec="seconds"),
        "model": model_digest,
        "seed": data.config.seed,
        "steps": state.step,
        "stopped_early": state.stopped or None,
        "seconds": round(state.seconds, 1),
        "peak_memory_mb": peak_memory_mb(),
        "stream_digest": state.stream_digest,
        "environment": state.environment,
        "machine": machine(),
        "software": software(),
        "cases": {
            part: {case.case.name: list(case.manifest.sources) for case in cases}
            for part, cases in (("train", data.train), ("validation", data.validation), ("selection", data.selection))
            if cases
        },
    }


class _RunLog(logging.FileHandler):
    """The log of a run, which goes on without it where the disk is full: what has to be whole says so by itself."""

    def __init__(self, path: Path) -> None:
        try:
            super().__init__(path, encoding="utf-8")
        except OSError as error:
            raise RunError(f"{path}: cannot be written: {error.strerror}; check the folder and its rights") from None

    def handleError(self, record: logging.LogRecord) -> None:  # noqa: N802  (the name in logging)
        """Say nothing of what the system refuses."""
        if not isinstance(sys.exception(), OSError):
            super().handleError(record)

    def close(self) -> None:
        """Close the file; what could not be written is lost."""
        with suppress(OSError):
            super().close()


@contextmanager
def _log_to(path: Path) -> Iterator[None]:
    """Copy everything that se-med says into the run's log."""
    logger = logging.getLogger("se_med")
    handler = _RunLog(path)
    handler.setFormatter(logging.Formatter("%(asctime)s %(message)s", "%Y-%m-%d %H:%M:%S"))
    logger.addHandler(handler)
    try:
        yield
    finally:
        logger.removeHandler(handler)
        handler.close()


@contextmanager
def _own_threads() -> Iterator[None]:
    """Give the number of threads that the run chooses back to the process when it ends."""
    before = torch.get_num_threads()
    try:
        yield
    finally:
        torch.set_num_threads(before)


@contextmanager
def _quiet_libraries() -> Iterator[None]:
    """Keep Lightning's adverts and its remarks on choices made on purpose from the user."""
    names = ("lightning.pytorch", "lightning.fabric", "lightning.pytorch.utilities.rank_zero")
    levels = {name: logging.getLogger(name).level for name in names}
    for name in names:
        logging.getLogger(name).setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", module="lightning")
            warnings.filterwarnings("ignore", module="torch.utils.data")
            yield
    finally:
        for name, level in levels.items():
            logging.getLogger(name).setLevel(level)
