"""What happens between steps: log lines, validations, checkpoints, and stopping when asked to."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import Callback

from se_med.progress import Advance
from se_med.training import processes
from se_med.training.checkpoint import save_checkpoint
from se_med.training.early_stopping import SELECTION, stop_reason
from se_med.training.interruption import Interruption
from se_med.training.metrics_log import MetricsLog, Row
from se_med.training.module import SegmentationModule
from se_med.training.pace import Pace
from se_med.training.schedule import Schedule
from se_med.training.tracking import Tracking

log = logging.getLogger(__name__)

Scores = dict[str, float]
HIGH_RATE = 0.1
"""Share of the highest learning rate above which a run that stops early is told so, where the schedule ends lower."""


class Course(Callback):
    """Follows a run from step to step.

    Every decision is taken from the number of steps, except for the time of a checkpoint and a signal, neither of which changes
    a number, and the number of steps of a run that has a budget in minutes (`Pace`).

    Args:
        checkpoint: where the checkpoint goes.
        metrics: the table of the run.
        tracking: the trackers that get its rows too.
        epoch_steps: steps between two rows.
        validate: scores the selection or the held-out cases with the network as it is now, ``None`` when interrupted; called
            after each part of the schedule.
        validations: how many, evenly spread over the schedule; the last one is left to the end of the run.
        interruption: tells that a signal has asked to stop.
        advance: shows the progress.
        environment: what the numbers depend on, stored with each checkpoint.
    """

    def __init__(
        self,
        *,
        checkpoint: Path,
        metrics: MetricsLog,
        tracking: Tracking,
        epoch_steps: int,
        validate: Callable[[SegmentationModule], Scores | None],
        validations: int,
        interruption: Interruption,
        advance: Advance,
        environment: dict[str, Any],
    ) -> None:
        self.checkpoint = checkpoint
        self.metrics = metrics
        self.tracking = tracking
        self.epoch_steps = epoch_steps
        self.validate = validate
        self.validations = validations
        self.interruption = interruption
        self.advance = advance
        self.environment = environment
        self.note = ""
        self._dice = ""
        self._resumed_seconds = 0.0
        self._start = 0.0
        self._saved_at = 0.0

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Take the signals over from Lightning, which has just installed its own handlers."""
        module = _segmentation(pl_module)
        self.interruption.install()
        self._start = self._saved_at = time.monotonic()
        self._resumed_seconds = module.progress.seconds
        self._planned_steps = module.steps
        self._pace = Pace(module, self._seconds())
        self._validation_steps = validation_steps(module.schedule, self.validations)
        if module.progress.step in self._validation_steps and module.progress.validated_step < module.progress.step:
            self._finish_epoch(module)
        self._stop_if_asked(trainer, module)

    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int) -> None:
        """After a step: write a row or a checkpoint where one is due."""
        module = _segmentation(pl_module)
        if (batch_idx + 1) % module.config.training.accumulate:
            return
        step = module.progress.step
        self.advance(*self._shown(module))
        if step % self.epoch_steps == 0 or step in self._validation_steps:
            self._finish_epoch(module)
        elif time.monotonic() - self._saved_at > module.config.training.checkpoint_minutes * 60:
            self._save(module)
        if self._pace.correct(module, self._seconds(), sum(at > step for at in self._validation_steps)):
            self._validation_steps = validation_steps(module.schedule, self.validations)
        self._stop_if_asked(trainer, module)
        if step >= module.steps:
            trainer.should_stop = True

    def _shown(self, module: SegmentationModule) -> tuple[int, str]:
        """Return units of the progress bar, which has as many as there were steps at the start, and the note beside it."""
        step, steps = module.progress.step, module.steps
        if steps == self._planned_steps:
            return step, self.note
        return round(module.schedule.share(step) * self._planned_steps), f"step {step} of {steps}  {self.note}"

    def _finish_epoch(self, module: SegmentationModule) -> None:
        state = module.progress
        row: Row = {
            "step": state.step,
            "loss": round(state.loss_sum / max(1, state.loss_steps), 6),
            "learning_rate": float(f"{module.rate_of(state.step - 1):.6g}"),
            "seconds": round(self._seconds(), 2),
            "stream_digest": state.stream_digest,
        }
        due = state.step in self._validation_steps
        scores = None
        module.refuse_non_finite()
        if due and not processes.any_of(self.interruption.requested, module.device):
            begun = time.monotonic()
            scores = self.validate(module)
            self._pace.validated(time.monotonic() - begun)
        if scores is not None:
            state.validated_step = state.step
            row.update({name: round(value, 6) for name, value in scores.items()})
            self._judge(module, row)
        if scores is not None or not due:
            # A validation that was interrupted is made again on resuming, and so is its row.
            state.loss_sum, state.loss_steps = 0.0, 0
        if processes.rank() == 0:
            self.metrics.append(row)
            self.tracking.log(row)
            self._say(module, row)
        self._save(module)

    def _judge(self, module: SegmentationModule, row: Row) -> None:
        """Decide by the selection cases whether the run goes on; rounded numbers are compared, those of the table."""
        state, rule = module.progress, module.config.training.early_stopping
        if f"{SELECTION}mean_dice" in row:
            state.selection_scores.append(float(row[f"{SELECTION}mean_dice"]))
        if rule is not None and (reason := stop_reason(state.selection_scores, rule)):
            state.stopped = row["stopped"] = reason

    def _say(self, module: SegmentationModule, row: Row) -> None:
        step, seconds = module.progress.step, self._seconds()
        left = seconds / max(1, step) * (module.steps - step)
        kinds = {"mean_dice": "Dice", f"{SELECTION}mean_dice": "selection Dice"}
        dice = "".join(f"  {name} {row[key]:.4f}" for key, name in kinds.items() if key in row)
        self._dice = dice or self._dice
        self.note = f"loss {row['loss']:.4f}{self._dice}"
        line = (
            f"step {step}/{module.steps}  loss {row['loss']:.4f}  rate {row['learning_rate']:.2e}{dice}  "
            f"{_clock(seconds)} gone, {_clock(left)} left"
        )
        log.log(logging.INFO if dice else logging.DEBUG, line)
        if module.progress.stopped:
            share = float(row["learning_rate"]) / module.config.training.learning_rate
            log.info("stopped early after step %d of %d: %s", step, module.steps, module.progress.stopped)
            if share > max(HIGH_RATE, module.config.training.final_rate):
                log.warning(
                    "warning: the learning rate was still at %.0f %% of its highest when the run stopped early", 100 * share
                )

    def _save(self, module: SegmentationModule) -> None:
        module.refuse_non_finite()  # the checkpoint before stays, and is good
        if processes.rank() > 0:
            return
        state = module.capture()
        state.seconds = self._seconds()
        state.environment = self.environment
        save_checkpoint(self.checkpoint, state)
        self._saved_at = time.monotonic()

    def _seconds(self) -> float:
        return self._resumed_seconds + time.monotonic() - self._start

    def _stop_if_asked(self, trainer: Trainer, module: SegmentationModule) -> None:
        if module.progress.stopped:
            trainer.should_stop = True
        if processes.any_of(self.interruption.requested, module.device) and not trainer.should_stop:
            self._save(module)
            trainer.should_stop = True


def validation_steps(schedule: Schedule, validations: int) -> frozenset[int]:
    """Return the steps after which to validate; the last one is left to the validation at the end of the run."""
    return frozenset(schedule.step_at(part / validations) for part in range(1, validations)) - {0, schedule.steps}


def _segmentation(module: LightningModule) -> SegmentationModule:
    if not isinstance(module, SegmentationModule):
        raise TypeError(f"Course follows a SegmentationModule, not {type(module).__name__}")
    return module


def _clock(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"
