"""The functions that turn an excitation into a gate."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor


def double_sigmoid(logits: Tensor) -> Tensor:
    """Return 2 sigmoid(logits): between 0 and 2, and 1 at 0."""
    return 2 * torch.sigmoid(logits)


GATE_FUNCTIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "sigmoid": torch.sigmoid,
    "hard_sigmoid": F.hardsigmoid,
    "tanh": torch.tanh,
    "relu": F.relu,
    "2sigmoid": double_sigmoid,
}
