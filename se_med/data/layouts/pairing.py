"""Finds the volumes of a folder, joins channel files, and pairs images with labels by name."""

from __future__ import annotations

import re
from collections import Counter
from pathlib import Path

from se_med.data.case import Case, refuse
from se_med.errors import DataError
from se_med.io.nifti import VOLUME_SUFFIXES, volume_stem

CHANNEL_SUFFIX = re.compile(r"^(?P<case>.+)_(?P<channel>\d{4})$")


def list_volumes(folder: Path) -> list[Path]:
    """Return the volumes of a folder (not of its subfolders), sorted; hidden files, as macOS's `._name`, are left out.

    Raises:
        DataError: the folder cannot be read or has no volume.
    """
    try:
        files = sorted(path for path in folder.iterdir() if not path.name.startswith(".") and path.is_file())
    except OSError as error:
        raise DataError(f"{folder}: cannot be listed: {error.strerror}") from None
    volumes = [path for path in files if path.name.lower().endswith(VOLUME_SUFFIXES)]
    if not volumes:
        others = sorted({path.suffix for path in files if path.suffix})[:5]
        found = f"; found {', '.join(others)}" if others else "; the folder is empty" if not files else ""
        raise DataError(f"{folder}: no volumes, looked for {' and '.join(VOLUME_SUFFIXES)}{found}")
    return volumes


def pair_folders(images: Path, labels: Path) -> list[Case]:
    """Pair the images of one folder with the labels of another by equal stems.

    An image whose stem has no label of its own but ends in `_0000`, `_0001`, ... is a channel of the case before that suffix.

    Args:
        images: folder of images.
        labels: folder of labels.

    Raises:
        DataError: lists every image without a label, label without an image, repeated name and missing channel.
    """
    label_files, problems = _by_stem(list_volumes(labels))
    image_files, more = _by_stem(list_volumes(images))
    problems += more
    channels: dict[str, dict[int, Path]] = {}
    for stem, path in image_files.items():
        match = CHANNEL_SUFFIX.match(stem)
        if stem in label_files or match is None:
            name, channel = stem, 0
        else:
            name, channel = match["case"], int(match["channel"])
        if channel in channels.setdefault(name, {}):
            problems.append(f"{path.name}: also {channels[name][channel].name} is channel {channel} of case {name!r}")
        channels[name][channel] = path
    count = Counter(len(files) for files in channels.values()).most_common(1)[0][0]
    cases = []
    for name, files in channels.items():
        missing = [number for number in range(count) if number not in files]
        if name not in label_files:
            problems += [f"{path.relative_to(images.parent)}: image without a label in {labels.name}" for path in files.values()]
        elif missing or len(files) != count:
            problems.append(f"{name}: has channels {sorted(files)}, most cases have {list(range(count))}")
        else:
            cases.append(Case(name, tuple(files[number] for number in range(count)), label_files[name]))
    problems += [
        f"{path.relative_to(labels.parent)}: label without an image in {images.name}"
        for name, path in label_files.items()
        if name not in channels
    ]
    refuse(images.parent, problems)
    return cases


def _by_stem(paths: list[Path]) -> tuple[dict[str, Path], list[str]]:
    files: dict[str, Path] = {}
    problems = []
    for path in paths:
        stem = volume_stem(path)
        if stem in files:
            problems.append(f"{path.parent.name}: {files[stem].name} and {path.name} have the same name; keep one")
        files[stem] = path
    return files, problems
