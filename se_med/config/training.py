"""How long, with which loss, optimiser and schedule a network is trained."""

from __future__ import annotations

from pathlib import Path
from typing import ClassVar, Literal, Self

from pydantic import Field, NonNegativeFloat, PositiveFloat, PositiveInt, model_validator

from se_med.config.base import Part

DEFAULT_MINUTES = 15.0


class EarlyStopping(Part):
    """Ends a run when the mean Dice of the selection cases (see data.selection) has stopped rising."""

    patience: PositiveInt = Field(description="Validations in a row without progress after which training stops.")
    min_delta: NonNegativeFloat = Field(0.0, description="Rise of the mean Dice above the best so far that counts as progress.")


class TrainingConfig(Part):
    """How long, with which loss, optimiser and schedule a network is trained."""

    exclusive: ClassVar = (("steps", "max_minutes"),)

    steps: PositiveInt | None = Field(None, description="Number of optimiser steps. Give this or max_minutes.")
    max_minutes: PositiveFloat | None = Field(
        None,
        description="Budget in minutes from the command to its end: start, reading, trial, steps and all validations; preparing "
        "cases that are not prepared yet comes on top. A timed trial turns it into a number of steps before the first one, which "
        "is corrected on the way by the time that steps take. A budget for fewer than 50 steps is refused. In a study the "
        "minutes are those of steps and validations. "
        f"Default where steps is not given either: {DEFAULT_MINUTES:g}.",
    )
    former_steps: tuple[tuple[PositiveInt, PositiveInt], ...] | None = Field(
        None,
        description="Pairs of a step and the number of steps that the run was to have until then. Written into config.yaml by a "
        "run whose steps were corrected on the way to keep to max_minutes, so that the file repeats that run. Default: steps "
        "was the number from the start.",
    )
    max_memory: PositiveFloat | None = Field(
        None,
        description="Budget in GiB of the device's memory: what is planned fits into it by an estimate. On a processor it also "
        "limits how many cases are read and prepared at once. Default: 80 % of what the device has.",
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
    validations: int = Field(
        5, ge=1, le=10_000, description="Whole-volume validations, evenly spread; the last is made after the last step."
    )

    init_from: Path | None = Field(
        None, description="Run folder whose weights to start from; tensors of equal name and shape are taken."
    )
    freeze: tuple[str, ...] = Field((), description="Wildcard patterns of parameters that are not trained, e.g. [encoder.*].")

    loss: Literal["dice_ce", "dice_focal", "generalised_dice", "tversky"] = Field(
        "dice_ce",
        description="Training loss (MONAI). With data.regions each region has a sigmoid, and dice_ce is Dice and binary "
        "cross-entropy.",
    )
    early_stopping: EarlyStopping | None = Field(
        None,
        description="Stop when the mean Dice of the selection cases has stopped rising. Needs cases that are neither trained on "
        "nor reported: data.selection, or a `selection` list in the split file. The weights are those of the last step made. A "
        "one_cycle, cosine or polynomial schedule is cut off where its rate may still be high, which costs Dice: use "
        "`schedule: constant` with `ema` where runs are meant to stop early. null trains to the last step.",
    )
    class_weights: Literal["balanced"] | dict[str, PositiveFloat] | None = Field(
        None,
        description="Weight of each structure, by name, and of `background`; those not named weigh 1. `balanced` takes the "
        "inverse of each class's share of all voxels, scaled to a mean of 1. In `dice_ce` the cross-entropy is a weighted mean "
        "over the voxels, and the Dice loss of each structure (background has none) is multiplied by its weight. In `dice_focal` "
        "both terms of each structure are multiplied by its weight, in `generalised_dice` the focal term alone; background has "
        "no weight there. The Dice loss of a data set's only structure is never weighted. `tversky` takes none. "
        "With data.regions there is no background, and cross-entropies are weighted means over regions and voxels.",
    )
    optimizer: Literal["adamw", "muon", "sgd"] = Field(
        "muon",
        description="Muon for convolutions with AdamW for norms, biases, heads and attention; AdamW for everything; or SGD with "
        "Nesterov momentum.",
    )
    learning_rate: PositiveFloat = Field(4e-3, description="Highest learning rate of the schedule.")
    weight_decay: NonNegativeFloat = Field(1e-2, description="Weight decay; never applied to norms and biases.")
    muon_rate: PositiveFloat | None = Field(
        None,
        description="Highest learning rate of what Muon trains; learning_rate is that of everything else. Default: 2.5 times "
        "learning_rate.",
    )
    momentum: float | None = Field(
        None, ge=0, lt=1, description="Momentum of SGD or Muon. Default: 0.99 with SGD, 0.95 with Muon."
    )
    schedule: Literal["one_cycle", "cosine", "polynomial", "constant"] = Field(
        "one_cycle", description="Course of the learning rate. All but one_cycle start with a linear warm-up."
    )
    warmup: float = Field(0.1, ge=0, lt=1, description="Share of the steps in which the learning rate rises.")
    final_rate: float = Field(
        0.3,
        ge=0,
        le=1,
        description="Share of the highest rate at which the schedule ends. With little augmentation long "
        "runs lost Dice towards their end with 0.3 as with 0 (see benchmarks/NOTES.md). 0 suits runs of a few hundred steps.",
    )
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
    processes: int = Field(
        1,
        ge=1,
        le=1024,
        description="Processes that train together, each on its share of every batch (DDP): one per GPU, or several on a CPU.",
    )
    threads: int | None = Field(
        None, ge=1, le=1024, description="CPU threads of each process. Default: the cores that are free when the run starts."
    )
    workers: int = Field(0, ge=0, le=1024, description="Processes that prepare batches; 0 prepares them in the training process.")
    checkpoint_minutes: PositiveFloat = Field(2.0, description="Minutes between two checkpoints to resume from.")

    loggers: tuple[Literal["tensorboard", "wandb", "mlflow"], ...] = Field(
        (),
        description="Trackers that get what metrics.csv gets, beside it (`pip install 'se-med[tracking]'`). They write into the "
        "run folder; the environment variables WANDB_MODE and MLFLOW_TRACKING_URI send W&B and MLflow elsewhere.",
    )

    @model_validator(mode="after")
    def _former_steps_are_before_the_last(self) -> Self:
        begin = 0
        for step, steps in self.former_steps or ():
            if not begin < step < min(steps, self.steps or 0):
                raise ValueError(
                    f"former_steps: [{step}, {steps}] is no step after {begin} and before the last one; it belongs to the run "
                    "that wrote it, so remove former_steps (null) to train for other steps"
                )
            begin = step
        return self

    @model_validator(mode="after")
    def _early_stopping_can_happen(self) -> Self:
        if self.early_stopping is not None and self.early_stopping.patience > self.validations - 2:
            raise ValueError(
                f"early_stopping.patience: {self.early_stopping.patience} validations without progress cannot happen in "
                f"{self.validations} validations, of which the last comes after the last step; set validations: "
                f"{self.early_stopping.patience + 2} or more"
            )
        return self

    @model_validator(mode="after")
    def _weights_have_a_place(self) -> Self:
        if self.class_weights is None:
            return self
        if not self.class_weights:
            raise ValueError("class_weights: names no class; give {name: weight}, balanced, or null for none")
        if self.loss == "tversky":
            raise ValueError("class_weights: loss tversky takes none; choose loss dice_ce, dice_focal or generalised_dice")
        if self.loss != "dice_ce" and self.class_weights != "balanced" and "background" in self.class_weights:
            raise ValueError(f"class_weights: loss {self.loss} leaves the background out; remove it, or choose loss dice_ce")
        return self
