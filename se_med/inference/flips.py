"""Test-time flips: a volume is segmented mirrored too, and the probabilities are averaged."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from itertools import chain, combinations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from se_med.config.experiment import Config
from se_med.errors import UsageError


def choose_test_time_flips(config: Config) -> tuple[int, ...]:
    """Return the axes (RAS) to flip at test time: only such as were flipped in training, for the network knows no other.

    Args:
        config: the effective configuration, in which `augmentation.flip.axes` is set.

    Raises:
        UsageError: `inference.test_time_flips` names an axis that was not flipped in training.
    """
    wanted, flip = config.inference.test_time_flips, config.augmentation.flip
    trained = (flip.axes or ()) if flip.probability > 0 else ()
    if isinstance(wanted, bool):
        return tuple(sorted(trained)) if wanted else ()
    strange = [axis for axis in wanted if axis not in trained]
    if strange:
        raise UsageError(
            f"inference.test_time_flips: axis {strange[0]} was not flipped in training (augmentation.flip: {list(trained)}); "
            "remove it, or use true for all axes that were"
        )
    return tuple(sorted(set(wanted)))


def mean_over_flips(segment: Callable[[NDArray[np.float32]], Tensor], image: NDArray[np.float32], axes: Sequence[int]) -> Tensor:
    """Segment a volume once per combination of flips and average the probabilities.

    Args:
        segment: takes (C, X, Y, Z) to logits (classes, X, Y, Z).
        image: (C, X, Y, Z).
        axes: spatial axes that are flipped; n axes make 2^n passes. Without axes the logits of the one pass are returned.

    Returns:
        Logarithms of the mean probabilities, (classes, X, Y, Z): logits like any other, whose softmax is that mean.
    """
    logits = segment(image)
    if not axes:
        return logits
    total = torch.log_softmax(logits, 0)
    for subset in chain.from_iterable(combinations(axes, count) for count in range(1, len(axes) + 1)):
        dims = tuple(axis + 1 for axis in subset)
        logits = segment(np.ascontiguousarray(np.flip(image, dims))).flip(dims)
        torch.logaddexp(total, torch.log_softmax(logits, 0), out=total)
    return total.sub_(len(axes) * math.log(2))
