"""How a volume goes through the networks within the memory there is: in one piece, or in windows, several at a time or one."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from se_med.config.inference import InferenceConfig
from se_med.data.grids import Grids
from se_med.inference.member import Member, common_divisor, largest_reach, largest_shifts
from se_med.inference.memory import SURELY_PER_VOXEL, Work, needed_bytes
from se_med.inference.tiling import Shape, Tiling, tile, whole_window

WHOLE = 1.5
"""A volume passes in one piece only where it is at most this many times the patch along each axis."""
SAVED_WINDOWS = 4
"""And only where it saves as many windows: the mean over two windows was a little better than one piece, at little cost."""


@dataclass(frozen=True)
class Extras:
    """What a prediction keeps beside the classes.

    Attributes:
        probabilities: number of probability maps.
        uncertainty: keep maps of entropy and disagreement.
        corrected: components or holes of structures are searched for.
        read: the volume itself is in memory.
    """

    probabilities: int = 0
    uncertainty: bool = False
    corrected: bool = False
    read: bool = True


@dataclass(frozen=True)
class Fit:
    """How a volume goes through.

    Attributes:
        tilings: the windows of each group of networks.
        batch: windows that pass together.
        needed: bytes that it takes, by estimate.
    """

    tilings: tuple[Tiling, ...]
    batch: int
    needed: int


def fit(
    groups: Sequence[Sequence[Member]], grids: Sequence[Grids], inference: InferenceConfig, extras: Extras, limit: float
) -> Fit:
    """Choose the fastest way that takes no more memory than there is; if none does, the one that takes least.

    The ways are, in this order: volumes that are not much larger than a patch in one piece, if the configuration allows it (see
    WHOLE and SAVED_WINDOWS; one that only test-time shifts make larger always is); windows, `window_batch` together; one window
    after the other.

    Args:
        groups: networks that see the same windows.
        grids: of the volume, for each group.
        inference: the configuration.
        extras: what else is kept.
        limit: bytes.
    """
    batch = inference.window_batch
    found: Fit | None = None
    for whole, together in ((True, batch), (False, batch), (False, 1)):
        if whole and inference.whole_volume == "never":
            continue
        tilings: list[Tiling] = []
        for members, grid in zip(groups, grids, strict=True):
            tilings.append(_tile(members, grid.shape, inference.overlap, together, whole, tilings[0].axis if tilings else None))
        needed = _needed(groups, grids, tilings, together, extras, limit)
        found = Fit(tuple(tilings), together, needed)
        if needed <= limit:
            break
    if found is None:
        raise ValueError("no way through")
    return found


def _tile(members: Sequence[Member], shape: Shape, overlap: float, batch: int, whole: bool, axis: int | None) -> Tiling:
    window, margins = members[0].window, largest_shifts(members)
    usual = tile(shape, window, margins, overlap, batch, axis)
    piece = whole_window(shape, window, margins, common_divisor(members), WHOLE) if whole else None
    fits = all(length <= size or size == 1 for length, size in zip(shape, window, strict=True))
    if piece is None or not (fits or usual.per_plane >= SAVED_WINDOWS):
        return usual
    return tile(shape, piece, margins, overlap, batch, axis)


def _needed(
    groups: Sequence[Sequence[Member]],
    grids: Sequence[Grids],
    tilings: Sequence[Tiling],
    batch: int,
    extras: Extras,
    limit: float,
) -> int:
    several = sum(member.count for members in groups for member in members) > 1
    for known in (False, True):  # networks are asked only where it matters
        works = [
            Work(
                grids=grid,
                channels=len(members[0].plan.channels),
                arrays=len({member.normalisation for member in members}),
                tiling=tiling,
                batch=batch,
                outputs=members[0].plan.num_classes + (extras.uncertainty and several),
                passes=sum(member.count for member in members),
                views=max(member.views for member in members),
                per_voxel=max(member.per_voxel for member in members) if known else SURELY_PER_VOXEL,
                reach=largest_reach(members),
            )
            for members, grid, tiling in zip(groups, grids, tilings, strict=True)
        ]
        needed = needed_bytes(
            works,
            read=extras.read,
            outputs=extras.probabilities,
            maps=(1 + several) * extras.uncertainty,
            corrected=extras.corrected,
        )
        if needed <= limit:
            break
    return needed
