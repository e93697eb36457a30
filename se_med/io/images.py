"""Images and label maps of every format that se-med reads: chooses the reader or writer by the file name.

3D and 4D images are NIfTI files (`se_med.io.nifti`), 2D images are PNG, JPEG or TIFF files (`se_med.io.image2d`), which come as
volumes of one slice.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from se_med.errors import ImageError
from se_med.io import image2d, nifti
from se_med.io.atomic import PathLike
from se_med.io.image2d import FLAT_SUFFIXES, LABEL_SUFFIX, is_flat
from se_med.io.nifti import VOLUME_SUFFIXES, Volume, same_geometry

IMAGE_SUFFIXES = (*VOLUME_SUFFIXES, *FLAT_SUFFIXES)
"""File name endings of the images that can be read."""


def read_image(path: PathLike) -> Volume:
    """Read an image of any format strictly; `array` is (C, X, Y, Z) float32.

    Raises:
        ImageError: the file cannot be used, with what to do about it.
    """
    return image2d.read_flat_image(path) if is_flat(path) else nifti.read_image(path)


def read_images(paths: Sequence[PathLike]) -> Volume:
    """Read an image that is stored as one file per channel; channels are joined in the order of `paths`.

    Returns:
        A volume with the header and path of the first file; its digest covers all files.

    Raises:
        ImageError: a file cannot be read, or its grid differs from that of the first.
        ValueError: no path is given.
    """
    if not paths:
        raise ValueError("read_images needs at least one path")
    volumes = [read_image(path) for path in paths]
    first = volumes[0]
    if len(volumes) == 1:
        return first
    for volume in volumes[1:]:
        difference = same_geometry(first, volume)
        if difference:
            raise ImageError(f"{volume.path}: grid differs from {first.path}: {difference}; resample one onto the other")
    digest = hashlib.sha256("".join(volume.digest for volume in volumes).encode()).hexdigest()
    array = np.concatenate([volume.array for volume in volumes])
    return Volume(array, first.affine, first.header, first.path, digest, first.flat)


def read_label(path: PathLike) -> Volume:
    """Read a label map of any format: whole numbers from 0; `array` is (X, Y, Z).

    Raises:
        ImageError: the file cannot be used, with what to do about it.
    """
    return image2d.read_flat_label(path) if is_flat(path) else nifti.read_label(path)


def write_label(path: PathLike, labels: NDArray[Any], like: Volume) -> None:
    """Write a label map on the grid of `like`, atomically: NIfTI, or PNG where the name says so.

    Args:
        path: ends in `.nii`, `.nii.gz` or, for a 2D image, `.png`.
        labels: (X, Y, Z) whole numbers from 0, in the voxel order of `like`.
        like: the volume whose grid the labels are on.

    Raises:
        UsageError: the file name has another ending, or a value does not fit the format.
        ValueError: `labels` has another shape than `like`, is no integer array or has negative values.
        RunError: the file cannot be written.
    """
    if not is_flat(path):
        nifti.write_label(path, labels, like)
        return
    nifti.check_labels(labels, like)
    image2d.write_flat_label(path, labels)


def image_stem(path: PathLike) -> str:
    """File name without its image suffix: `a.nii.gz` and `a.png` give `a`. Another name is returned whole."""
    name = Path(path).name
    suffix = image_suffix(path)
    return name[: len(name) - len(suffix)]


def image_suffix(path: PathLike) -> str:
    """The image suffix of a file name as it is written, or ""."""
    name = Path(path).name
    return next((name[-len(suffix) :] for suffix in IMAGE_SUFFIXES if name.lower().endswith(suffix)), "")


def label_suffix(path: PathLike) -> str:
    """The suffix of the label map that belongs to an image: that of a volume is kept, 2D images get PNG."""
    return LABEL_SUFFIX if is_flat(path) else image_suffix(path)
