"""Finds the cases of a data set in the folders that people have; one file per layout.

A new layout is a file with a `LAYOUT`, one line in `LAYOUTS`, and its name in `se_med.config.data.DataConfig.layout`.
"""

from __future__ import annotations

import dataclasses
import re
from pathlib import Path

from se_med.config.data import DataConfig
from se_med.data.case import Case, Dataset, refuse
from se_med.data.layouts import bids, folders, msd, nnunet, table
from se_med.data.layouts.description import common_modality, read_description
from se_med.data.layouts.layout import Layout, Source
from se_med.data.root import require_root
from se_med.data.structures import Structures, regions_of, structures_of
from se_med.errors import DataError

LAYOUTS: dict[str, Layout] = {
    layout.name: layout for layout in (table.LAYOUT, nnunet.LAYOUT, msd.LAYOUT, folders.LAYOUT, bids.LAYOUT)
}
"""Every layout by name, in the order in which `auto` tries them."""


def find_dataset(data: DataConfig) -> Dataset:
    """Find the cases of a data set, with what is declared about them; no volume is opened.

    Args:
        data: the folder, the layout, and the labels, modality and groups that the user declared. `labels` and `modality` win
            over `dataset.json`, and so do `channels`.

    Raises:
        UsageError: the folder is not given or does not exist.
        DataError: there are no cases, files do not pair, or `dataset.json` is wrong; every problem is listed.
    """
    root = require_root(data)
    description = read_description(root)
    source = Source(root, description, data)
    layout = _choose_layout(source)
    found = layout.read(source)
    if not found.cases:
        raise DataError(f"{root}: no cases found; looked for {layout.looks_for}")
    channels = data.channels or found.channels or description.channels()
    structures = declared_structures(data) or description.structures(data.ignore_label, data.background_values)
    return Dataset(
        cases=_grouped(root, sorted(found.cases, key=lambda case: case.name), data.group),
        labels=None if structures is None else structures.labels,
        channels=channels,
        modality=common_modality(channels) if data.modality == "auto" else data.modality,
        layout=layout.name,
        root=root,
        ignore_label=data.ignore_label,
        values=None if structures is None or structures.plain else structures.values,
        regions=structures is not None and structures.regions,
        background_values=data.background_values,
    )


def declared_structures(data: DataConfig) -> Structures | None:
    """Return the structures that the configuration declares; None where it leaves them to the data set."""
    if data.regions is not None:
        return regions_of(data.regions, data.region_values)
    return None if data.labels is None else structures_of(data.labels)


def _choose_layout(source: Source) -> Layout:
    """Return the layout that is named, or that what the user named implies, or the first that fits."""
    if source.data.layout != "auto":
        return LAYOUTS[source.data.layout]
    if source.data.image_files is not None:
        return folders.LAYOUT
    for layout in LAYOUTS.values():
        if layout.detect(source):
            return layout
    looked_for = "; or ".join(layout.looks_for for layout in LAYOUTS.values())
    raise DataError(f"{source.root}: no data set found; looked for {looked_for}, or set data.image_files and data.label_files")


def _grouped(root: Path, cases: list[Case], pattern: str | None) -> tuple[Case, ...]:
    """Give each case the group that the pattern finds in its name: its first parenthesis, or the whole match."""
    if pattern is None:
        return tuple(cases)
    expression = re.compile(pattern)
    matches = {case.name: expression.search(case.name) for case in cases}
    refuse(root, [f"case {name!r}: data.group {pattern!r} does not match" for name, match in matches.items() if match is None])
    groups = {name: match.group(1 if expression.groups else 0) for name, match in matches.items() if match is not None}
    refuse(root, [f"case {name!r}: data.group {pattern!r} finds no group" for name, group in groups.items() if not group])
    return tuple(dataclasses.replace(case, group=groups.get(case.name)) for case in cases)
