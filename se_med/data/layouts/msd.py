"""The layout of the Medical Segmentation Decathlon: `dataset.json` with imagesTr/ and labelsTr/.

The cases are those of the `training` list. Without such a list (nnU-Net's `dataset.json`, or no such file at all) they are the
files of imagesTr/ and labelsTr/ with equal names.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from se_med.data.case import Case, refuse
from se_med.data.layouts.description import Description
from se_med.data.layouts.layout import Layout
from se_med.data.layouts.pairing import CHANNEL_SUFFIX, pair_folders
from se_med.errors import DataError
from se_med.io.images import IMAGE_SUFFIXES, image_stem


def detect(root: Path, description: Description) -> bool:
    """Tell whether there is a `training` list, or imagesTr/ and labelsTr/."""
    return "training" in description.content or ((root / "imagesTr").is_dir() and (root / "labelsTr").is_dir())


def read(root: Path, description: Description) -> list[Case]:
    """Return the cases of the `training` list, or those of imagesTr/ and labelsTr/.

    Raises:
        DataError: lists every file that is missing, leaves the folder, or repeats a name.
    """
    entries = description.content.get("training")
    if entries is None:
        for folder in ("imagesTr", "labelsTr"):
            if not (root / folder).is_dir():
                raise DataError(f"{root}: no folder {folder}, looked for {LAYOUT.looks_for}")
        return pair_folders(root / "imagesTr", root / "labelsTr")
    if not isinstance(entries, list):
        raise description.error("training: must be a list of {image, label}")
    cases: dict[str, Case] = {}
    problems = []
    for number, entry in enumerate(entries, start=1):
        try:
            case = _read_entry(entry, description)
        except DataError as error:
            problems.append(f"training entry {number}: {error.message.removeprefix(f'{description.path}: ')}")
            continue
        if case.name in cases:
            problems.append(f"training entry {number}: a second case named {case.name!r}")
        cases[case.name] = case
    refuse(description.path, problems)
    return list(cases.values())


def _read_entry(entry: Any, description: Description) -> Case:
    if not isinstance(entry, dict) or "image" not in entry or entry.get("label") is None:
        raise description.error(f"{entry!r} does not name an image and a label")
    named = entry["image"] if isinstance(entry["image"], list) else [entry["image"]]
    if not named:
        raise description.error(f"{entry!r} names no image")
    images = tuple(description.inside(path) for path in named)
    label = description.inside(entry["label"])
    for path in (*images, label):
        if not path.name.lower().endswith(IMAGE_SUFFIXES):
            raise description.error(f"{path.name} is not an image ({', '.join(IMAGE_SUFFIXES)})")
        if not path.is_file():
            raise description.error(f"the file {path} does not exist")
    name = image_stem(images[0])
    match = CHANNEL_SUFFIX.match(name)
    return Case(match["case"] if match is not None and len(images) > 1 else name, images, label)


LAYOUT = Layout("msd", "dataset.json with a training list, or imagesTr/ and labelsTr/", detect, read)
