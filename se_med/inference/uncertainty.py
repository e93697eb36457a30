"""How unsure a network is of each voxel, from its probabilities."""

from __future__ import annotations

import math

import torch
from torch import Tensor


def entropy(probabilities: Tensor, *, exclusive: bool) -> Tensor:
    """Return the entropy of each voxel as a share of the largest there is: 0 sure, 1 all alike.

    Args:
        probabilities: (outputs, *S).
        exclusive: the outputs are classes that exclude each other. Otherwise they are regions, each with its own probability,
            and the mean of their entropies is returned.

    Returns:
        (*S), float32.
    """
    outputs = len(probabilities)
    total = torch.zeros(probabilities.shape[1:])
    for one in probabilities:
        total -= torch.xlogy(one, one)
        if not exclusive:
            total -= torch.xlogy(1 - one, 1 - one)
    return total / (math.log(outputs) if exclusive else outputs * math.log(2))
