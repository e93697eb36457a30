"""What the outputs of a network stand for, and how they become classes: structures that exclude each other, or regions.

Structures that exclude each other share the probability of a voxel (softmax), and the highest output wins. Regions have a
probability each (sigmoid), and a voxel is in those whose probability is above one half. A combination of regions that the label
values can express becomes the class of exactly these regions; of any other the last region in the order of writing wins, as
in nnU-Net (Isensee et al. 2021, Nature Methods 18), where later regions overwrite earlier ones.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from se_med.data.plan import Plan
from se_med.data.structures import Structures
from se_med.fused.sums import raise_highest


class Target(Protocol):
    """What the outputs of a network stand for. Outputs are the first axis of every tensor, `(outputs, *S)`.

    Attributes:
        exclusive: whether the class of a voxel is the index of its highest output.
    """

    exclusive: bool

    def probabilities(self, logits: Tensor) -> Tensor:
        """Return the probability of each output, `(outputs, *S)`."""

    def to_logits_(self, probabilities: Tensor) -> Tensor:
        """Turn probabilities of any number of outputs into logits that stand for them, in place; finite even for 0 and 1."""

    def choose(self, outputs: Iterable[Tensor]) -> Tensor:
        """Return the class of each voxel.

        Args:
            outputs: the logits of one output after the other, `(*S)`; one may be overwritten when the next is taken.

        Returns:
            `(*S)` uint8 classes of prepared labels.
        """


class Exclusive:
    """Outputs of structures that exclude each other, background first: softmax, and the highest wins, ties the lower class."""

    exclusive = True

    def probabilities(self, logits: Tensor) -> Tensor:
        """Return the softmax."""
        return torch.softmax(logits, 0)

    def to_logits_(self, probabilities: Tensor) -> Tensor:
        """Turn probabilities into their logarithms, whose softmax they are."""
        return probabilities.clamp_(min=torch.finfo(probabilities.dtype).tiny).log_()

    def choose(self, outputs: Iterable[Tensor]) -> Tensor:
        """Return the class of the highest logit."""
        rest = iter(outputs)
        best = next(rest).clone(memory_format=torch.contiguous_format)
        classes = torch.zeros(best.shape, dtype=torch.uint8, device=best.device)
        for index, output in enumerate(rest, start=1):
            raise_highest(best, classes, output, index)
        return classes


class Regions:
    """Outputs of regions, in the order of writing: one sigmoid each.

    Args:
        structures: the regions with their label values.
    """

    exclusive = False

    def __init__(self, structures: Structures) -> None:
        self.table = class_table(structures)

    def probabilities(self, logits: Tensor) -> Tensor:
        """Return the sigmoid."""
        return torch.sigmoid(logits)

    def to_logits_(self, probabilities: Tensor) -> Tensor:
        """Turn probabilities into the logarithms of their odds."""
        return probabilities.logit_(eps=torch.finfo(probabilities.dtype).eps)

    def choose(self, outputs: Iterable[Tensor]) -> Tensor:
        """Return the class of the regions with logits above 0."""
        rest = iter(outputs)
        combination = (next(rest) > 0).int()
        for index, output in enumerate(rest, start=1):
            combination.bitwise_or_((output > 0).int() << index)
        return self.table.to(combination.device).index_select(0, combination.flatten()).reshape(combination.shape)


def class_table(structures: Structures) -> Tensor:
    """Return the class of each combination of regions, (2^regions,) uint8: bit k of the index stands for region k."""
    table = np.zeros(1 << len(structures.values), dtype=np.uint8)
    home = {value: index for index, group in enumerate(structures.classes, start=1) for value in group}
    for position, values in enumerate(structures.values.values()):
        table[1 << position : 2 << position] = home[values[0]]  # combinations in which this region is the last
    for index, row in enumerate(structures.membership):
        table[int((row << np.arange(len(row))).sum())] = index
    return torch.from_numpy(table)


def make_target(plan: Plan) -> Target:
    """Return what the outputs of the plan's network stand for."""
    return Regions(plan.structures) if plan.regions else Exclusive()
