"""Gates by class: how a gate weighs the channels where a structure is, and whether classes are told apart."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from se_med.explain.collect import CaseGates, region_kind
from se_med.explain.gates import GateSite
from se_med.explain.statistics import SMALL, scale

SEPARATING = 0.5
"""Share of the variance that classes must explain for a gate to be called class-separating."""

View = Literal["regions", "windows"]
"""Where a class is looked at: in its own region, or in all windows that it is present in."""
Numbers = NDArray[np.float64]


@dataclass(frozen=True)
class Profile:
    """One gate by class, after section 7 of Hu et al. (arXiv 1709.01507v4).

    Attributes:
        gate: the gate.
        view: where classes are looked at.
        kind: `squeezed`, `mean` (see `collect.region_kind`), or `presence` for windows.
        classes: background and structures, in the order of the rows.
        cases: number of cases with the class, (classes,).
        mean: mean over cases, (classes, C); NaN for a class that no case has.
        deviation: standard deviation over the cases of a class, (classes, C); NaN with fewer than two cases.
        separation: adjusted share of variance between all classes, 0 to 1; NaN where it cannot be computed.
        structures_separation: the same between structures alone, without the background.
        distance: standard deviation between class means as a share of the range, over all channels.
        separating: whether the gate tells classes apart.
    """

    gate: GateSite
    view: View
    kind: str
    classes: tuple[str, ...]
    cases: tuple[int, ...]
    mean: Numbers
    deviation: Numbers
    separation: float
    structures_separation: float
    distance: float
    separating: bool

    @property
    def sentence(self) -> str:
        """What the gate says about classes."""
        if np.isnan(self.separation):
            return "Too few classes or cases to tell."
        size = f"classes explain {self.separation:.0%} of the variance, and differ by {self.distance:.2%} of the range"
        return f"{'Tells classes apart' if self.separating else 'Does not tell classes apart'}: {size}."


def profile(gate: GateSite, cases: Sequence[CaseGates], classes: Sequence[str], view: View) -> Profile | None:
    """Return the profile of a gate; None where this view of it does not exist.

    Args:
        gate: the gate.
        cases: what was collected.
        classes: names of background and structures.
        view: where classes are looked at.
    """
    records = [case.gates[gate.name] for case in cases if gate.name in case.gates]
    if not records or (view == "regions" and not region_kind(gate)):
        return None
    values = np.stack([getattr(record, view).means for record in records])  # (cases, classes, C)
    there = np.isfinite(values[:, :, 0])
    if not there.any():
        return None
    counts = there.sum(0)
    with np.errstate(invalid="ignore", divide="ignore"):
        total = np.where(there[..., None], values, 0).sum(0)
        mean = np.where(counts[:, None] > 0, total / counts[:, None], np.nan)
        squares = np.where(there[..., None], (values - mean) ** 2, 0).sum(0)
        deviation = np.where(counts[:, None] > 1, np.sqrt(squares / (counts[:, None] - 1)), np.nan)
    range_ = scale(gate, float(np.abs(values[there]).mean()))
    known = mean[counts > 0]
    distance = float(np.sqrt(known.var(0).mean())) / range_ if len(known) > 1 else float("nan")
    separation = separate(values)
    return Profile(
        gate,
        view,
        region_kind(gate) if view == "regions" else "presence",
        tuple(classes),
        tuple(int(count) for count in counts),
        mean,
        deviation,
        separation,
        separate(values[:, 1:]),
        distance,
        bool(separation >= SEPARATING and distance >= SMALL),
    )


def separate(values: Numbers) -> float:
    """Return epsilon squared of a one-way analysis of variance, all channels taken together.

    1 - (within / (N - S)) / (total / (N - 1)), with sums of squares over N observations (a class in a case) of S classes, added
    over channels: 0 where classes differ no more than chance lets them, 1 where they explain everything. The share itself,
    without the degrees of freedom, would be (S - 1) / (N - 1) by chance alone.

    Args:
        values: (cases, classes, C); NaN where a case lacks a class.

    Returns:
        0 to 1; NaN with fewer than two classes, or no class seen twice. 0 where nothing varies.
    """
    there = np.isfinite(values[:, :, 0]) if values.size else np.zeros(values.shape[:2], np.bool_)
    counts = there.sum(0)
    observations, classes = int(counts.sum()), int((counts > 0).sum())
    if classes < 2 or observations <= classes:
        return float("nan")
    within, seen = 0.0, values[there]
    for index in np.flatnonzero(counts):
        mine = values[there[:, index], index]
        within += float(((mine - mine.mean(0)) ** 2).sum())
    total = float(((seen - seen.mean(0)) ** 2).sum())
    if total <= 1e-14 * max(1.0, float((seen**2).sum())):  # rounding
        return 0.0
    return float(np.clip(1 - (within / (observations - classes)) / (total / (observations - 1)), 0, 1))


def best_view(gate: GateSite) -> View:
    """Return the view that says most about a gate: its regions, or windows where it has none."""
    return "regions" if region_kind(gate) else "windows"
