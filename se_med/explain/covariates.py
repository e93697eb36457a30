"""Whether gates go together with what else is known of a case: exploration, with correction for the number of tests."""

from __future__ import annotations

import csv
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from se_med.errors import UsageError
from se_med.explain.collect import CaseGates
from se_med.explain.gates import GateSite

LEAST_CASES = 10
"""With fewer cases no association is tested: p values follow from distributions that hold for many."""
LEAST_IN_CATEGORY = 2
"""Categories with fewer cases are left out."""
CONSTANT = 1e-6
"""A gate whose means differ by no more than this is not tested."""

Numbers = NDArray[np.float64]
Level = Literal["gate", "channel"]


@dataclass(frozen=True)
class Covariate:
    """Something that is known of cases.

    Attributes:
        name: its name.
        values: of each case that has one: a number, or a category.
        numeric: whether all values are numbers.
    """

    name: str
    values: Mapping[str, float | str]
    numeric: bool


@dataclass(frozen=True)
class Association:
    """The association of one gate with one covariate.

    Attributes:
        covariate: its name.
        gate: name of the gate.
        level: `gate`: its mean over channels; `channel`: one of its channels.
        channel: number of the channel; None at level gate.
        test: `Spearman` for numbers, `Kruskal-Wallis` for categories.
        cases: number of cases.
        effect: Spearman's rho, from -1 to 1, or of Kruskal-Wallis epsilon squared H / (n - 1), from 0 to 1.
        p: two-sided, not corrected.
        q: corrected over all tests of the level by Benjamini and Hochberg (1995): among associations with q up to 0.05 one in
            twenty is expected to be false.
    """

    covariate: str
    gate: str
    level: Level
    channel: int | None
    test: str
    cases: int
    effect: float
    p: float
    q: float


def read_covariates(path: Path) -> list[Covariate]:
    """Read a table with a line per case: column `case`, and one column per covariate.

    Separated by commas, semicolons or tabs. A column whose cells are all numbers is a number, any other a category; empty cells
    are left out. Columns `image`, `image_0`, ... are paths and are left out.

    Raises:
        UsageError: the table cannot be read, has no column `case`, no covariate, or a case twice.
    """
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"{path}: cannot be read: {error}; save it as CSV in UTF-8") from None
    separator = max(",;\t", key=lines[0].count) if lines else ","
    reader = csv.DictReader(lines, delimiter=separator, restval="", skipinitialspace=True)
    names = [name for name in reader.fieldnames or [] if name and name != "case" and not name.startswith("image")]
    if "case" not in (reader.fieldnames or []) or not names:
        raise UsageError(
            f"{path}: needs a column case and a column per covariate; it has {', '.join(reader.fieldnames or ['none'])}"
        )
    columns: dict[str, dict[str, str]] = {name: {} for name in names}
    seen: set[str] = set()
    for row in reader:
        case = row["case"].strip()
        if case in seen:
            raise UsageError(f"{path}:{reader.line_num}: case {case!r} again; give every case one line")
        seen.add(case)
        for name in names:
            if cell := (row[name] or "").strip():
                columns[name][case] = cell
    return [_covariate(name, cells) for name, cells in columns.items() if cells]


def volumes(cases: Sequence[CaseGates]) -> list[Covariate]:
    """Return the volume of each structure, and its Dice where there are references, as covariates."""
    found: list[Covariate] = []
    for name in cases[0].volumes if cases else ():
        found.append(Covariate(f"volume of {name}", {case.name: case.volumes[name] for case in cases}, numeric=True))
    for name in (cases[0].dice or ()) if cases else ():
        scores = {case.name: case.dice[name] for case in cases if case.dice is not None and np.isfinite(case.dice[name])}
        found.append(Covariate(f"Dice of {name}", scores, numeric=True))
    return found


def associate(gates: Sequence[GateSite], cases: Sequence[CaseGates], covariates: Sequence[Covariate]) -> list[Association]:
    """Test every gate, and every channel of it, against every covariate.

    Args:
        gates: the gates.
        cases: what was collected.
        covariates: what is known of the cases.

    Returns:
        All tests that could be made, those with the smallest q first. What hardly varies, or is known of too few cases, is not
        tested.
    """
    found: list[tuple[Covariate, GateSite, Level, int | None, int, float, float]] = []
    for gate in gates:
        known = [case for case in cases if gate.name in case.gates]
        if not known:
            continue
        means = np.stack([case.gates[gate.name].moments.mean for case in known])
        for covariate in covariates:
            rows = [row for row, case in enumerate(known) if case.name in covariate.values]
            values = [covariate.values[known[row].name] for row in rows]
            levels: list[tuple[Level, Numbers]] = [("gate", means[rows].mean(1, keepdims=True))]
            if means.shape[1] > 1:
                levels.append(("channel", means[rows]))
            for level, table in levels:
                for channel, cases_, effect, p in _test(table, values, covariate.numeric):
                    found.append((covariate, gate, level, channel if level == "channel" else None, cases_, effect, p))
    return sorted(_corrected(found), key=lambda one: (one.level != "gate", one.q, one.p))


def _test(table: Numbers, values: Sequence[float | str], numeric: bool) -> list[tuple[int, int, float, float]]:
    """Test the columns of (cases, C): channel, number of cases, effect and p of each that varies."""
    if not numeric:
        counts = {value: values.count(value) for value in values}
        kept = [row for row, value in enumerate(values) if counts[value] >= LEAST_IN_CATEGORY]
        table, values = table[kept], [values[row] for row in kept]
    if len(values) < LEAST_CASES or len(set(values)) < 2:
        return []
    varying = np.flatnonzero(np.ptp(table, 0) > CONSTANT)
    if not varying.size:
        return []
    count = len(values)
    if numeric:
        ranks = stats.rankdata(table[:, varying], axis=0)
        mine = stats.rankdata(np.asarray(values, dtype=np.float64))
        result = stats.pearsonr(ranks, mine[:, None], axis=0)  # Pearson's r of ranks is Spearman's rho
        return [
            (int(channel), count, float(rho), float(p))
            for channel, rho, p in zip(varying, np.atleast_1d(result.statistic), np.atleast_1d(result.pvalue), strict=True)
        ]
    groups = [table[[other == value for other in values]][:, varying] for value in dict.fromkeys(values)]
    statistic, p = stats.kruskal(*groups, axis=0)
    return [
        (int(channel), count, float(h) / (count - 1), float(one))
        for channel, h, one in zip(varying, np.atleast_1d(statistic), np.atleast_1d(p), strict=True)
    ]


def _corrected(
    found: Sequence[tuple[Covariate, GateSite, Level, int | None, int, float, float]],
) -> list[Association]:
    result: list[Association] = []
    for level in ("gate", "channel"):
        mine = [one for one in found if one[2] == level and np.isfinite(one[6])]
        if not mine:
            continue
        adjusted = stats.false_discovery_control([one[6] for one in mine], method="bh")
        for (covariate, gate, its, channel, count, effect, p), q in zip(mine, adjusted, strict=True):
            test = "Spearman" if covariate.numeric else "Kruskal-Wallis"
            result.append(Association(covariate.name, gate.name, its, channel, test, count, effect, p, float(q)))
    return result


def _covariate(name: str, cells: Mapping[str, str]) -> Covariate:
    try:
        numbers = {case: float(cell.replace(",", ".")) for case, cell in cells.items()}
    except ValueError:
        return Covariate(name, dict(cells), numeric=False)
    if not all(np.isfinite(number) for number in numbers.values()):
        return Covariate(name, dict(cells), numeric=False)
    return Covariate(name, numbers, numeric=True)
