"""Finds the cases of a data set in the folders that people have; one file per layout.

A new layout is a file with a `LAYOUT`, one line in `LAYOUTS`, and its name in `se_med.config.data.DataConfig.layout`.
"""

from __future__ import annotations

import dataclasses
import re
from pathlib import Path

from se_med.config.data import DataConfig
from se_med.data.case import Case, Dataset, refuse
from se_med.data.layouts import folders, msd
from se_med.data.layouts.description import Description, common_modality, read_description
from se_med.data.layouts.layout import Layout
from se_med.data.layouts.pairing import pair_patterns
from se_med.errors import DataError, UsageError

LAYOUTS: dict[str, Layout] = {layout.name: layout for layout in (msd.LAYOUT, folders.LAYOUT)}
"""Every layout by name, in the order in which `auto` tries them."""


def find_dataset(data: DataConfig) -> Dataset:
    """Find the cases of a data set, with what is declared about them; no volume is opened.

    Args:
        data: the folder, the layout, and the labels, modality and groups that the user declared. `labels` and `modality` win
            over `dataset.json`.

    Raises:
        UsageError: the folder is not given or does not exist.
        DataError: there are no cases, files do not pair, or `dataset.json` is wrong; every problem is listed.
    """
    if data.root is None:
        raise UsageError("data.root is not set; name the folder of the data set, e.g. data.root=path/to/dataset")
    root = data.root
    if not root.is_dir():
        found = "is a file, not a folder" if root.exists() else "does not exist"
        raise UsageError(f"data.root: {root} {found}")
    description = read_description(root)
    if data.image_files is not None and data.label_files is not None:
        layout = folders.LAYOUT
        cases = pair_patterns(root, data.image_files, data.label_files)
    else:
        layout = _choose_layout(data.layout, root, description)
        cases = layout.read(root, description)
    if not cases:
        raise DataError(f"{root}: no cases found; looked for {layout.looks_for}")
    channels = description.channels()
    return Dataset(
        cases=_grouped(root, sorted(cases, key=lambda case: case.name), data.group),
        labels=dict(data.labels) if data.labels is not None else description.labels(data.ignore_label),
        channels=channels,
        modality=common_modality(channels) if data.modality == "auto" else data.modality,
        layout=layout.name,
        root=root,
        ignore_label=data.ignore_label,
    )


def _choose_layout(name: str, root: Path, description: Description) -> Layout:
    if name != "auto":
        return LAYOUTS[name]
    for layout in LAYOUTS.values():
        if layout.detect(root, description):
            return layout
    looked_for = "; or ".join(layout.looks_for for layout in LAYOUTS.values())
    raise DataError(f"{root}: no data set found; looked for {looked_for}, or set data.image_files and data.label_files")


def _grouped(root: Path, cases: list[Case], pattern: str | None) -> tuple[Case, ...]:
    """Give each case the group that the pattern finds in its name: its first parenthesis, or the whole match."""
    if pattern is None:
        return tuple(cases)
    expression = re.compile(pattern)
    matches = {case.name: expression.search(case.name) for case in cases}
    refuse(root, [f"case {name!r}: data.group {pattern!r} does not match" for name, match in matches.items() if match is None])
    groups = {name: match.group(1 if expression.groups else 0) for name, match in matches.items() if match is not None}
    refuse(root, [f"case {name!r}: data.group {pattern!r} finds no group" for name, group in groups.items() if not group])
    return tuple(dataclasses.replace(case, group=groups[case.name]) for case in cases)
