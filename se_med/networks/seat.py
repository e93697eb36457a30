"""The seat of a gate inside a unit: where it stands and what it squeezes; and the call that passes a map through it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from torch import Tensor

from se_med.attention import Gate
from se_med.attention.squeezing import SqueezingGate

Masks = Mapping[tuple[int, ...], Tensor]
"""By spatial size, the mask of the voxels that squeezes count, ``(B or 1, 1, *spatial)``."""


@dataclass(frozen=True)
class Seat:
    """Where in a unit a gate stands.

    Attributes:
        placement: ``standard``, ``pre``, ``post``, ``identity`` or ``conv3``; see the unit's class for what it has.
        squeeze_from: ``pre_norm``, ``post_norm`` or ``post_act``: the map before the weighed one that is squeezed in its place;
            None for the weighed map itself.
    """

    placement: str
    squeeze_from: str | None = None


def pass_gate(gate: Gate | None, x: Tensor, source: Tensor | None = None, masks: Masks | None = None) -> Tensor:
    """Return ``x`` as ``gate`` weighs it; ``x`` itself where there is no gate.

    Args:
        gate: a block with one input map.
        x: the map that is weighed, ``(B, C, *spatial)``.
        source: the map that is squeezed in place of ``x``; for a SqueezingGate.
        masks: what squeezes count, for the blocks that take a mask.
    """
    if gate is None:
        return x
    mask = masks.get(tuple(x.shape[2:])) if masks else None
    more = (source, mask) if isinstance(gate, SqueezingGate) and (source is not None or mask is not None) else ()
    weighed: Tensor = gate(x, *more)
    return weighed
