"""Which gates could go: ranked by what their removal costs in Dice, with what it saves; sets of them are knocked out together."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, cast

import torch
from torch import Tensor

from se_med.data.case import Case
from se_med.explain.folding import fold_gates
from se_med.explain.knockout import Knockout, Knockouts, Removable, constant_variant, summarise
from se_med.explain.rescoring import OVER_STRUCTURES, measure_changes
from se_med.explain.timing import TIMING, Timing, time_folding
from se_med.inference.predictor import Predictor
from se_med.networks.cost import GateCost, measure_network
from se_med.networks.unet import UNet
from se_med.progress import Progress, silent

ALLOWED = 0.005
"""Dice that the removal of gates may cost unless something else is asked for."""
CONSTANTS = ("mean", "one")
"""Replacements that can be folded away."""


@dataclass(frozen=True)
class RankedGate:
    """A place whose gates could be removed. One row of a table.

    Attributes:
        gate: name of the place.
        block: name of its block.
        replacement: the constant that costs less in the place of the gates: their `mean`, or `one`.
        change: change of the mean Dice with it.
        low: lower end of its 95 % interval over cases; None with fewer than two cases.
        high: upper end.
        parameters: learned numbers that go with the gates.
        macs: multiplications with an addition that go with them, for one window of the size of the patch; elementwise operations
            and pooling, most of what a gate costs, are not counted.
        macs_percent: the same in percent of the whole network's.
        saved_ms: measured time that a window of the size of the patch takes less without the gates; None where they must stay.
        foldable: whether the constant can be folded exactly into the layers around the gates.
        reason: why not.
        modules: names of the gates.
    """

    gate: str
    block: str
    replacement: str
    change: float
    low: float | None
    high: float | None
    parameters: int
    macs: int
    macs_percent: float
    saved_ms: float | None
    foldable: bool
    reason: str
    modules: tuple[str, ...]


@dataclass(frozen=True)
class JointKnockout:
    """Several places replaced by constants together. One row of a table.

    Attributes:
        gates: names of the places, the least needed first.
        change: measured change of the mean Dice.
        low: lower end of its 95 % interval over cases; None with fewer than two cases.
        high: upper end.
        sum_of_changes: what the single changes add up to, for comparison.
        parameters: learned numbers that go.
        macs: multiplications that go, for one window.
    """

    gates: tuple[str, ...]
    change: float
    low: float | None
    high: float | None
    sum_of_changes: float
    parameters: int
    macs: int


@dataclass(frozen=True)
class Ranking:
    """Which gates could go.

    Attributes:
        rows: all places, the least needed first.
        joints: the least needed place, the two least needed, and so on, of those that can be folded.
        proposal: the largest of these sets that costs no more than allowed; None where there is none.
        allowed: Dice.
        timing: of the proposal; None without one.
        sentence: the proposal in words, with its caveats.
    """

    rows: tuple[RankedGate, ...]
    joints: tuple[JointKnockout, ...]
    proposal: JointKnockout | None
    allowed: float
    timing: Timing | None
    sentence: str

    def factors(self, means: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Return by name of the gate the constant that costs less in its place, its mean or 1, `(C,)` or `(1,)`."""
        return {
            name: means[name] if row.replacement == "mean" else torch.ones_like(means[name])
            for row in self.rows
            for name in row.modules
        }

    def to_dict(self) -> dict[str, Any]:
        """Return everything as JSON-able data."""
        return asdict(self)


def rank_gates(
    predictor: Predictor,
    cases: Sequence[Case],
    knockouts: Knockouts,
    means: Mapping[str, Tensor],
    *,
    allowed: float = ALLOWED,
    progress: Progress = silent,
) -> Ranking:
    """Rank gates by what replacing them by a constant costs, and find how many could go together.

    The constant is the mean of the gate's factor or 1, whichever costs less. The effect of several is not taken for the sum of
    single ones: all sets of the least needed are measured, in one further round over the cases.

    Args:
        predictor: of the network.
        cases: labelled cases; those of the knock-outs are used.
        knockouts: with the replacements `mean` and `one`, or one of them.
        means: by name of the gate, its mean factor.
        allowed: Dice that a set may cost, by the lower end of its interval.
        progress: told of the cases.

    Raises:
        ValueError: neither `mean` nor `one` was among the replacements.
    """
    chosen = {place.name: _cheaper(knockouts, place.name) for place in knockouts.places}
    rows = _rows(predictor, knockouts, means, chosen)
    ranked = tuple(sorted(rows, key=lambda row: -row.change))
    places = {place.name: place for place in knockouts.places}
    candidates = [row for row in ranked if row.foldable]
    factors = Ranking(ranked, (), None, allowed, None, "").factors(means)
    joints = _joints(predictor, cases, knockouts, factors, candidates, places, progress)
    proposal = next((one for one in reversed(joints) if _end(one) >= -allowed), None)
    timing = None if proposal is None else time_folding(predictor, [places[name] for name in proposal.gates], factors)
    sentence = _sentence(proposal, allowed, timing, ranked, len(knockouts.cases))
    return Ranking(ranked, tuple(joints), proposal, allowed, timing, sentence)


