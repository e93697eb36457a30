"""The control for size: a plain network widened until it has as many parameters as the network with attention."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator

from se_med.config.attention import AttentionConfig
from se_med.config.network import NetworkConfig
from se_med.networks.build import count_parameters

Widths = tuple[int, ...]

FACTOR_STEP = 1.01
"""Ratio of two factors that are tried one after the other."""
MOST_WIDENING = 64.0


def widen(network: NetworkConfig, in_channels: int, num_classes: int, parameters: int) -> tuple[NetworkConfig, int]:
    """Widen all stages of a plain network alike, and then some by single channels, to come near to a number of parameters.

    Channels are whole numbers, so the number is met within some tenths of a percent where gates are small, and nearer where the
    network gets much wider. Of networks that are equally near, the one with the fewest parameters is taken.

    Args:
        network: the network, features and all filled in.
        in_channels: channels of the image.
        num_classes: classes, background included.
        parameters: the number to come near to.

    Returns:
        The network with other features, none of them narrower than before, and its number of parameters.
    """
    features = network.features or ()
    plain = AttentionConfig()

    def count(widths: Widths) -> int:
        return count_parameters(network.model_copy(update={"features": widths}), plain, in_channels, num_classes)

    widths = _largest_below(features, parameters, count)
    found = {widths: count(widths)}

    def rank(candidate: Widths) -> tuple[int, int]:
        if candidate not in found:
            found[candidate] = count(candidate)
        return abs(found[candidate] - parameters), found[candidate]

    while True:
        best = min((widths, *_neighbours(widths, features)), key=rank)
        if best == widths:
            return network.model_copy(update={"features": widths}), found[widths]
        widths = best


def _neighbours(widths: Widths, narrowest: Widths) -> Iterator[Widths]:
    """Yield the widths in which one stage, or two, are a channel wider or narrower, but none narrower than at first."""
    stages = range(len(widths))
    moves = [{stage: step} for stage in stages for step in (1, -1)]
    moves += [one | other for one, other in itertools.combinations(moves, 2) if one.keys() != other.keys()]
    for move in moves:
        moved = tuple(width + move.get(stage, 0) for stage, width in enumerate(widths))
        if all(width >= least for width, least in zip(moved, narrowest, strict=True)):
            yield moved


def _largest_below(features: Widths, parameters: int, count: Callable[[Widths], int]) -> Widths:
    """Return the features times the largest factor, rounded down, that has no more parameters than asked for."""
    widths, factor = features, 1.0
    while factor < MOST_WIDENING:
        factor *= FACTOR_STEP
        wider = tuple(int(width * factor) for width in features)
        if wider != widths:
            if count(wider) > parameters:
                break
            widths = wider
    return widths
