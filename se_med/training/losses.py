"""Training losses: MONAI's, chosen by name, over one output or over the outputs of deep supervision."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from monai.losses.dice import DiceCELoss, DiceFocalLoss, GeneralizedDiceFocalLoss
from monai.losses.tversky import TverskyLoss
from torch import Tensor, nn
from torch.nn import functional as F

from se_med.config.training import TrainingConfig


def build_loss(training: TrainingConfig, deep_supervision: Sequence[float] | None = None) -> SegmentationLoss:
    """Make the loss that the configuration names.

    Dice terms leave the background out and, as in nnU-Net (Isensee et al. 2021, Nature Methods 18), are computed over the
    whole batch, so that a patch without a structure does not swamp the gradient.

    Args:
        training: names the loss.
        deep_supervision: weight of each output, from full to lower resolution; ``None`` for a single output.
    """
    dice = {"softmax": True, "to_onehot_y": True, "include_background": False, "batch": True}
    losses: dict[str, type[nn.Module]] = {
        "dice_ce": DiceCELoss,
        "dice_focal": DiceFocalLoss,
        "generalised_dice": GeneralizedDiceFocalLoss,
        "tversky": TverskyLoss,
    }
    if training.loss == "generalised_dice":
        dice = {"softmax": True, "to_onehot_y": True, "include_background": False}
    return SegmentationLoss(losses[training.loss](**dice), deep_supervision or (1.0,))


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
            loss = loss + weight * self.term(output.float(), target)
        return loss
