"""From what a gate did on all cases to a few numbers and a verdict: does it depend on the input?"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from se_med.explain.collect import CaseGates, GateCase
from se_med.explain.gates import GateSite

CONSTANT = 1e-6
"""Standard deviation, as a share of the range, up to which differences are rounding."""
SMALL = 0.01
"""Standard deviation, as a share of the range, below which a gate is called nearly constant."""
DEAD = 0.01
"""Largest factor, as a share of the range, of a channel that is called dead: no voxel of any case passes with more."""

Verdict = Literal["depends", "nearly constant", "constant", "dead", "unknown", "no gate"]


@dataclass(frozen=True)
class GateStatistics:
    """What one gate does.

    Its factor g differs between channels c, cases k and positions p (voxels; of channel gates, windows). With m(k, c) its mean
    and v(k, c) its variance over the positions of a case, the variance of g splits into three parts that add up:
    Var_c(mean_k m), mean_c(Var_k m) and mean(v). All cases count alike.

    Attributes:
        gate: the gate.
        channels: number of factors per voxel: its channels, or 1.
        cases: number of cases.
        mean: mean of m.
        low: smallest factor of all.
        high: largest factor of all.
        over_channels: standard deviation between channels, the root of the first part.
        over_cases: standard deviation between cases, the root of the second.
        over_positions: standard deviation within cases, the root of the third.
        below: share of factors in the lowest 5 % of the range; NaN without a range.
        above: share in the highest 5 %.
        dead_channels: channels whose factor is nowhere above 1 % of the range.
        verdict: see `judge`.
        sentence: the verdict in words, with its numbers.
    """

    gate: GateSite
    channels: int
    cases: int
    mean: float
    low: float
    high: float
    over_channels: float
    over_cases: float
    over_positions: float
    below: float
    above: float
    dead_channels: int
    verdict: Verdict
    sentence: str

    @property
    def share_of_cases(self) -> float:
        """Share of all variance that the case explains, eta squared of a nested analysis of variance; NaN without variance."""
        return _share(self.over_cases, self.over_channels, self.over_cases, self.over_positions)

    @property
    def share_of_channels(self) -> float:
        """Share of all variance that is between channels and the same for all inputs."""
        return _share(self.over_channels, self.over_channels, self.over_cases, self.over_positions)

    @property
    def share_of_positions(self) -> float:
        """Share of all variance that is within cases."""
        return _share(self.over_positions, self.over_channels, self.over_cases, self.over_positions)

    @property
    def over_inputs(self) -> float:
        """Standard deviation that comes from the input: between cases and within them."""
        return float(np.hypot(self.over_cases, self.over_positions))


def gate_statistics(gate: GateSite, cases: Sequence[CaseGates]) -> GateStatistics:
    """Return the statistics of one gate.

    Args:
        gate: the gate.
        cases: what was collected.
    """
    records = [case.gates[gate.name] for case in cases if gate.name in case.gates]
    if not records:
        nan = float("nan")
        return GateStatistics(gate, 0, 0, nan, nan, nan, nan, nan, nan, nan, nan, 0, "no gate", gate.reason or "It never ran.")
    means = case_means(records)
    variances = np.stack([record.moments.variance for record in records])
    channels = float(means.mean(0).std())
    between, within = (float(np.sqrt(part)) for part in (means.var(0).mean(), variances.mean()))
    low, high = (np.stack([getattr(record.moments, name) for record in records]) for name in ("low", "high"))
    counts = np.array([record.moments.count for record in records])[:, None]
    below, above = (
        float((np.stack([getattr(record.moments, name) for record in records]) / counts).mean()) for name in ("below", "above")
    )
    range_ = scale(gate, float(np.abs(means).mean()))
    dead = int((np.maximum(high.max(0), -low.min(0)) < DEAD * range_).sum())
    observations = len(records) * max(int(counts.max()), 1)
    verdict, sentence = judge(gate, between, within, range_, dead == means.shape[1], observations)
    return GateStatistics(
        gate,
        means.shape[1],
        len(records),
        float(means.mean()),
        float(low.min()),
        float(high.max()),
        channels,
        between,
        within,
        below,
        above,
        dead,
        verdict,
        sentence,
    )


def judge(gate: GateSite, between: float, within: float, span: float, dead: bool, observations: int) -> tuple[Verdict, str]:
    """Return whether a gate depends on the input, and a sentence.

    With d the standard deviation that comes from the input, the root of the variances between and within cases: up to a
    millionth of the range the gate is constant, below a hundredth nearly constant, otherwise it depends on the input. A gate
    that lets nothing through is dead, whatever d.

    Args:
        gate: the gate.
        between: standard deviation over cases at fixed channel.
        within: standard deviation over the positions of a case.
        span: the range of the factor.
        dead: no channel passes anything.
        observations: how many factors there are per channel.
    """
    spread = float(np.hypot(between, within))
    if dead:
        return "dead", f"No factor is above {DEAD:.0%} of the range: nothing passes this gate."
    if observations < 2:
        return "unknown", "One case in one window: whether the gate depends on the input cannot be seen."
    amount = f"{spread:.2g}, {spread / span:.2%} of the range" if spread > CONSTANT * span else "none"
    if spread <= CONSTANT * span:
        return "constant", "The factors are the same for every input: this is no attention, but a learned scale per channel."
    if spread < SMALL * span:
        return "nearly constant", f"The factors hardly depend on the input (standard deviation {amount})."
    unit = "from window to window" if gate.uniform else "from voxel to voxel"
    source = f"mostly {unit} within a case" if within > between else "mostly from case to case"
    return "depends", f"The factors depend on the input (standard deviation {amount}), {source}."


def with_parts(one: GateStatistics, others: Iterable[GateStatistics]) -> GateStatistics:
    """Return the statistics of a gate with a verdict that takes those of its parts into account.

    Max-out takes the larger part where a feature is positive and the smaller one where it is negative. With two parts that hardly
    depend on the input its factor still changes from voxel to voxel, by the sign of the feature alone: that is an activation of a
    learned slope, and no attention.

    Args:
        one: of a gate.
        others: of all gates, the parts of this one among them.
    """
    parts = [other for other in others if other.gate.part and other.gate.name.rpartition(".")[0] == one.gate.name]
    still = ("nearly constant", "constant", "dead")
    if one.verdict != "depends" or len(parts) < 2 or any(part.verdict not in still for part in parts):
        return one
    sentence = (
        f"Neither of its parts depends on the input by more than {SMALL:.0%} of the range. The factor changes (standard "
        f"deviation {one.over_inputs:.2g}) because the block takes one part where a feature is positive and the other where it "
        "is negative: a learned slope, and no attention."
    )
    return replace(one, verdict="nearly constant", sentence=sentence)


def case_means(records: Sequence[GateCase]) -> NDArray[np.float64]:
    """Return the mean factor of every case, (cases, C)."""
    return np.stack([record.moments.mean for record in records])


def scale(gate: GateSite, typical: float) -> float:
    """Return the range of a gate's factor before any blend with the identity; of one without bounds its typical size."""
    low, high = gate.full_bounds
    span = high - low
    return span if np.isfinite(span) else max(typical, 1e-12)


def _share(part: float, *parts: float) -> float:
    total = sum(one**2 for one in parts)
    return part**2 / total if total > 0 else float("nan")
