"""The raw data layout of nnU-Net v2: `dataset.json`, imagesTr/case_0000.nii.gz, labelsTr/case.nii.gz.

`dataset.json` has `channel_names`, `file_ending` and, where the files lie elsewhere, a mapping `dataset` of the cases. Its
documentation: github.com/MIC-DKFZ/nnUNet, documentation/dataset_format.md.
"""

from __future__ import annotations

from typing import Any

from se_med.data.case import Case, refuse
from se_med.data.layouts.description import Description
from se_med.data.layouts.layout import Found, Layout, Source
from se_med.data.layouts.pairing import pair_folders
from se_med.errors import DataError
from se_med.io.images import IMAGE_SUFFIXES


def detect(source: Source) -> bool:
    """Tell whether `dataset.json` lists cases as nnU-Net does, or describes imagesTr/ with its words."""
    content = source.description.content
    if "dataset" in content or "training" in content:
        return "dataset" in content
    return (source.root / "imagesTr").is_dir() and ("file_ending" in content or "channel_names" in content)


def read(source: Source) -> Found:
    """Return the cases that `dataset.json` lists, or those of imagesTr/ and labelsTr/.

    Raises:
        DataError: `dataset.json` is wrong, or files are missing or do not pair; every problem is listed.
    """
    description = source.description
    ending = description.content.get("file_ending")
    if ending is not None and (not isinstance(ending, str) or not ending.lower().endswith(IMAGE_SUFFIXES)):
        raise description.error(f"file_ending: {ending!r} is not read; convert the images to .nii.gz")
    if "dataset" in description.content:
        return Found(_listed(description))
    for folder in ("imagesTr", "labelsTr"):
        if not (source.root / folder).is_dir():
            raise DataError(f"{source.root}: no folder {folder}, looked for {LAYOUT.looks_for}")
    cases = pair_folders(source.root / "imagesTr", source.root / "labelsTr", ending or "")
    names = description.channels()
    refuse(
        source.root,
        [
            f"{case.name}: {len(case.images)} channel files, dataset.json names {len(names)} channels ({', '.join(names)})"
            for case in cases
            if names and len(case.images) not in (1, len(names))  # one file may hold all channels, as of a photograph
        ],
    )
    return Found(cases)


def _listed(description: Description) -> list[Case]:
    entries = description.content["dataset"]
    if not isinstance(entries, dict):
        raise description.error("dataset: must be a mapping of case names and {images, label}")
    cases, problems = [], []
    for name, entry in entries.items():
        try:
            cases.append(_read_entry(name, entry, description))
        except DataError as error:
            problems.append(f"dataset: {name}: {error.message.removeprefix(f'{description.path}: ')}")
    refuse(description.path, problems)
    return cases


def _read_entry(name: str, entry: Any, description: Description) -> Case:
    images = entry.get("images") if isinstance(entry, dict) else None
    if not isinstance(images, list) or not images or entry.get("label") is None:
        raise description.error(f"{entry!r} does not name a list of images and a label")
    return Case(name, tuple(description.image(path) for path in images), description.image(entry["label"]))


LAYOUT = Layout(
    "nnunet",
    "imagesTr/ with case_0000 files, labelsTr/, and dataset.json with channel_names and file_ending, or its mapping dataset",
    detect,
    read,
)
