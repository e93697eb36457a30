"""Cases that are unlike the others: a robust rule that says nothing where a data set is varied.

A value is an outlier where its modified z-score, 0.6745 (x - median) / MAD (Iglewicz and Hoaglin, 1993, "How to Detect and Handle
Outliers"), exceeds a limit *and* it differs from the median by a factor that matters. Iglewicz and Hoaglin's limit of 3.5
is for normal values; anatomy has heavier tails, and a warning that is mostly wrong is not read. Sizes, volumes and intensity
ranges are compared by their logarithms.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from se_med.data.case import Modality
from se_med.data.checks.examine import Examined
from se_med.data.checks.finding import Finding
from se_med.data.symmetry import AXIS_NAMES

FEWEST = 10
"""Cases below which none is called unlike the others."""
SCORE = 5.0
"""Modified z-score above which a value is an outlier in a large data set; see `limit`."""
SPACING_FACTOR, SIZE_FACTOR, VOLUME_FACTOR = 1.5, 2.0, 3.0
"""Ratios to the median, or its inverse, that an outlier exceeds too."""
RANGE_FACTOR = 10.0
"""Likewise of the range of intensities; of CT, whose numbers have a unit, `CT_RANGE_FACTOR`."""
CT_RANGE_FACTOR, CT_OFFSET = 3.0, 500.0
"""Of CT also the 0.5th percentile is compared, in Hounsfield units."""
CONTRAST = 0.2
"""Least contrast of structures, as a share of the range of intensities, that a reversal is told from."""
RARE = 0.1
"""Share of the cases above which values that differ are no outliers but another kind of scan; two cases are always rare."""
COMMON = 0.9
"""Share of the cases that have a structure, from which on the others miss it."""

_SMALLEST_MAD = math.log(1.02)  # of logarithms: 2 % is no deviation, even where all other values are equal


def modified_scores(values: NDArray[np.float64], smallest: float = _SMALLEST_MAD) -> NDArray[np.float64]:
    """Return the modified z-score of every value.

    Args:
        values: (n,); NaN values get NaN.
        smallest: least MAD; keeps scores finite where most values are equal.
    """
    median = np.nanmedian(values)
    mad = max(float(np.nanmedian(np.abs(values - median))), smallest)
    scores: NDArray[np.float64] = 0.6745 * (values - median) / mad
    return scores


def limit(count: int) -> float:
    """Return the score above which one of `count` values is an outlier: the MAD of few values is itself uncertain."""
    return SCORE * (1 + FEWEST / count)


def rare(odd: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Return which of (n,) or (n, quantities) values are outliers: none of a quantity where too many differ."""
    few = np.count_nonzero(odd, axis=0) <= max(2, RARE * len(odd))
    kept: NDArray[np.bool_] = odd & few
    return kept


def find_outliers(
    cases: Sequence[Examined], volumes: Mapping[str, Mapping[str, float]], modality: Modality, unit: str
) -> list[Finding]:
    """Compare the cases with each other; says nothing about fewer than `FEWEST`.

    Args:
        cases: cases with facts.
        volumes: volume of each structure that a case has, by case and structure.
        modality: of the data set.
        unit: of the volumes.

    Returns:
        At most one finding of a kind for each case.
    """
    # A case whose spacing is absurd has been told of, and its sizes are as wrong.
    cases = [case for case in cases if all(finding.kind != "spacing" for finding in case.findings)]
    if len(cases) < FEWEST:
        return []
    spacing = [] if cases[0].facts is None or cases[0].facts.flat else _odd_edges(cases, "odd spacing")
    odd = {finding.case for finding in spacing}
    # With a wrong spacing all sizes are wrong: that is one fault, and told once.
    trusted = [case for case in cases if case.case.name not in odd]
    size = _odd_edges(trusted, "odd size")
    return [*spacing, *size, *_odd_volumes(trusted, volumes, unit), *_missing(cases, volumes), *_odd_intensities(cases, modality)]


def _odd_edges(cases: Sequence[Examined], kind: str) -> list[Finding]:
    """Compare voxel edges ("odd spacing") or the edges of the whole image ("odd size") along each RAS axis."""
    facts = [case.facts for case in cases if case.facts is not None]
    edges = np.array([one.spacing for one in facts], dtype=np.float64)
    factor, what, remedy = SPACING_FACTOR, "spacing", "correct the header, or leave it where the scan is like that"
    unit = "px" if facts[0].flat else "mm"
    if kind == "odd size":
        edges = edges * np.array([one.shape for one in facts])
        factor, what, remedy = SIZE_FACTOR, "field of view", "see whether it shows the same part of the body"
    findings = []
    scores = np.stack([modified_scores(np.log(column)) for column in edges.T], axis=1)
    medians = np.median(edges, axis=0)
    odd = rare((np.abs(scores) > limit(len(edges))) & (np.abs(np.log(edges / medians)) > math.log(factor)))
    for row in np.flatnonzero(odd.any(axis=1)).tolist():
        axis = int(np.argmax(np.where(odd[row], np.abs(scores[row]), 0)))
        value, usual = edges[row, axis], medians[axis]
        message = f"{what} {value:.4g} {unit} {AXIS_NAMES[axis]}, median {usual:.4g} (z {scores[row, axis]:+.1f}); {remedy}"
        findings.append(Finding(kind, "warning", message, cases[row].case.name, cases[row].case.images[0]))
    return findings


