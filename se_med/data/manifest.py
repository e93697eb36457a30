"""What `case.json` of a prepared case says. Apart from what prepares a case, so that a cache is listed without torch."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic import Field, ValidationError

from se_med.config.base import Part

MANIFEST = "case.json"
USED = "used"
"""Empty file whose time is when the entry was used last."""


class Manifest(Part):
    """What `case.json` holds: everything about a prepared case but its voxels."""

    version: Literal[2] = Field(description="Version of the cache.")
    name: str = Field(description="Name of the case when it was prepared.")
    dataset: str = Field(description="Folder name of the data set that it was prepared for.")
    sources: tuple[str, ...] = Field(description="SHA-256 of each image file, then of the label file.")
    pixels: str = Field(description="SHA-256 of the image as read: equal for copies, whatever their files are.")
    shape: tuple[int, int, int] = Field(description="Shape of the prepared arrays.")
    affine: tuple[tuple[float, ...], ...] = Field(description="Prepared voxel -> mm.")
    native_shape: tuple[int, int, int] = Field(description="Shape as stored.")
    native_affine: tuple[tuple[float, ...], ...] = Field(description="Stored voxel -> mm.")
    native_spacing: tuple[float, float, float] = Field(description="Spacing in mm, axes as stored.")
    minimum: tuple[float, ...] = Field(description="Lowest prepared intensity of each channel.")
    foreground: dict[int, int] = Field(description="Number of coordinates kept for each class that is present, in file order.")
    sizes: dict[str, int] = Field(description="Bytes of each array file.")


def read_manifest(entry: Path) -> Manifest | None:
    """Return the manifest of a whole entry; None where something is missing, damaged or of another size."""
    try:
        manifest = Manifest.model_validate_json((entry / MANIFEST).read_bytes())
        if any((entry / name).stat().st_size != size for name, size in manifest.sizes.items()):
            return None
    except (FileNotFoundError, NotADirectoryError, ValidationError):
        return None
    return manifest
