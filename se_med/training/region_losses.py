"""Losses of regions, which may overlap: one sigmoid per region, and nowhere a softmax over them."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from monai.losses.dice import DiceFocalLoss, DiceLoss, GeneralizedDiceFocalLoss
from monai.losses.tversky import TverskyLoss
from torch import Tensor, nn
from torch.nn import functional as F

from se_med.data.structures import Structures


def region_term(name: str, structures: Structures, weights: Sequence[float] | None) -> nn.Module:
    """Make the loss of one output against classes: MONAI's of this name, with sigmoid.

    Args:
        name: `training.loss`; the cross-entropy of `dice_ce` is the binary one.
        structures: the regions.
        weights: of each region, or None.
    """
    options: dict[str, object] = {"sigmoid": True, "batch": name != "generalised_dice"}
    if weights is not None:
        options["weight"] = torch.tensor(weights[0] if len(weights) == 1 else weights)
    losses: dict[str, type[nn.Module]] = {
        "dice_ce": DiceBinaryCrossEntropy,
        "dice_focal": DiceFocalLoss,
        "generalised_dice": GeneralizedDiceFocalLoss,
        "tversky": TverskyLoss,
    }
    return RegionLoss(losses[name](**options), structures)


class RegionLoss(nn.Module):
    """A loss of regions against classes.

    Args:
        term: loss of ``(B, regions, *S)`` logits against ``(B, regions, *S)`` zeros and ones.
        structures: say which class is part of which region.
    """

    membership: Tensor

    def __init__(self, term: nn.Module, structures: Structures) -> None:
        super().__init__()
        self.term = term
        self.register_buffer("membership", torch.from_numpy(structures.membership).float(), persistent=False)

    def forward(self, logits: Tensor, target: Tensor) -> Tensor:
        """Return the scalar loss of ``(B, regions, *S)`` logits against ``(B, 1, *S)`` classes of prepared labels."""
        classes = target[:, 0].long()
        inside = torch.stack([column[classes] for column in self.membership.to(logits).T.contiguous()], dim=1)
        loss: Tensor = self.term(logits, inside)
        return loss


class DiceBinaryCrossEntropy(nn.Module):
    """The sum of Dice loss and binary cross-entropy, both means over the regions.

    MONAI's `DiceCELoss` takes the cross-entropy of several channels by a softmax even where the Dice is of sigmoids.

    Args:
        sigmoid: passed to MONAI's `DiceLoss`.
        batch: Dice over the whole batch.
        weight: of each region, or of the only one; multiplies its Dice loss (not that of a single region) and cross-entropy.
    """

    weight: Tensor | None

    def __init__(self, sigmoid: bool = True, batch: bool = True, weight: Tensor | None = None) -> None:
        super().__init__()
        self.dice = DiceLoss(sigmoid=sigmoid, batch=batch, weight=weight)
        self.register_buffer("weight", weight, persistent=False)

    def forward(self, logits: Tensor, target: Tensor) -> Tensor:
        """Return the scalar loss of ``(B, regions, *S)`` logits against zeros and ones of the same shape."""
        weight = None if self.weight is None else self.weight.to(logits).reshape(1, -1, *[1] * (logits.ndim - 2))
        cross_entropy = F.binary_cross_entropy_with_logits(logits, target, weight)
        loss: Tensor = self.dice(logits, target) + cross_entropy
        return loss
