"""One run from configuration to run folder: data, network, steps, validation, weights."""

from __future__ import annotations

import logging
import os
import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from itertools import islice
from pathlib import Path

import torch
from lightning.pytorch import Trainer

from se_med.config.dump import dump_config
from se_med.config.experiment import Config
from se_med.config.training import DEFAULT_MINUTES
from se_med.data.stream import PatchStream, StepSampler, make_loader
from se_med.evaluation.summary import Summary, summarise
from se_med.inference.model import save_model
from se_med.inference.precision import resolve_device, resolve_precision
from se_med.inference.predictor import Predictor
from se_med.io.atomic import write_json, write_text
from se_med.networks.build import build_network
from se_med.progress import Progress, silent
from se_med.training.budget import TRIAL_STEPS, WARM_UP_STEPS, seconds_per_step
from se_med.training.checkpoint import TrainingState, load_checkpoint
from se_med.training.course import Course, Scores
from se_med.training.interruption import InterruptedRunError, Interruption
from se_med.training.metrics_log import MetricsLog
from se_med.training.module import SegmentationModule
from se_med.training.provenance import machine, numerical_environment, peak_memory_mb, software
from se_med.training.run_data import RunData, gather
from se_med.training.run_folder import RunFolder
from se_med.training.validation import Validation

log = logging.getLogger(__name__)

MIN_EPOCH_STEPS = 50


@dataclass(frozen=True)
class RunResult:
    """What a finished run has come to.

    Attributes:
        folder: the run folder.
        summary: scores of the validation cases after the last step.
        steps: optimiser steps made.
        seconds: time of training, all parts of an interrupted run together.
    """

    folder: Path
    summary: Summary
    steps: int
    seconds: float


def fit(config: Config, folder: Path, *, resume: bool = False, progress: Progress = silent) -> RunResult:
    """Train one network and write its run folder.

    Args:
        config: the configuration; what it leaves open is planned from the data.
        folder: the run folder to make.
        resume: go on from the last checkpoint where there is one. The stored configuration is used, and `config` must not
            contradict it.
        progress: shows long work.

    Returns:
        The validation scores after the last step.

    Raises:
        UsageError: the run is finished or someone else's, the configuration contradicts the run that is resumed, or the data
            cannot be found.
        DataError: cases cannot be used; nothing was trained.
        InterruptedRunError: a signal asked to stop; a checkpoint was written.
        RunError: training diverged, or a checkpoint cannot be read.
    """
    run = RunFolder(folder)
    with run.claim(resume=resume), _log_to(run.log), _quiet_libraries(), Interruption() as interruption:
        torch.set_num_threads(config.training.threads or len(os.sched_getaffinity(0)))
        torch.set_flush_denormal(True)
        state = load_checkpoint(run.checkpoint) if run.checkpoint.exists() else TrainingState()
        data = gather(config, run, resumed=state.step > 0, progress=progress)
        return _Run(run, data, state, interruption, progress).finish()


