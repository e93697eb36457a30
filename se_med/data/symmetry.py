"""Decides from label statistics along which axes a data set may be mirrored.

Structures with a side or a direction (left and right, anterior and posterior) lose what tells them apart when they are flipped:
on the hippocampus, flips along all axes, the field's default, cost Dice. Whether there is such a direction shows in the
labels: if structure B lies on the same side of structure A in nearly every case, the axis has a direction.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np

from se_med.data.fingerprint import Fingerprint

CONSISTENT = 0.8
"""Share of the cases in which one structure must lie on the same side of another to show a direction."""
SAME_PLACE = 0.5
"""Distance between two centres, in voxels, below which neither is on a side of the other."""
AXIS_NAMES = ("left-right", "posterior-anterior", "inferior-superior")


@dataclass(frozen=True)
class Side:
    """How consistently one structure lies on one side of another along an axis.

    Attributes:
        axis: RAS axis.
        first: name of a structure.
        second: name of the structure that lies towards right, anterior or superior of it (or the reverse) most often.
        share: share of the cases with both in which the more frequent order is seen; 0 where no case has both.
        cases: number of cases with both.
    """

    axis: int
    first: str
    second: str
    share: float
    cases: int


def find_sides(fingerprint: Fingerprint, axis: int) -> list[Side]:
    """Compare the centres of every pair of structures that occur in the data set along one RAS axis."""
    sides = []
    for (first, a), (second, b) in combinations(_occurring(fingerprint), 2):
        steps = np.array(
            [
                (case.centroids[b][axis] - case.centroids[a][axis]) / case.spacing[axis]
                for case in fingerprint.cases
                if a in case.centroids and b in case.centroids
            ]
        )
        order = max(np.count_nonzero(steps > SAME_PLACE), np.count_nonzero(steps < -SAME_PLACE))
        sides.append(Side(axis, first, second, float(order / len(steps)) if len(steps) else 0.0, len(steps)))
    return sides


def choose_flips(fingerprint: Fingerprint, axes: Sequence[int]) -> tuple[tuple[int, ...], str]:
    """Return the axes that may be flipped, and why.

    An axis is flipped unless the centres of some pair of structures are in the same order along it in at least 80 % of the cases
    that have both. A pair that no case has together may be two sides of one organ, one per volume: no axis is flipped then.
    A single structure has no other to be on a side of, so all axes are flipped. This is the rule's blind spot: an organ that
    always lies on the left, or a structure that was named after its side in every volume, is flipped too; say
    `augmentation.flip.axes: []` there. Where the rule errs the other way, as with few cases, an augmentation is lost but no
    label is made wrong.

    Args:
        fingerprint: centres of the structures of every case.
        axes: RAS axes that the network sees.
    """
    if len(_occurring(fingerprint)) == 1:
        return tuple(axes), "all axes: a single structure has no other to lie on a side of"
    allowed, reasons = [], []
    for axis in axes:
        sides = find_sides(fingerprint, axis)
        apart = [side for side in sides if side.cases == 0]
        if apart:
            pair = f"{apart[0].first} and {apart[0].second}"
            return (), f"none: {pair} never occur in the same case, they may be two sides of one organ"
        clearest = max(sides, key=lambda side: side.share)
        pair = f"{clearest.first} and {clearest.second} in the same order in {clearest.share:.0%} of {clearest.cases} cases"
        if clearest.share >= CONSISTENT:
            reasons.append(f"not {AXIS_NAMES[axis]} ({pair})")
        else:
            allowed.append(axis)
            reasons.append(f"{AXIS_NAMES[axis]} (at most {pair})")
    return tuple(allowed), "; ".join(reasons)


def _occurring(fingerprint: Fingerprint) -> list[tuple[str, int]]:
    """Return name and value of the structures that at least one case has."""
    found = {value for case in fingerprint.cases for value in case.centroids}
    return [(name, value) for name, value in fingerprint.labels.items() if value in found]
