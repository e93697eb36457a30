"""Whether what a network says of a voxel depends on the window it is seen in: gates and labels of windows that overlap.

A squeeze averages over its window, padding included, so a gate can differ between two windows that share a voxel. Instance norms
see the window as well, and so does every convolution near its border: only next to a plain network, trained alike, can one say
what the gates add. Windows are compared with each other and with one window over the whole volume.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from se_med.data.case import Case
from se_med.errors import UsageError
from se_med.explain.gates import find_gates
from se_med.explain.knockout import mean_interval
from se_med.explain.passing import pass_through
from se_med.explain.variants import single_pass
from se_med.inference.memory import GIB, WITHIN_OPERATIONS
from se_med.inference.predictor import Predictor
from se_med.inference.tiling import Shape, Tiling, tile, whole_window
from se_med.io.images import read_image, read_images
from se_med.io.volume import Volume
from se_med.progress import Progress, silent

OVERLAP = 0.5
"""Overlap of windows where the run's own has none."""


@dataclass(frozen=True)
class CaseContext:
    """How much the windows of one case disagree. One row of a table.

    Shares are of the voxels in question: those in two windows or more that a window gives to a structure, and, against the whole
    volume, those that either gives to a structure.

    Attributes:
        run: name of the run.
        case: name of the case.
        windows: number of windows.
        shared: share of all voxels that lie in two windows or more.
        labels: share of the voxels in question to which windows give different labels; None without any.
        probability: standard deviation over windows of the probability of belonging to a structure, mean over the voxels in
            question; None without any.
        whole_labels: share of the voxels in question whose label in windowed prediction differs from the whole volume's in one
            piece; None where that takes too much memory, or without any.
    """

    run: str
    case: str
    windows: int
    shared: float
    labels: float | None
    probability: float | None
    whole_labels: float | None


@dataclass(frozen=True)
class GateContext:
    """How much a gate differs between windows. One row of a table; means over cases, of spatial gates their mean over a window.

    Attributes:
        run: name of the run.
        gate: name of the gate's place.
        block: name of its block.
        mean: mean factor.
        between_windows: mean absolute difference of a channel's factor between two windows, weighted by the voxels they share;
            None where no windows overlap.
        to_whole: mean absolute difference of a channel's factor between a window and the whole volume; None where not computed.
        between_cases: mean absolute difference of a channel's factor between two cases, for comparison; None with one case.
    """

    run: str
    gate: str
    block: str
    mean: float
    between_windows: float | None
    to_whole: float | None
    between_cases: float | None


