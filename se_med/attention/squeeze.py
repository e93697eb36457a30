"""From a map to one number per channel: the squeezes that channel gates choose from."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from se_med.attention.gate import wide

STD_EPSILON = 1e-8
"""Added to the variance below the root, whose slope is infinite at 0."""


def mean(x: Tensor) -> Tensor:
    """Return the mean of each channel, ``(B, C, *spatial)`` to ``(B, C)``."""
    return x.mean(_axes(x), dtype=wide(x.dtype))


def maximum(x: Tensor) -> Tensor:
    """Return the maximum of each channel, ``(B, C, *spatial)`` to ``(B, C)``."""
    return x.amax(_axes(x)).to(wide(x.dtype))


def std(x: Tensor) -> Tensor:
    """Return the standard deviation of each channel (divided by N), ``(B, C, *spatial)`` to ``(B, C)``."""
    # About three times faster than torch.var, which does not reduce inner axes in vectors.
    centred = x - x.mean(_axes(x), keepdim=True, dtype=wide(x.dtype))
    return torch.sqrt(centred.square().mean(_axes(x)) + STD_EPSILON)


SQUEEZES: dict[str, tuple[Callable[[Tensor], Tensor], ...]] = {
    "avg": (mean,),
    "max": (maximum,),
    "std": (std,),
    "avg+max": (mean, maximum),
}
"""The descriptors of each squeeze; two descriptors share one MLP, whose outputs are summed, as in CBAM."""


def _axes(x: Tensor) -> tuple[int, ...]:
    return tuple(range(2, x.ndim))