class _Run:
    """The parts of one run, from its first (or resumed) step to its end."""

    def __init__(
        self, run: RunFolder, data: RunData, state: TrainingState, interruption: Interruption, progress: Progress
    ) -> None:
        self.run = run
        self.data = data
        self.state = state
        self.interruption = interruption
        self.progress = progress
        self.config = data.config
        self.device = resolve_device(self.config.training.device)
        self.precision = resolve_precision(self.config.training.precision, self.device)
        self.network = build_network(
            self.config.network, self.config.attention, len(data.plan.channels), data.plan.num_classes, self.config.seed
        ).to(self.device)
        self.stream = PatchStream(
            data.train, data.plan, self.config.augmentation, self.config.training.foreground, self.config.seed
        )
        self.validation = Validation(data.validation, self.config, data.plan)
        if self.config.training.steps is None:
            self.config = self._within_budget()
        self.steps = self.config.training.steps or 0
        write_text(run.config, dump_config(self.config))
        self._warn_of_another_environment()

    def finish(self) -> RunResult:
        """Train what is left, validate, and store the weights."""
        module = SegmentationModule(self.network, self.config, self.state)
        if self.state.step < self.steps:
            self._train(module)
        module.to(self.device)
        with self.progress("validation", len(self.data.validation)) as advance:
            scores = self.validation(module.exported, surfaces=True, stop=self._asked_to_stop, advance=advance)
        if scores is None or self.state.step < self.steps:
            raise InterruptedRunError(
                f"{self.run.path}: interrupted after step {self.state.step} of {self.steps}; --resume goes on from there",
                self.interruption.signum or 0,
            )
        summary = summarise(scores, tolerance=self.config.evaluation.tolerance)
        summary.write(self.run.cases, self.run.summary)
        digest = save_model(self.run.path, module.exported.state_dict(), self.config, self.data.plan)
        self._write_provenance(digest)
        return RunResult(self.run.path, summary, self.state.step, self.state.seconds)

    def _train(self, module: SegmentationModule) -> None:
        training = self.config.training
        metrics = MetricsLog(self.run.metrics, self.state.step)
        batches = StepSampler(
            self.steps * training.accumulate, self.data.plan.batch_size, first=self.state.step * training.accumulate
        )
        with self.progress("training", self.steps) as advance:
            course = Course(
                checkpoint=self.run.checkpoint,
                metrics=metrics,
                epoch_steps=self._epoch_steps(),
                validate=self._dice,
                validation_steps=self._validation_steps(),
                interruption=self.interruption,
                advance=advance,
                environment=numerical_environment(self.precision),
            )
            trainer = Trainer(
                accelerator=self.device.type if self.device.type == "cpu" else "gpu",
                devices=1,
                precision="bf16-mixed" if self.precision == "bf16" else "32-true",
                max_epochs=1,
                accumulate_grad_batches=training.accumulate,
                gradient_clip_val=training.gradient_clip,
                callbacks=[course],
                logger=False,
                enable_checkpointing=False,
                enable_progress_bar=False,
                enable_model_summary=False,
                use_distributed_sampler=False,
                default_root_dir=self.run.path,
            )
            trainer.fit(module, make_loader(self.stream, batches, training.workers))

    def _within_budget(self) -> Config:
        """Turn the budget in minutes into a number of steps."""
        training = self.config.training
        minutes = training.max_minutes or DEFAULT_MINUTES
        begin = time.monotonic()
        needed = (WARM_UP_STEPS + TRIAL_STEPS) * training.accumulate
        batches = make_loader(self.stream, StepSampler(needed, self.data.plan.batch_size), training.workers)
        step = seconds_per_step(self.network, self.config, islice(batches, needed), self.device, self.precision)
        predictor = Predictor(self.network, self.config, self.data.plan)
        case_begin = time.monotonic()
        self.validation.score(predictor, self.data.validation[0], surfaces=True)
        validation = (time.monotonic() - case_begin) * len(self.data.validation)
        left = minutes * 60 - (time.monotonic() - begin) - training.validations * validation
        steps = max(1, int(left / step))
        log.info(
            "budget: %g minutes are %d steps of %.3f s and %d validations of %.1f s",
            minutes,
            steps,
            step,
            training.validations,
            validation,
        )
        return self.config.model_copy(update={"training": training.model_copy(update={"steps": steps, "max_minutes": None})})

    def _epoch_steps(self) -> int:
        training = self.config.training
        if training.epoch_steps is not None:
            return training.epoch_steps
        patches = self.data.plan.batch_size * training.accumulate
        passes = -(-MIN_EPOCH_STEPS * patches // len(self.data.train))
        return -(-passes * len(self.data.train) // patches)

    def _validation_steps(self) -> frozenset[int]:
        """Steps after which to validate; the last one is left to the validation at the end of the run."""
        count = self.config.training.validations
        return frozenset(round(self.steps * part / count) for part in range(1, count)) - {0, self.steps}

    def _dice(self, module: SegmentationModule) -> Scores:
        scores = self.validation(module.exported, stop=self._asked_to_stop)
        if scores is None:
            return {}
        summary = summarise(scores, tolerance=self.config.evaluation.tolerance)
        dice = {"mean_dice": summary.mean_dice, **{f"dice_{name}": value for name, value in summary.dice.items()}}
        return {name: value for name, value in dice.items() if value is not None}

    def _asked_to_stop(self) -> bool:
        return self.interruption.requested

    def _warn_of_another_environment(self) -> None:
        now = numerical_environment(self.precision)
        for key, before in self.state.environment.items():
            if key in now and now[key] != before:
                log.warning(
                    "warning: %s is %s, the run was started with %s; it goes on, but its weights will not be bitwise those of an "
                    "uninterrupted run",
                    key,
                    now[key],
                    before,
                )

    def _write_provenance(self, model_digest: str) -> None:
        write_json(
            self.run.provenance,
            {
                "finished": datetime.now(UTC).isoformat(timespec="seconds"),
                "model": model_digest,
                "seed": self.config.seed,
                "steps": self.state.step,
                "seconds": round(self.state.seconds, 1),
                "peak_memory_mb": peak_memory_mb(),
                "stream_digest": self.state.stream_digest,
                "environment": numerical_environment(self.precision),
                "machine": machine(),
                "software": software(),
                "cases": {
                    part: {case.case.name: case.digest for case in cases}
                    for part, cases in (("train", self.data.train), ("validation", self.data.validation))
                },
            },
        )


@contextmanager
def _log_to(path: Path) -> Iterator[None]:
    """Copy everything that se-med says into the run's log."""
    logger = logging.getLogger("se_med")
    handler = logging.FileHandler(path, encoding="utf-8")
    handler.setFormatter(logging.Formatter("%(asctime)s %(message)s", "%Y-%m-%d %H:%M:%S"))
    logger.addHandler(handler)
    try:
        yield
    finally:
        logger.removeHandler(handler)
        handler.close()


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