def _cheaper(knockouts: Knockouts, place: str) -> Knockout:
    """Return the row of the constant that costs less; of equal ones 1, which is no constant at all."""
    rows = [
        row for row in knockouts.rows if (row.gate, row.structure) == (place, OVER_STRUCTURES) and row.replacement in CONSTANTS
    ]
    if not rows:
        raise ValueError(f"{place}: no knock-out by {' or '.join(CONSTANTS)}")
    return max(rows, key=lambda row: (row.change, row.replacement == "one"))


def _rows(
    predictor: Predictor, knockouts: Knockouts, means: Mapping[str, Tensor], chosen: Mapping[str, Knockout]
) -> list[RankedGate]:
    costs, total = _costs(predictor, cast("UNet", predictor.network))
    rows = []
    for place in knockouts.places:
        row = chosen[place.name]
        factors = {name: means[name] if row.replacement == "mean" else torch.ones_like(means[name]) for name in place.gates}
        kept = fold_gates(cast("UNet", predictor.network), factors).kept
        mine = [costs[name.removeprefix("gates.")].cost for name in place.gates]
        macs = sum(cost.macs for cost in mine)
        timing = None if kept else time_folding(predictor, [place], factors, TIMING / len(knockouts.places))
        rows.append(
            RankedGate(
                gate=place.name,
                block=place.block,
                replacement=row.replacement,
                change=row.change,
                low=row.low,
                high=row.high,
                parameters=sum(cost.parameters for cost in mine),
                macs=macs,
                macs_percent=100 * macs / total,
                saved_ms=None if timing is None else timing.before_ms - timing.after_ms,
                foldable=not kept,
                reason=kept[0].reason if kept else "",
                modules=place.gates,
            )
        )
    return rows


def _costs(predictor: Predictor, network: UNet) -> tuple[dict[str, GateCost], int]:
    """Return the cost of each gate for one window, and the multiplications of the whole network."""
    found = measure_network(network, len(predictor.plan.channels), predictor.plan.patch, batch_size=2)
    return {gate.name: gate for stage in found.stages for gate in stage.gates}, max(1, found.total.macs)


def _joints(
    predictor: Predictor,
    cases: Sequence[Case],
    knockouts: Knockouts,
    factors: Mapping[str, Tensor],
    candidates: Sequence[RankedGate],
    places: Mapping[str, Removable],
    progress: Progress,
) -> list[JointKnockout]:
    chosen = [case for case in cases if case.name in set(knockouts.cases)]
    sets = [candidates[:count] for count in range(1, len(candidates) + 1)]
    rank = len(predictor.plan.patch)
    variants = [constant_variant([places[row.gate] for row in rows], factors, rank) for rows in sets[1:]]
    measured = measure_changes(predictor, chosen, variants, progress=progress) if variants else None
    joints = []
    for index, rows in enumerate(sets):
        if index == 0 or measured is None:
            found: tuple[float, float | None, float | None] = (rows[0].change, rows[0].low, rows[0].high)
        else:
            summary = summarise(measured.baseline, measured.changes[index - 1], "", "", "constant")[0]
            found = summary.change, summary.low, summary.high
        joints.append(
            JointKnockout(
                tuple(row.gate for row in rows),
                *found,
                sum(row.change for row in rows),
                sum(row.parameters for row in rows),
                sum(row.macs for row in rows),
            )
        )
    return joints


def _end(joint: JointKnockout) -> float:
    return joint.change if joint.low is None else joint.low


def _sentence(
    proposal: JointKnockout | None, allowed: float, timing: Timing | None, ranked: Sequence[RankedGate], cases: int
) -> str:
    fixed = sum(not row.foldable for row in ranked)
    rest = f" {fixed} of {len(ranked)} places cannot be folded exactly and were not considered." if fixed else ""
    if proposal is None or timing is None:
        return f"No gate could go at no more than {allowed:g} Dice on these {cases} cases.{rest}"
    interval = "" if proposal.low is None or proposal.high is None else f" [{proposal.low:+.4f}, {proposal.high:+.4f}]"
    constants = {row.gate: "its mean" if row.replacement == "mean" else "1" for row in ranked}
    told = ", ".join(f"{gate} by {constants[gate]}" for gate in proposal.gates)
    return (
        f"{len(proposal.gates)} of {len(ranked)} places could go at no more than {allowed:g} Dice: replaced ({told}), together "
        f"they change it by {proposal.change:+.4f}{interval} on {cases} cases (single changes add up to "
        f"{proposal.sum_of_changes:+.4f}). That saves {proposal.parameters} parameters; a window takes {timing.after_ms:.1f} ms "
        f"in place of {timing.before_ms:.1f} ms (measured on this machine as it was: medians of {timing.trials}, "
        f"{timing.threads} thread{'s' if timing.threads > 1 else ''}). They were chosen and measured on the same cases, which "
        f"flatters them; a network trained without them may do better or worse.{rest}"
    )
