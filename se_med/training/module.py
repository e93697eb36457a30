"""The Lightning module: one network, its loss, its optimiser and its weight average, counted in steps."""

from __future__ import annotations

import hashlib
import math
from typing import Any

import torch
from lightning.pytorch import LightningModule
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel

from se_med.config.experiment import Config
from se_med.data.plan import Plan
from se_med.data.stream import batch_checksums, extend_digest
from se_med.errors import RunError
from se_med.training import processes
from se_med.training.checkpoint import TrainingState
from se_med.training.divergence import DivergedError
from se_med.training.losses import build_loss
from se_med.training.optimisation import build_average, build_optimizer, learning_rate
from se_med.training.schedule import Schedule


class SegmentationModule(LightningModule):
    """Trains a segmentation network from any step to the last.

    Lightning is given one epoch that holds the batches still to come, so resuming is nothing but starting at another step: all
    that changes with time is in ``TrainingState``, and batches, learning rate and dropout masks are functions of the step.

    Args:
        network: maps ``(B, C, *S)`` to logits ``(B, classes, *S)``, or a list of them with deep supervision.
        config: the effective configuration (``training.steps`` is set).
        plan: what the loss has to know about the data.
        state: where to start; a new ``TrainingState`` for the beginning.
    """

    def __init__(self, network: nn.Module, config: Config, plan: Plan, state: TrainingState) -> None:
        super().__init__()
        self.config = config
        training = config.training
        self.schedule = Schedule(state.steps or training.steps or 0, state.former_steps or training.former_steps or ())
        self.network = network
        self.loss = build_loss(config.training, config.network.deep_supervision, plan)
        self.average: AveragedModel | None = None
        if config.training.ema is not None:
            self.average = build_average(network, config.training.ema)
        if state.network:
            _restore(network, state.network, config.name)
        if self.average is not None and state.average:
            _restore(self.average, state.average, config.name)
        self.progress = state
        self.checksums = torch.empty(0, 2, dtype=torch.int64)
        self.batch_cases: list[str] = []

    @property
    def exported(self) -> nn.Module:
        """The network that is validated and stored: the weight average where there is one."""
        module: nn.Module = self.network if self.average is None else self.average.module
        return module

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """Make the optimiser and give it the state to resume from."""
        optimizer = build_optimizer(self.network, self.config.training)
        if self.progress.optimizer:
            _restore(optimizer, self.progress.optimizer, self.config.name)
        return optimizer

    @property
    def steps(self) -> int:
        """Optimiser steps of the run; corrected on the way where it has a budget in minutes."""
        return self.schedule.steps

    def rate_of(self, step: int) -> float:
        """Return the learning rate of the step after `step` others."""
        return learning_rate(self.schedule.share(step), self.config.training)

    def on_before_batch_transfer(self, batch: Any, dataloader_idx: int) -> Any:
        """Take the checksums of the batch while it is still in main memory."""
        self.checksums = batch_checksums(batch)
        return batch

    def on_train_batch_start(self, batch: Any, batch_idx: int) -> None:
        """Set learning rate and dropout seed of this step."""
        rate = self.rate_of(self.progress.step)
        for group in self.optimizers().param_groups:  # type: ignore[union-attr]
            group["lr"] = rate
        if self.config.network.dropout > 0:
            part = batch_idx % self.config.training.accumulate
            key = f"dropout:{self.config.seed}:{self.progress.step}:{part}:{self.global_rank}"
            torch.manual_seed(int.from_bytes(hashlib.sha256(key.encode()).digest()[:8], "little") >> 1)

    def training_step(self, batch: dict[str, Any], batch_idx: int) -> Tensor:
        """Return the loss of one batch ``{"image": (B, C, *S), "label": (B, 1, *S), "case": [str]}``.

        Raises:
            DivergedError: the loss is not finite.
        """
        self.batch_cases = list(batch["case"])
        loss: Tensor = self.loss(self.network(batch["image"]), batch["label"].long())
        value = processes.mean(loss.item(), self.device)
        if not math.isfinite(value):
            raise self._diverged(f"the loss is {value}")
        self.progress.loss_sum += value
        self.progress.loss_steps += 1
        checksums = processes.gather_rows(self.checksums.to(self.device))
        self.progress.stream_digest = extend_digest(self.progress.stream_digest, checksums)
        return loss

    def configure_gradient_clipping(
        self, optimizer: Any, gradient_clip_val: float | None = None, gradient_clip_algorithm: str | None = None
    ) -> None:
        """Clip the norm of the gradient. Lightning refuses to do so for fused optimisers, fearing a loss scale; bf16 has none.

        Raises:
            DivergedError: the norm is not finite, and would make every weight so.
        """
        if gradient_clip_val is not None:
            norm = float(torch.nn.utils.clip_grad_norm_(self.network.parameters(), gradient_clip_val))
            if not math.isfinite(norm):
                raise self._diverged(f"the norm of the gradient is {norm}")

    def optimizer_step(self, *args: Any, **kwargs: Any) -> None:
        """Make one step of the optimiser, count it and move the weight average."""
        super().optimizer_step(*args, **kwargs)
        self.progress.step += 1
        if self.average is not None:
            self.average.update_parameters(self.network)

    def refuse_non_finite(self) -> None:
        """See to it that what is validated or kept as a checkpoint is a network that can be gone on with.

        Raises:
            DivergedError: a weight is not finite.
        """
        for name, tensor in self.network.state_dict().items():
            if tensor.is_floating_point() and not bool(torch.isfinite(tensor).all()):
                raise DivergedError(self.progress.step, f"{name} is not finite any more", self.batch_cases)

    def _diverged(self, what: str) -> DivergedError:
        """Return the error of this step, which all processes of a distributed run meet together."""
        return DivergedError(self.progress.step + 1, what, processes.gather_lists(self.batch_cases))

    def capture(self) -> TrainingState:
        """Return the state to resume from, after the current step."""
        self.progress.steps, self.progress.former_steps = self.schedule.steps, self.schedule.former
        self.progress.network = self.network.state_dict()
        self.progress.average = None if self.average is None else self.average.state_dict()
        self.progress.optimizer = self.optimizers().optimizer.state_dict()  # type: ignore[union-attr]
        return self.progress


def _restore(part: nn.Module | torch.optim.Optimizer, state: dict[str, Any], name: str) -> None:
    """Give a part of the training the state of a checkpoint.

    Raises:
        RunError: it is the state of something else.
    """
    try:
        part.load_state_dict(state)
    except (RuntimeError, ValueError, LookupError, TypeError, AttributeError) as error:
        reason = " ".join(str(error).split())[:160]
        raise RunError(
            f"run {name}: checkpoints/last.ckpt is not of this network ({reason}); restore the run's own file, or start again"
        ) from None