@dataclass(frozen=True)
class Context:
    """What windows do to a network, and to the one it is compared with.

    Attributes:
        cases: one row per run and case.
        gates: one row per run and gate.
        sentence: all of it in words.
        notes: what limits it.
    """

    cases: tuple[CaseContext, ...]
    gates: tuple[GateContext, ...]
    sentence: str
    notes: tuple[str, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """Return everything as JSON-able data."""
        return asdict(self)


@dataclass
class _Factors:
    """Sums of one gate over the cases."""

    label: str
    block: str
    means: list[NDArray[np.float64]] = field(default_factory=list)
    between: list[float] = field(default_factory=list)
    whole: list[float] = field(default_factory=list)


def compare_context(
    predictor: Predictor,
    cases: Iterable[Case],
    against: Predictor | None = None,
    *,
    window: Sequence[int] | None = None,
    limit: int | None = None,
    progress: Progress = silent,
) -> Context:
    """Compare gates and labels of overlapping windows with one another and with the whole volume in one window.

    Test-time flips and shifts are left out. Cost per case and network: two predictions, one in windows and one in one piece.
    Memory is that of a prediction, and a few numbers per voxel; a volume that in one piece takes more than
    `inference.max_memory` is not passed in one piece.

    Args:
        predictor: of the network with gates.
        cases: with their images; labels are not needed.
        against: of another network for the same structures, such as a plain one, trained on the same data.
        window: size of the windows along the axes of the volume (RAS); by default the patch. A smaller one shows what windows do
            to volumes that fit into the patch.
        limit: how many cases are used at most, the first ones.
        progress: told of the cases.

    Raises:
        UsageError: two runs of one name, or a window that a network cannot take.
        ImageError: a case cannot be read.
    """
    predictors = [single_pass(one) for one in (predictor, *(() if against is None else (against,)))]
    names = [one.config.name for one in predictors]
    if len(set(names)) < len(names):
        names = [f"{name} ({place})" for name, place in zip(names, ("explained", "against"), strict=True)]
    sizes = [_window(one, window) for one in predictors]
    chosen = list(cases)[:limit]
    rows: list[CaseContext] = []
    gates: list[dict[str, _Factors]] = [{} for _ in predictors]
    with progress("comparing windows", len(chosen)) as advance:
        for index, case in enumerate(chosen):
            files = case.images
            volume = read_image(files[0]) if len(files) == 1 else read_images(files)
            for one, name, size, found in zip(predictors, names, sizes, gates, strict=True):
                rows.append(_compare(one, name, case.name, volume, size, found))
            advance(index + 1, case.name)
    table = [_gate_row(name, factors) for name, found in zip(names, gates, strict=True) for factors in found.values()]
    notes = _notes(names, sizes, rows)
    return Context(tuple(rows), tuple(table), _sentence(names, rows, table), notes)


def _window(predictor: Predictor, window: Sequence[int] | None) -> Shape:
    member = predictor.members[0]
    if window is None:
        return member.window
    wanted = tuple(1 if size == 1 else given for size, given in zip(member.window, window, strict=True))
    if any(given % by or given < 1 for given, by in zip(wanted, member.divisor, strict=True)):
        raise UsageError(
            f"window {list(window)}: each size must be a multiple of {list(member.divisor)} for {predictor.config.name}"
        )
    x, y, z = wanted
    return x, y, z


def _compare(predictor: Predictor, name: str, case: str, volume: Volume, size: Shape, gates: dict[str, _Factors]) -> CaseContext:
    prepared = predictor.preparation.forward(volume)
    shape = prepared.array.shape[1:]
    tiling = tile(shape, size, (0, 0, 0), predictor.config.inference.overlap or OVERLAP, 1)
    seen = pass_through(predictor, prepared, tiling)
    whole = _whole(predictor, shape, size)
    piece = None if whole is None else pass_through(predictor, prepared, whole)
    for gate in find_gates(predictor.network):
        factors = seen.factors.get(gate.name)
        if factors is None:
            continue
        found = gates.setdefault(gate.name, _Factors(gate.label, gate.block))
        found.means.append(factors.mean(0))
        apart = _between(factors, tiling)
        if apart is not None:
            found.between.append(apart)
        if piece is not None and tiling.count > 1:
            found.whole.append(float(np.abs(factors - piece.factors[gate.name].mean(0)).mean()))
    shared = seen.covered > 1
    asked = shared & seen.foreground
    structured = (seen.classes > 0) | (piece.classes > 0) if piece is not None else np.zeros(0, np.bool_)
    return CaseContext(
        run=name,
        case=case,
        windows=tiling.count,
        shared=float(shared.mean()),
        labels=float(seen.disagree[asked].mean()) if asked.any() else None,
        probability=float(seen.spread[asked].mean()) if asked.any() else None,
        whole_labels=float((seen.classes != piece.classes)[structured].mean())
        if piece is not None and structured.any()
        else None,
    )


def _whole(predictor: Predictor, shape: Sequence[int], size: Shape) -> Tiling | None:
    """Return one window over the whole volume; None where it takes too much memory."""
    member = predictor.members[0]
    piece = whole_window(shape, size, (0, 0, 0), member.divisor, math.inf)
    if piece is None:
        return None
    voxels = math.prod(length for length, along in zip(piece, size, strict=True) if along > 1)
    if voxels * WITHIN_OPERATIONS * member.per_voxel > predictor.config.inference.max_memory * GIB:
        return None
    return tile(shape, piece, (0, 0, 0), OVERLAP, 1)


def _between(factors: NDArray[np.float64], tiling: Tiling) -> float | None:
    """Return the mean absolute difference between windows (N, C), weighted by the voxels that each two share."""
    starts = np.array([start for windows, _ in tiling.groups() for start in windows])
    total = weight = 0.0
    for index in range(len(starts) - 1):
        apart = np.abs(starts[index + 1 :] - starts[index])
        shared = np.clip(np.array(tiling.window) - apart, 0, None).prod(1)
        differences = np.abs(factors[index + 1 :] - factors[index]).mean(1)
        total, weight = total + float((shared * differences).sum()), weight + float(shared.sum())
    return total / weight if weight else None


def _gate_row(run: str, factors: _Factors) -> GateContext:
    means = np.stack(factors.means)
    count = len(means)
    pairs = [np.abs(means[first] - means[second]).mean() for first in range(count) for second in range(first)]
    return GateContext(
        run=run,
        gate=factors.label,
        block=factors.block,
        mean=float(means.mean()),
        between_windows=_mean(factors.between),
        to_whole=_mean(factors.whole),
        between_cases=_mean(pairs),
    )


def _mean(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return float(np.mean(known)) if known else None


def _notes(names: Sequence[str], sizes: Sequence[Shape], rows: Sequence[CaseContext]) -> tuple[str, ...]:
    notes = ["A single pass of each network: test-time flips and shifts are left out."]
    if len(set(sizes)) > 1:
        told = ", ".join(f"{name} {'x'.join(map(str, size))}" for name, size in zip(names, sizes, strict=True))
        notes.append(f"The windows of the runs differ ({told}): what differs between the runs is in part due to that.")
    single = sorted({row.case for row in rows if not row.shared})
    if single:
        notes.append(f"In {len(single)} cases no voxel lies in two windows; give a smaller window to see what windows do there.")
    large = sorted({row.case for row in rows if row.whole_labels is None})
    if large:
        notes.append(
            f"{len(large)} cases were not compared with the whole volume: in one piece they take more than inference.max_memory, "
            "or nothing was segmented."
        )
    return tuple(notes)


def _sentence(names: Sequence[str], rows: Sequence[CaseContext], gates: Sequence[GateContext]) -> str:
    first, *others = names
    said = [_labels_sentence(names, rows)]
    mine = [gate for gate in gates if gate.run == first and gate.between_windows is not None]
    if mine:
        widest = max(mine, key=lambda gate: gate.between_windows or 0.0)
        told = f"Of the gates, {widest.gate} ({widest.block}) differs most between windows, by {widest.between_windows:.4f}"
        if widest.between_cases is not None:
            told += f" on average, against {widest.between_cases:.4f} between cases"
        said.append(f"{told}.")
    if others:
        differences = _paired(rows, first, others[0])
        if differences.size:
            mean, low, high = mean_interval(differences)
            interval = "" if low is None or high is None else f" [{100 * low:+.2f}, {100 * high:+.2f}]"
            said.append(
                f"Windows of {first} disagree on {100 * mean:+.2f}{interval} percentage points of these voxels compared with "
                f"{others[0]} ({differences.size} cases; the interval is over cases, not over training runs)."
            )
    return " ".join(said)


def _labels_sentence(names: Sequence[str], rows: Sequence[CaseContext]) -> str:
    told: list[str] = []
    whole: list[str] = []
    for name in names:
        labels = _mean([row.labels for row in rows if row.run == name])
        against = _mean([row.whole_labels for row in rows if row.run == name])
        if labels is not None:
            told.append(f"{100 * labels:.2f} % for {name}")
        if against is not None:
            whole.append(f"{100 * against:.2f} % for {name}")
    said = "No voxel of a structure lies in two windows, so nothing can be said of their agreement."
    if told:
        said = f"Overlapping windows give different labels to {' and '.join(told)} of the voxels that any gives to a structure."
    if whole:
        said += f" From the whole volume in one piece, {' and '.join(whole)} of the labels of structures differ."
    return said


def _paired(rows: Sequence[CaseContext], first: str, second: str) -> NDArray[np.float64]:
    found: dict[str, Mapping[str, float | None]] = {}
    for name in (first, second):
        found[name] = {row.case: row.labels for row in rows if row.run == name}
    pairs = [(found[first][case], found[second].get(case)) for case in found[first]]
    return np.array([one - other for one, other in pairs if one is not None and other is not None])
