"""The layout of an image folder beside a label folder with equal file names, or of files named by patterns."""

from __future__ import annotations

from se_med.data.layouts.layout import Found, Layout, Source
from se_med.data.layouts.pairing import pair_folders, pair_patterns
from se_med.errors import DataError

FOLDERS = (("images", "labels"), ("imagesTr", "labelsTr"))
"""Names of the two folders, the first pair that exists is read."""


def detect(source: Source) -> bool:
    """Tell whether the folder has an image folder and a label folder."""
    return any((source.root / images).is_dir() and (source.root / labels).is_dir() for images, labels in FOLDERS)


def read(source: Source) -> Found:
    """Return the cases that the patterns name, or those of the first pair of folders that exists.

    Raises:
        DataError: there is no such pair, or its files do not pair.
    """
    root, data = source.root, source.data
    if data.image_files is not None and data.label_files is not None:
        return Found(pair_patterns(root, data.image_files, data.label_files))
    for images, labels in FOLDERS:
        if (root / images).is_dir() and (root / labels).is_dir():
            return Found(pair_folders(root / images, root / labels))
    raise DataError(f"{root}: {LAYOUT.looks_for} not found")


LAYOUT = Layout("folders", "images/ and labels/ (or imagesTr/ and labelsTr/) with equal file names", detect, read)
