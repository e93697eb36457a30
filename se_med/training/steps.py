"""The steps of a run: from where its state stands to the last one, in one process or in several."""

from __future__ import annotations

from functools import partial

from lightning.pytorch import Trainer
from lightning.pytorch.strategies import DDPStrategy

from se_med.config.experiment import Config
from se_med.data.stream import PatchStream, StepSampler, make_loader
from se_med.evaluation.summary import summarise
from se_med.inference.precision import resolve_device, resolve_precision
from se_med.networks.build import build_network
from se_med.progress import Advance
from se_med.training import processes
from se_med.training.checkpoint import TrainingState
from se_med.training.course import Course, Scores
from se_med.training.divergence import DivergedError
from se_med.training.early_stopping import SELECTION
from se_med.training.interruption import Interruption
from se_med.training.metrics_log import MetricsLog
from se_med.training.module import SegmentationModule
from se_med.training.provenance import numerical_environment
from se_med.training.run_data import RunData
from se_med.training.run_folder import RunFolder
from se_med.training.tracking import Tracking
from se_med.training.transfer import freeze, take_weights
from se_med.training.validation import Validation

MIN_EPOCH_STEPS = 50
ENDLESS = 2**40
"""Batches that a run could have: `Course` stops it after its last step, whose number may be corrected on the way."""


def build_module(data: RunData, state: TrainingState) -> SegmentationModule:
    """Make the network with its loss: as it starts, from the weights of another run, or as a checkpoint left it."""
    config, plan = data.config, data.plan
    network = build_network(config.network, config.attention, len(plan.channels), plan.num_classes, config.seed)
    if config.training.init_from is not None and state.step == 0:
        take_weights(network, config.training.init_from)
    freeze(network, config.training.freeze)
    return SegmentationModule(network.to(resolve_device(config.training.device)), config, plan, state)


def build_stream(data: RunData) -> PatchStream:
    """Make the stream of training patches."""
    config = data.config
    return PatchStream(
        data.train, data.plan, config.augmentation, config.training.foreground, config.seed, config.data.empty_slices
    )


def train_steps(
    run: RunFolder, data: RunData, module: SegmentationModule, interruption: Interruption, advance: Advance, tracking: Tracking
) -> None:
    """Make the steps that are left, or stop after one of them when asked to.

    With several processes this one starts the others as copies of its own command; each comes to its own call of this
    function and takes its share of every batch.

    Args:
        run: where checkpoints and metrics go.
        data: prepared cases, plan and effective configuration (``training.steps`` is set).
        module: holds the state to start from; afterwards it holds the state that was reached.
        interruption: tells that a signal has asked to stop.
        advance: told the number of steps made.
        tracking: the trackers of the run.

    Raises:
        DivergedError: loss, gradient or weights are not finite any more; names the last good checkpoint.
    """
    config, training = data.config, data.config.training
    device = resolve_device(training.device)
    precision = resolve_precision(training.precision, device)
    batches = StepSampler(
        ENDLESS,
        data.plan.batch_size,
        first=module.progress.step * training.accumulate,
        rank=processes.own_number(),
        world=training.processes,
    )
    course = Course(
        checkpoint=run.checkpoint,
        metrics=MetricsLog(run.metrics, module.progress.step),
        epoch_steps=epoch_steps(config, data.plan.batch_size, len(data.train)),
        tracking=tracking,
        validate=partial(_dice, Validation(data.watched, config, data.plan), SELECTION if data.selection else "", interruption),
        validations=training.validations,
        interruption=interruption,
        advance=advance,
        environment=numerical_environment(precision),
    )
    trainer = Trainer(
        accelerator="cpu" if device.type == "cpu" else "gpu",
        devices=training.processes,
        strategy=DDPStrategy(process_group_backend="gloo" if device.type == "cpu" else None)
        if training.processes > 1
        else "auto",
        precision="bf16-mixed" if precision == "bf16" else "32-true",
        max_epochs=1,
        accumulate_grad_batches=training.accumulate,
        gradient_clip_val=training.gradient_clip,
        callbacks=[course],
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        use_distributed_sampler=False,
        default_root_dir=run.path,
    )
    try:
        trainer.fit(module, make_loader(build_stream(data), batches, training.workers, pin_memory=device.type == "cuda"))
    except DivergedError as error:
        raise error.with_checkpoint(run.checkpoint) from None
    processes.leave()


def epoch_steps(config: Config, batch_size: int, cases: int) -> int:
    """Return the steps between two log lines: as configured, else whole passes over the cases of at least 50 steps."""
    if config.training.epoch_steps is not None:
        return config.training.epoch_steps
    patches = batch_size * config.training.accumulate
    passes = -(-MIN_EPOCH_STEPS * patches // cases)
    return -(-passes * cases // patches)


def _dice(validation: Validation, prefix: str, interruption: Interruption, module: SegmentationModule) -> Scores | None:
    scores = validation(module.exported, stop=lambda: interruption.requested)
    if scores is None:
        return None
    summary = summarise(scores, tolerance=validation.config.evaluation.tolerance)
    dice = {"mean_dice": summary.mean_dice, **{f"dice_{name}": value for name, value in summary.dice.items()}}
    return {f"{prefix}{name}": value for name, value in dice.items() if value is not None}
