"""Gates knocked out at test time: replaced by their mean, by 1, or by the factor of another case; and what that costs in Dice."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import stats
from torch import Tensor

from se_med.data.case import Case
from se_med.explain.collect import CaseGates
from se_med.explain.gates import GateSite, find_gates
from se_med.explain.rescoring import OVER_STRUCTURES, Changes, draw_cases, measure_changes
from se_med.explain.variants import Variant
from se_med.inference.predictor import Predictor
from se_med.progress import Progress, silent

REPLACEMENTS = ("mean", "one", "shuffled")
"""What takes the place of a gate's factor: its mean over cases and space; 1; the factor that it has for another case."""
CONFIDENCE = 0.95
CAVEAT = (
    "Intervals are 95 % t intervals over the cases of this one trained network, paired by case. They say nothing about "
    "retraining without the gate, and nothing about the luck of a run: another seed may give another ranking."
)


@dataclass(frozen=True)
class Removable:
    """Gates that the configuration can only remove together: those of one site and stage.

    Attributes:
        name: the place in words, `encoder 0`; the module's name in a network that is not ours.
        site: as the configuration names it.
        stage: stage of the site.
        block: the block's name.
        gates: names of the modules: one, or one for each unit where gates stand inside units.
    """

    name: str
    site: str
    stage: int | None
    block: str
    gates: tuple[str, ...]


@dataclass(frozen=True)
class Knockout:
    """What one replacement does to one structure. One row of a table.

    Attributes:
        gate: name of the place, see `Removable`.
        block: name of its block.
        replacement: `mean`, `one` or `shuffled`.
        structure: a structure, or `mean` for the mean over the structures of a case.
        cases: number of cases with a score.
        dice: mean Dice of the network as it is.
        change: mean over cases of Dice with the replacement minus Dice without.
        low: lower end of the 95 % interval of the change over cases; None with fewer than two cases.
        high: upper end.
    """

    gate: str
    block: str
    replacement: str
    structure: str
    cases: int
    dice: float
    change: float
    low: float | None
    high: float | None


@dataclass(frozen=True, eq=False)
class Knockouts:
    """All knock-outs of a network.

    Attributes:
        rows: one per place, replacement and structure, the mean over structures first.
        changes: by place and replacement, the change of each case.
        places: what was knocked out, in the order in which a map passes them.
        cases: names of the cases.
        available: how many cases there were to choose from.
        notes: sentences to show with the table.
    """

    rows: tuple[Knockout, ...]
    changes: Mapping[tuple[str, str], Changes]
    places: tuple[Removable, ...]
    cases: tuple[str, ...]
    available: int
    notes: tuple[str, ...]

    def row(self, gate: str, replacement: str, structure: str = OVER_STRUCTURES) -> Knockout:
        """Return one row.

        Raises:
            KeyError: there is none.
        """
        for row in self.rows:
            if (row.gate, row.replacement, row.structure) == (gate, replacement, structure):
                return row
        raise KeyError((gate, replacement, structure))

    def to_dict(self) -> dict[str, Any]:
        """Return everything as JSON-able data, without the changes of single cases."""
        return {
            "rows": [asdict(row) for row in self.rows],
            "cases": list(self.cases),
            "available": self.available,
            "notes": list(self.notes),
        }


def removable_gates(gates: Iterable[GateSite]) -> tuple[Removable, ...]:
    """Return what can be knocked out, in the order in which a map passes it; gates without a factor are left out."""
    grouped: dict[tuple[str, int | None], list[GateSite]] = {}
    for gate in gates:
        if gate.weighed != "nothing":
            grouped.setdefault((gate.site, gate.stage), []).append(gate)
    return tuple(
        Removable(
            f"{site} {stage}" if stage is not None else members[0].name,
            site,
            stage,
            members[0].block,
            tuple(gate.name for gate in members),
        )
        for (site, stage), members in grouped.items()
    )


