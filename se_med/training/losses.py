"""Training losses: MONAI's, chosen by name, over the voxels with a reference and the outputs of deep supervision."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from monai.losses.dice import DiceCELoss, DiceFocalLoss, GeneralizedDiceFocalLoss
from monai.losses.tversky import TverskyLoss
from torch import Tensor, nn
from torch.nn import functional as F

from se_med.config.training import TrainingConfig
from se_med.data.plan import Plan
from se_med.data.preparation import IGNORED
from se_med.fused.loss import DiceCrossEntropy
from se_med.training.region_losses import region_term


def build_loss(
    training: TrainingConfig, deep_supervision: Sequence[float] | None = None, plan: Plan | None = None
) -> SegmentationLoss:
    """Make the loss that the configuration names.

    Dice terms leave the background out and, as in nnU-Net (Isensee et al. 2021, Nature Methods 18), are computed over the
    whole batch, so that a patch without a structure does not swamp the gradient.

    Args:
        training: names the loss.
        deep_supervision: weight of each output, from full to lower resolution; ``None`` for a single output.
        plan: gives the weights of the classes and tells whether there are regions, and voxels without a reference; ``None`` for
            none of these.
    """
    if plan is not None and plan.regions:
        term = region_term(training.loss, plan.structures, plan.class_weights)
    else:
        term = _term(training.loss, None if plan is None else plan.class_weights)
    if plan is not None and plan.ignore_label is not None:
        term = KnownVoxels(term, per_sample=training.loss == "generalised_dice")
    return SegmentationLoss(term, deep_supervision or (1.0,))


def _term(loss: str, weights: Sequence[float] | None) -> nn.Module:
    """Make the loss of one output of structures that exclude each other."""
    dice: dict[str, object] = {"softmax": True, "to_onehot_y": True, "include_background": False, "batch": True}
    losses: dict[str, type[nn.Module]] = {
        "dice_ce": DiceCELoss,
        "dice_focal": DiceFocalLoss,
        "generalised_dice": GeneralizedDiceFocalLoss,
        "tversky": TverskyLoss,
    }
    if loss == "generalised_dice":
        dice = {"softmax": True, "to_onehot_y": True, "include_background": False}
    if weights is not None:
        dice["weight"] = _weight(loss, weights)
    term = losses[loss](**dice)
    return DiceCrossEntropy(otherwise=term) if loss == "dice_ce" and weights is None else term


def _weight(loss: str, weights: Sequence[float]) -> Tensor:
    """Return the weights as MONAI takes them: of all classes for a cross-entropy, of the structures for a focal loss."""
    if loss == "dice_ce":
        return torch.tensor(weights)
    structures = torch.tensor(weights[1:])
    return structures[0] if len(structures) == 1 else structures


class KnownVoxels(nn.Module):
    """A loss of the voxels that have a reference: those whose class index is not ``IGNORED``.

    They are taken out of their grid as ``(1, classes, N)`` logits and ``(1, 1, N)`` class indices, which is all the same to a
    loss that sums over batch and grid. A loss of each sample is taken for each sample, and averaged over those with such a voxel.

    Args:
        term: loss of ``(B, classes, *S)`` logits against ``(B, 1, *S)`` class indices, for any number of axes ``S``.
        per_sample: the loss sums over the grid of each sample on its own.
    """

    def __init__(self, term: nn.Module, *, per_sample: bool) -> None:
        super().__init__()
        self.term = term
        self.per_sample = per_sample

    def forward(self, logits: Tensor, target: Tensor) -> Tensor:
        """Return the scalar loss; 0 where no voxel has a reference."""
        known = target[:, 0] != IGNORED
        if bool(known.all()):
            loss: Tensor = self.term(logits, target)
            return loss
        samples = [slice(number, number + 1) for number in range(len(target))] if self.per_sample else [slice(None)]
        losses = [self.term(*_taken(logits[one], target[one], known[one])) for one in samples if known[one].any()]
        return torch.stack(losses).mean() if losses else 0.0 * logits.sum()


def _taken(logits: Tensor, target: Tensor, known: Tensor) -> tuple[Tensor, Tensor]:
    """Take voxels out of their grid: ``(1, classes, N)`` and ``(1, 1, N)``."""
    return logits.movedim(1, -1)[known].T[None], target[:, 0][known][None, None]


class SegmentationLoss(nn.Module):
    """A loss over logits, averaged over the outputs of deep supervision.

    Args:
        term: loss of ``(B, classes, *S)`` logits against ``(B, 1, *S)`` class indices.
        weights: weight of each output, from full to lower resolution; normalised to a sum of 1.
    """

    def __init__(self, term: nn.Module, weights: Sequence[float]) -> None:
        super().__init__()
        self.term = term
        total = sum(weights)
        self.weights = tuple(weight / total for weight in weights)
        self._takes_any_format = isinstance(term.term if isinstance(term, KnownVoxels) else term, DiceCrossEntropy)

    def forward(self, logits: Tensor | Sequence[Tensor], label: Tensor) -> Tensor:
        """Return the scalar loss.

        Args:
            logits: ``(B, classes, *S)``, or one such tensor per output with decreasing ``S``.
            label: ``(B, 1, *S)`` class indices on the full grid; lower resolutions take the nearest voxel.
        """
        outputs = [logits] if isinstance(logits, Tensor) else list(logits)
        loss = torch.zeros((), device=label.device)
        for weight, output in zip(self.weights, outputs, strict=False):
            if weight == 0:
                continue
            target = (
                label
                if output.shape[2:] == label.shape[2:]
                else F.interpolate(label.float(), size=output.shape[2:], mode="nearest")
            )
            loss = loss + weight * self.term(output if self._takes_any_format else output.float(), target)
        return loss
