"""How much faster a window is without some gates, measured."""

from __future__ import annotations

import statistics
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import cast

import torch
from torch import Tensor

from se_med.explain.folding import fold_gates
from se_med.explain.knockout import Removable
from se_med.inference.member import Member
from se_med.inference.predictor import Predictor
from se_med.networks.unet import UNet

TRIALS, LEAST_TRIALS = 7, 3
"""Timed passes of each of two networks in turn; of large ones fewer, so that a ranking spends about `TIMING` seconds on them."""
TIMING = 60.0


@dataclass(frozen=True)
class Timing:
    """Time of one window of the size of the patch, alone, without and with the gates.

    Attributes:
        before_ms: median with all gates.
        after_ms: median with constants for some gates, folded away.
        trials: timed passes of each, in turn.
        threads: that torch computed with.
    """

    before_ms: float
    after_ms: float
    trials: int
    threads: int


def time_folding(
    predictor: Predictor, places: Sequence[Removable], factors: Mapping[str, Tensor], budget: float = TIMING
) -> Timing:
    """Time one window with all gates and with constants for those of some places, in turn, on this machine as it is now.

    Args:
        predictor: of the network.
        places: what is folded away.
        factors: by name of the gate, its constant.
        budget: seconds after which no further trials are made, but for the least number.
    """
    member = predictor.members[0]
    network = cast("UNet", member.network)
    folded = fold_gates(network, {name: factors[name] for place in places for name in place.gates}).network
    window = torch.randn(1, len(predictor.plan.channels), *predictor.plan.patch, generator=torch.Generator().manual_seed(0))
    spent: tuple[list[float], list[float]] = ([], [])
    start = time.perf_counter()
    with torch.inference_mode():
        for trial in range(TRIALS + 1):
            if trial > LEAST_TRIALS and time.perf_counter() - start > budget:
                break
            for seconds, one in zip(spent, (network, folded), strict=True):
                before = time.perf_counter()
                _forward(member, one, window)
                if trial:  # the first pass of each sets things up
                    seconds.append(time.perf_counter() - before)
    medians = [1000 * statistics.median(seconds) for seconds in spent]
    return Timing(medians[0], medians[1], len(spent[0]), torch.get_num_threads())


def _forward(member: Member, network: UNet, window: Tensor) -> None:
    own = member.network
    member.network = network.eval()
    try:
        member.forward(window)
    finally:
        member.network = own