def knock_out(
    predictor: Predictor,
    cases: Sequence[Case],
    means: Mapping[str, Tensor],
    *,
    replacements: Sequence[str] = REPLACEMENTS,
    limit: int | None = None,
    seed: int = 0,
    progress: Progress = silent,
) -> Knockouts:
    """Replace the gates of each site and stage, one place after the other, and score every case with and without.

    Each case is read once (one of them twice, to close the ring); all knock-outs are computed while it is in memory, and what
    comes before the replaced gate is computed once for all. Cost per case: a prediction, another one for the donor of shuffled
    gates, and for each place and replacement the part of a prediction from that gate on. For `shuffled` the cases form a ring in
    random order, in which each takes the factors of the one before it, window by window at the same place: nobody keeps its own.
    Two cases are in memory at a time.

    Args:
        predictor: of one network; test-time flips and shifts are left out.
        cases: labelled cases.
        means: by name of the gate, its mean factor over cases and space, `(C,)` or `(1,)`.
        replacements: of `REPLACEMENTS`. With a single case `shuffled` is left out.
        limit: how many cases are used at most, drawn at random; None for all.
        seed: of that draw, and of the order of the ring.
        progress: told of the cases.

    Raises:
        UsageError: a case without a label, or no case.
        ValueError: an ensemble, or an unknown replacement.
    """
    unknown = set(replacements) - set(REPLACEMENTS)
    if unknown:
        raise ValueError(f"replacement {sorted(unknown)[0]!r} is not one of {', '.join(REPLACEMENTS)}")
    places = removable_gates(find_gates(predictor.network))
    chosen = draw_cases(cases, limit, seed)
    notes = [CAVEAT]
    if len(chosen) < len(cases):
        notes.append(f"{len(chosen)} of {len(cases)} cases, drawn at random with seed {seed}.")
    wanted = [name for name in replacements if name != "shuffled" or len(chosen) > 1]
    if len(wanted) < len(replacements):
        notes.append("With a single case there is no other whose factors could be taken: nothing was shuffled.")
    rank = len(predictor.plan.patch)
    variants = {(place.name, name): _variant(place, name, means, rank) for place in places for name in wanted}
    measured = measure_changes(predictor, chosen, list(variants.values()), seed=seed, progress=progress)
    rows = [
        row
        for place in places
        for name in wanted
        for row in summarise(
            measured.baseline, measured.changes[list(variants).index((place.name, name))], place.name, place.block, name
        )
    ]
    changes = dict(zip(variants, measured.changes, strict=True))
    return Knockouts(tuple(rows), changes, places, tuple(case.name for case in chosen), len(cases), tuple(notes))


def summarise(baseline: Changes, changes: Changes, gate: str, block: str, replacement: str) -> list[Knockout]:
    """Return one row per structure, the mean over structures first, of one replacement."""
    structures = list(dict.fromkeys(name for scores in changes.values() for name in scores))
    rows = []
    for structure in sorted(structures, key=lambda name: name != OVER_STRUCTURES):
        found = np.array([scores[structure] for scores in changes.values() if structure in scores])
        before = [baseline[case][structure] for case, scores in changes.items() if structure in scores]
        mean, low, high = mean_interval(found)
        rows.append(Knockout(gate, block, replacement, structure, found.size, float(np.mean(before)), mean, low, high))
    return rows


def mean_interval(values: NDArray[np.float64]) -> tuple[float, float | None, float | None]:
    """Return the mean and its 95 % t interval; no interval of fewer than two values."""
    mean = float(values.mean())
    if values.size < 2:
        return mean, None, None
    half = float(stats.t.ppf((1 + CONFIDENCE) / 2, values.size - 1) * values.std(ddof=1) / math.sqrt(values.size))
    return mean, mean - half, mean + half


def constant_variant(places: Iterable[Removable], factors: Mapping[str, Tensor], rank: int) -> Variant:
    """Return the network with constant factors in all gates of some places.

    Args:
        places: what is replaced.
        factors: by name of the gate, `(C,)` or `(1,)`.
        rank: number of spatial axes of the network.
    """
    return Variant({name: factors[name].reshape(1, -1, *(1,) * rank) for place in places for name in place.gates})


def mean_factors(records: Sequence[CaseGates]) -> dict[str, Tensor]:
    """Return by name of the gate its mean factor, `(C,)` or `(1,)`, over voxels and windows of each case and then over cases."""
    found: dict[str, list[NDArray[np.float64]]] = {}
    for record in records:
        for name, gate in record.gates.items():
            found.setdefault(name, []).append(gate.moments.mean)
    return {name: torch.from_numpy(np.mean(means, axis=0)).float() for name, means in found.items()}


def _variant(place: Removable, replacement: str, means: Mapping[str, Tensor], rank: int) -> Variant:
    if replacement == "shuffled":
        return Variant(shuffled=place.gates)
    if replacement == "mean":
        return constant_variant([place], means, rank)
    return Variant({name: means[name].new_ones((1, 1, *(1,) * rank)) for name in place.gates})
