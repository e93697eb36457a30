"""Finds the images of a folder, joins channel files, and pairs images with labels by name."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from pathlib import Path, PurePosixPath

from se_med.data.case import Case, refuse
from se_med.errors import DataError
from se_med.io.images import IMAGE_SUFFIXES, image_stem, image_suffix

CHANNEL_SUFFIX = re.compile(r"^(?P<case>.+)_(?P<channel>\d{4})$")


def list_images(folder: Path, ending: str = "") -> list[Path]:
    """Return the volumes and 2D images of a folder (not of its subfolders), sorted; hidden files, as `._name`, are left out.

    What only has the name of an image, such as a broken link, is returned too: whoever reads it says what is wrong.

    Args:
        folder: the folder.
        ending: ending of the names to take.

    Raises:
        DataError: the folder cannot be read or has no image.
    """
    try:
        files = sorted(path for path in folder.iterdir() if not path.name.startswith("."))
    except OSError as error:
        raise DataError(f"{folder}: cannot be listed: {error.strerror}") from None
    images = [path for path in files if image_suffix(path) and path.name.endswith(ending)]
    if not images:
        files = [path for path in files if path.is_file()]
        others = sorted({path.suffix for path in files if path.suffix})[:5]
        found = f"; found {', '.join(others)}" if others else "; the folder is empty" if not files else ""
        raise DataError(f"{folder}: no images, looked for {ending or ', '.join(IMAGE_SUFFIXES)}{found}")
    return images


def pair_folders(images: Path, labels: Path, ending: str = "") -> list[Case]:
    """Pair the images of one folder with the labels of another by equal stems.

    An image whose stem has no label of its own but ends in `_0000`, `_0001`, ... is a channel of the case before that suffix.

    Args:
        images: folder of images.
        labels: folder of labels.
        ending: ending of the names to take.

    Raises:
        DataError: lists every image without a label, label without an image, repeated name and missing channel.
    """
    label_files, problems = _by_name(labels.name, [(image_stem(path), path) for path in list_images(labels, ending)])
    image_files, more = _by_name(images.name, [(image_stem(path), path) for path in list_images(images, ending)])
    return _pair(images.parent, image_files, label_files, (images.name, labels.name), problems + more)


def pair_patterns(root: Path, image_patterns: str | Sequence[str], label_pattern: str) -> list[Case]:
    """Pair the files that match patterns by what `*` stands for; it may stand for a part of a folder's or a file's name.

    With several `*`, the name of the case is what they stand for, joined by `_`; what is repeated counts once, so that
    `*/*_t1.nii.gz` is the same case for `p1/p1_t1.nii.gz` as `*/seg.nii.gz` for `p1/seg.nii.gz`. Files that match the label
    pattern too are labels.

    Args:
        root: folder that the patterns are relative to.
        image_patterns: pattern of the images, whose numbered channels are joined as by `pair_folders`; or one per channel.
        label_pattern: pattern of the labels.

    Raises:
        DataError: as for `pair_folders`, or no file matches, or one that does is no image.
    """
    patterns = (image_patterns,) if isinstance(image_patterns, str) else tuple(image_patterns)
    found_labels = _matches(root, label_pattern)
    taken = {path for _, path in found_labels}
    found = [[entry for entry in _matches(root, pattern) if entry[1] not in taken] for pattern in patterns]
    odd = {path: None for entries in (*found, found_labels) for _, path in entries if not image_suffix(path)}
    refuse(root, [f"{path.relative_to(root)}: not an image ({', '.join(IMAGE_SUFFIXES)})" for path in odd])
    for pattern, entries in zip((*patterns, label_pattern), (*found, found_labels), strict=True):
        if not entries:
            raise DataError(f"{root}: no file matches data.{'label' if entries is found_labels else 'image'}_files {pattern!r}")
    label_files, problems = _by_name(label_pattern, found_labels)
    channels = []
    for pattern, entries in zip(patterns, found, strict=True):
        files, more = _by_name(pattern, entries)
        channels.append(files)
        problems += more
    if isinstance(image_patterns, str):
        return _pair(root, channels[0], label_files, (image_patterns, label_pattern), problems)
    return _join(root, dict(zip(patterns, channels, strict=True)), label_files, label_pattern, problems)


def _join(
    root: Path, channels: dict[str, dict[str, Path]], label_files: dict[str, Path], where: str, problems: list[str]
) -> list[Case]:
    """Join the files of one name, a channel from each pattern."""
    patterns: dict[Path, str] = {}
    for pattern, files in channels.items():
        for path in files.values():
            if patterns.setdefault(path, pattern) != pattern:
                problems.append(f"{path.relative_to(root)}: matches data.image_files {patterns[path]!r} and {pattern!r}")
    cases = []
    for name in sorted({name for files in channels.values() for name in files} | set(label_files)):
        missing = [pattern for pattern, files in channels.items() if name not in files]
        problems += [f"case {name!r}: no file matches data.image_files {pattern!r}" for pattern in missing]
        if name not in label_files:
            problems.append(f"case {name!r}: image without a label in {where}")
        elif not missing:
            cases.append(Case(name, tuple(files[name] for files in channels.values()), label_files[name]))
    refuse(root, problems)
    return cases


def _pair(
    root: Path, image_files: dict[str, Path], label_files: dict[str, Path], where: tuple[str, str], problems: list[str]
) -> list[Case]:
    channels: dict[str, dict[int, Path]] = {}
    for key, path in image_files.items():
        match = CHANNEL_SUFFIX.match(key)
        if key in label_files or match is None:
            name, channel = key, 0
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
            problems += [f"{path.relative_to(root)}: image without a label in {where[1]}" for path in files.values()]
        elif missing or len(files) != count:
            problems.append(f"{name}: has channels {sorted(files)}, most cases have {list(range(count))}")
        else:
            cases.append(Case(name, tuple(files[number] for number in range(count)), label_files[name]))
    problems += [
        f"{path.relative_to(root)}: label without an image in {where[0]}"
        for name, path in label_files.items()
        if name not in channels
    ]
    refuse(root, problems)
    return cases


def _by_name(where: str, found: list[tuple[str, Path]]) -> tuple[dict[str, Path], list[str]]:
    files: dict[str, Path] = {}
    problems = []
    for name, path in found:
        if name in files:
            problems.append(f"{where}: {files[name].name} and {path.name} have the same name; keep one")
        files[name] = path
    return files, problems


def _matches(root: Path, pattern: str) -> list[tuple[str, Path]]:
    """Return the files that match a pattern and what its `*` stand for, sorted; hidden files and folders are left out."""
    parts = [
        re.escape(part).replace(r"\*", "([^/.][^/]*)" if part.startswith("*") else "([^/]+)")
        for part in PurePosixPath(pattern).parts
    ]
    expression = re.compile("/".join(parts))
    found = []
    for path in sorted(root.glob(pattern)):
        match = expression.fullmatch(path.relative_to(root).as_posix())
        if match is not None and path.is_file() and not path.name.startswith("."):
            found.append(("_".join(dict.fromkeys(match.groups())), path))
    return found