def _odd_volumes(cases: Sequence[Examined], volumes: Mapping[str, Mapping[str, float]], unit: str) -> list[Finding]:
    worst: dict[str, tuple[float, str]] = {}
    for structure in sorted({structure for found in volumes.values() for structure in found}):
        having = [case.case.name for case in cases if volumes[case.case.name].get(structure)]
        if len(having) < FEWEST:
            continue
        values = np.array([volumes[name][structure] for name in having])
        scores, median = modified_scores(np.log(values)), float(np.median(values))
        odd = rare((np.abs(scores) > limit(len(values))) & (np.abs(np.log(values / median)) > math.log(VOLUME_FACTOR)))
        for row in np.flatnonzero(odd).tolist():
            message = (
                f"{structure} has {values[row]:.4g} {unit}, median {median:.4g} (z {scores[row]:+.1f}); see whether it is drawn "
                "whole, and right"
            )
            worst[having[row]] = max(worst.get(having[row], (0.0, "")), (abs(float(scores[row])), message))
    paths = {case.case.name: case.case.label for case in cases}
    return [Finding("odd volume", "warning", message, name, paths[name]) for name, (_, message) in worst.items()]


def _missing(cases: Sequence[Examined], volumes: Mapping[str, Mapping[str, float]]) -> list[Finding]:
    """Name the cases without a structure that nearly all others have; empty label maps are told elsewhere."""
    filled = [case for case in cases if volumes[case.case.name]]
    findings = []
    for case in filled if len(filled) >= FEWEST else ():
        absent = []
        for structure in sorted({structure for one in filled for structure in volumes[one.case.name]}):
            having = sum(structure in volumes[one.case.name] for one in filled)
            if structure not in volumes[case.case.name] and having >= COMMON * len(filled):
                absent.append(f"{structure} (which {having} of {len(filled)} cases have)")
        if absent:
            message = f"no voxel of {', '.join(absent)}; see whether it was forgotten"
            findings.append(Finding("missing", "warning", message, case.case.name, case.case.label))
    return findings


def _odd_intensities(cases: Sequence[Examined], modality: Modality) -> list[Finding]:
    findings: dict[str, Finding] = {}
    for channel in range(min(len(case.channels) for case in cases)):
        where = f"channel {channel}: " if len(cases[0].channels) > 1 else ""
        for name, message in (_odd_ranges(cases, channel, modality) | _reversed(cases, channel)).items():
            path = next(case.case.images[0] for case in cases if case.case.name == name)
            findings.setdefault(name, Finding("odd intensity", "warning", where + message, name, path))
    return list(findings.values())


def _odd_ranges(cases: Sequence[Examined], channel: int, modality: Modality) -> dict[str, str]:
    """Return what is odd about the range of intensities, 0.5th to 99.5th percentile, by case."""
    lows = np.array([case.channels[channel].low for case in cases])
    highs = np.array([case.channels[channel].high for case in cases])
    ranges = np.where(highs > lows, highs - lows, np.nan)
    if np.count_nonzero(np.isfinite(ranges)) < FEWEST:
        return {}
    scores, usual = modified_scores(np.log(ranges)), float(np.nanmedian(ranges))
    factor = CT_RANGE_FACTOR if modality == "ct" else RANGE_FACTOR
    messages = {}
    odd = rare((np.abs(scores) > limit(len(cases))) & (np.abs(np.log(ranges / usual)) > math.log(factor)))
    for row in np.flatnonzero(odd).tolist():
        messages[cases[row].case.name] = (
            f"intensities span {ranges[row]:.4g} ({lows[row]:.4g} to {highs[row]:.4g}), median {usual:.4g} "
            f"(z {scores[row]:+.1f}); see whether it is the same kind of scan, in the same unit"
        )
    if modality != "ct":
        return messages
    scores, usual = modified_scores(lows, smallest=1.0), float(np.median(lows))
    for row in np.flatnonzero(rare((np.abs(scores) > limit(len(cases))) & (np.abs(lows - usual) > CT_OFFSET))).tolist():
        messages.setdefault(
            cases[row].case.name,
            f"the darkest voxels have {lows[row]:.4g}, median {usual:.4g} Hounsfield units (z {scores[row]:+.1f}); see whether "
            "the rescale intercept was applied",
        )
    return messages


def _reversed(cases: Sequence[Examined], channel: int) -> dict[str, str]:
    """Return the cases whose structures are dark where those of the others are bright, or the other way round."""
    contrasts = [case.channels[channel].contrast for case in cases]
    values = np.array([np.nan if value is None else value for value in contrasts], dtype=np.float64)
    if np.count_nonzero(np.isfinite(values)) < FEWEST:
        return {}
    scores, usual = modified_scores(values, smallest=0.01), float(np.nanmedian(values))
    clear = (np.abs(values) > CONTRAST) & (abs(usual) > CONTRAST) & (values * usual < 0)
    messages = {}
    for row in np.flatnonzero(rare(clear & (np.abs(scores) > limit(len(cases))))).tolist():
        kind, others = ("darker", "brighter") if values[row] < 0 else ("brighter", "darker")
        messages[cases[row].case.name] = (
            f"the structures are {kind} than the image (by {abs(values[row]):.0%} of its range), in other cases {others} "
            f"({abs(usual):.0%}; z {scores[row]:+.1f}); see whether the image is inverted, or the label another one's"
        )
    return messages
