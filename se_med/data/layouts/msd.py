"""The layout of the Medical Segmentation Decathlon: `dataset.json` with imagesTr/ and labelsTr/.

The cases are those of the `training` list. Without such a list they are the files of imagesTr/ and labelsTr/ with equal names.
The first nnU-Net wrote such lists too, with names that lack the channel number of the files; these are found.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from se_med.data.case import Case, refuse
from se_med.data.layouts.description import Description
from se_med.data.layouts.layout import Found, Layout, Source
from se_med.data.layouts.pairing import CHANNEL_SUFFIX, pair_folders
from se_med.errors import DataError
from se_med.io.images import image_stem, image_suffix


def detect(source: Source) -> bool:
    """Tell whether there is a `training` list, or imagesTr/ and labelsTr/."""
    folders = (source.root / "imagesTr", source.root / "labelsTr")
    return "training" in source.description.content or all(folder.is_dir() for folder in folders)


def read(source: Source) -> Found:
    """Return the cases of the `training` list, or those of imagesTr/ and labelsTr/.

    Raises:
        DataError: lists every file that is missing, leaves the folder, or repeats a name.
    """
    root, description = source.root, source.description
    entries = description.content.get("training")
    if entries is None:
        for folder in ("imagesTr", "labelsTr"):
            if not (root / folder).is_dir():
                raise DataError(f"{root}: no folder {folder}, looked for {LAYOUT.looks_for}")
        return Found(pair_folders(root / "imagesTr", root / "labelsTr"))
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
    return Found(list(cases.values()))


def _read_entry(entry: Any, description: Description) -> Case:
    if not isinstance(entry, dict) or "image" not in entry or entry.get("label") is None:
        raise description.error(f"{entry!r} does not name an image and a label")
    named = entry["image"] if isinstance(entry["image"], list) else [entry["image"]]
    if not named:
        raise description.error(f"{entry!r} names no image")
    if len(named) == 1 and (channels := _channel_files(description.inside(named[0]))):
        return Case(image_stem(named[0]), channels, description.image(entry["label"]))
    images = tuple(description.image(path) for path in named)
    name = image_stem(images[0])
    match = CHANNEL_SUFFIX.match(name)
    return Case(match["case"] if match is not None and len(images) > 1 else name, images, description.image(entry["label"]))


def _channel_files(path: Path) -> tuple[Path, ...]:
    """Return the channel files of an image that is not there itself; () where it is, or where there are none."""
    if path.is_file() or not path.parent.is_dir():
        return ()
    stem, suffix = image_stem(path), image_suffix(path)
    files: list[Path] = []
    while (channel := path.with_name(f"{stem}_{len(files):04d}{suffix}")).is_file():
        files.append(channel)
    return tuple(files)


LAYOUT = Layout("msd", "dataset.json with a training list, or imagesTr/ and labelsTr/", detect, read)
