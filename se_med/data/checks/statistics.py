"""What a data set holds, in numbers: frequency and volume of its structures, and each case's facts."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Any

from se_med.config.labels import as_values
from se_med.data.checks import outliers
from se_med.data.checks.examine import Examined
from se_med.data.fingerprint import CaseFacts
from se_med.data.structures import LabelValues, count_structures


@dataclass(frozen=True)
class StructureRow:
    """A structure over the data set: cases that have it, its share of all voxels, and its volumes."""

    name: str
    values: tuple[int, ...]
    cases: int
    total: int
    share: float
    volumes: tuple[float, float, float] | None
    """Smallest, median and largest volume of the cases that have it."""

    def to_dict(self, unit: str) -> dict[str, Any]:
        """Return the row as JSON holds it."""
        volumes = None if self.volumes is None else dict(zip(("min", "median", "max"), self.volumes, strict=True))
        head = {"name": self.name, "values": list(self.values), "cases": self.cases, "of_cases": self.total}
        return {**head, "share_of_voxels": self.share, f"volume_{unit}": volumes}


def structure_rows(examined: Sequence[Examined], structures: LabelValues) -> list[StructureRow]:
    """Return what the data set has of each structure, over the cases without errors."""
    facts = [case.facts for case in examined if case.facts is not None]
    voxels: Counter[int] = Counter()
    for one in facts:
        voxels.update(count_structures(one.voxels, structures))
    total = sum(sum(one.voxels.values()) for one in facts)
    volumes = [structure_volumes(one, structures) for one in facts]
    rows = []
    for name, entry in structures.items():
        values = as_values(entry)
        sizes = [found[name] for found in volumes if name in found]
        spread = (min(sizes), median(sizes), max(sizes)) if sizes else None
        rows.append(StructureRow(name, values, len(sizes), len(facts), voxels[values[0]] / total if total else 0.0, spread))
    return rows


def structure_volumes(facts: CaseFacts, structures: LabelValues) -> dict[str, float]:
    """Return the volume of each structure that a case has: ml, or pixels of a 2D image."""
    voxels = count_structures(facts.voxels, structures)
    size = 1.0 if facts.flat else math.prod(facts.spacing) / 1000
    return {name: voxels[as_values(entry)[0]] * size for name, entry in structures.items() if voxels.get(as_values(entry)[0])}


def rules(cases: int) -> dict[str, float]:
    """Return the thresholds that so many cases are compared by."""
    return {
        "fewest_cases": outliers.FEWEST,
        "modified_z_score": outliers.limit(cases) if cases else outliers.SCORE,
        "spacing_factor": outliers.SPACING_FACTOR,
        "field_of_view_factor": outliers.SIZE_FACTOR,
        "volume_factor": outliers.VOLUME_FACTOR,
        "intensity_range_factor": outliers.RANGE_FACTOR,
        "ct_intensity_range_factor": outliers.CT_RANGE_FACTOR,
        "ct_offset_hu": outliers.CT_OFFSET,
        "rare_share": outliers.RARE,
        "common_structure_share": outliers.COMMON,
    }


def case_row(case: Examined, volumes: Mapping[str, float], unit: str) -> dict[str, Any]:
    """Return what is known of a case as JSON holds it."""
    files = {
        "images": [str(path) for path in case.case.images],
        "label": None if case.case.label is None else str(case.case.label),
    }
    row: dict[str, Any] = {"name": case.case.name, "group": case.case.group, **files}
    if case.facts is None:
        return row
    channels = [{"low": one.low, "median": one.median, "high": one.high} for one in case.channels]
    spacing = None if case.facts.flat else list(case.facts.spacing)
    return {
        **row,
        "shape": list(case.facts.shape),
        "spacing_mm": spacing,
        "intensities": channels,
        f"volumes_{unit}": dict(volumes),
    }
