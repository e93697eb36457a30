"""How long, with which loss, optimiser and schedule a network is trained."""

from __future__ import annotations

from pathlib import Path
from typing import ClassVar, Literal

from pydantic import Field, NonNegativeFloat, NonNegativeInt, PositiveFloat, PositiveInt

from se_med.config.base import Part

DEFAULT_MINUTES = 15.0


class TrainingConfig(Part):
    """How long, with which loss, optimiser and schedule a network is trained."""

    exclusive: ClassVar = (("steps", "max_minutes"),)

    steps: PositiveInt | None = Field(None, description="Number of optimiser steps. Give this or max_minutes.")
    max_minutes: PositiveFloat | None = Field(
        None,
        description="Budget in minutes, turned into a number of steps by a timed trial before the first step. "
        f"Default where steps is not given either: {DEFAULT_MINUTES:g}.",
    )
    batch_size: PositiveInt | None = Field(None, description="Patches per step. Default: planned.")
    patch: tuple[PositiveInt, ...] | None = Field(
        None, description="Patch size in voxels, per axis of the network. Default: planned."
    )
    foreground: float = Field(0.5, ge=0, le=1, description="Share of patches centred on a voxel of a structure drawn at random.")
    accumulate: PositiveInt = Field(1, description="Batches whose gradients are summed up for one step.")
    epoch_steps: PositiveInt | None = Field(
        None, description="Steps between two log lines. Default: whole passes over the training cases, 50 steps at least."
    )
    validations: PositiveInt = Field(
        5, description="Whole-volume validations, evenly spread; the last is made after the last step."
    )

    init_from: Path | None = Field(
        None, description="Run folder whose weights to start from; tensors of equal name and shape are taken."
    )
    freeze: tuple[str, ...] = Field((), description="Wildcard patterns of parameters that are not trained, e.g. [encoder.*].")

    loss: Literal["dice_ce", "dice_focal", "generalised_dice", "tversky"] = Field("dice_ce", description="Training loss (MONAI).")
    optimizer: Literal["adamw", "sgd"] = Field("adamw", description="AdamW, or SGD with Nesterov momentum.")
    learning_rate: PositiveFloat = Field(4e-3, description="Highest learning rate of the schedule.")
    weight_decay: NonNegativeFloat = Field(1e-2, description="Weight decay; never applied to norms and biases.")
    momentum: float = Field(0.99, ge=0, lt=1, description="Momentum of SGD.")
    schedule: Literal["one_cycle", "cosine", "polynomial", "constant"] = Field(
        "one_cycle", description="Course of the learning rate. All but one_cycle start with a linear warm-up."
    )
    warmup: float = Field(0.1, ge=0, lt=1, description="Share of the steps in which the learning rate rises.")
    gradient_clip: PositiveFloat | None = Field(1.0, description="Largest norm of the gradient; null never clips.")
    ema: float | None = Field(
        0.998,
        gt=0,
        lt=1,
        description="Decay of the exponential moving average of the weights, which is what is validated and exported; null for "
        "none.",
    )
    precision: Literal["auto", "bf16", "fp32"] = Field(
        "auto", description="Arithmetic of convolutions: bf16 autocast, fp32, or bf16 where the processor has it."
    )
    device: Literal["auto", "cpu", "gpu"] = Field("auto", description="Where to train; auto takes a GPU where there is one.")
    processes: PositiveInt = Field(
        1, description="Processes that train together, each on its share of every batch (DDP): one per GPU, or several on a CPU."
    )
    threads: PositiveInt | None = Field(
        None, description="CPU threads of each process. Default: the cores that are free when the run starts."
    )
    workers: NonNegativeInt = Field(0, description="Processes that prepare batches; 0 prepares them in the training process.")
    checkpoint_minutes: PositiveFloat = Field(2.0, description="Minutes between two checkpoints to resume from.")
