"""The layout of an image folder beside a label folder with equal file names."""

from __future__ import annotations

from pathlib import Path

from se_med.data.case import Case
from se_med.data.layouts.description import Description
from se_med.data.layouts.layout import Layout
from se_med.data.layouts.pairing import pair_folders
from se_med.errors import DataError

FOLDERS = (("images", "labels"), ("imagesTr", "labelsTr"))
"""Names of the two folders, the first pair that exists is read."""


def detect(root: Path, _description: Description) -> bool:
    """Tell whether the folder has an image folder and a label folder."""
    return any((root / images).is_dir() and (root / labels).is_dir() for images, labels in FOLDERS)


def read(root: Path, _description: Description) -> list[Case]:
    """Return the cases of the first pair of folders that exists.

    Raises:
        DataError: there is no such pair, or its files do not pair.
    """
    for images, labels in FOLDERS:
        if (root / images).is_dir() and (root / labels).is_dir():
            return pair_folders(root / images, root / labels)
    raise DataError(f"{root}: {LAYOUT.looks_for} not found")


LAYOUT = Layout("folders", "images/ and labels/ (or imagesTr/ and labelsTr/) with equal file names", detect, read)
