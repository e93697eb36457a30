"""Reads and writes an image or label map by the ending of its name: NIfTI, NRRD and MetaImage volumes, PNG, JPEG and TIFF."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from se_med.errors import ImageError, UsageError
from se_med.io import image2d
from se_med.io.atomic import PathLike
from se_med.io.channels import join_channels
from se_med.io.image2d import FLAT_SUFFIXES, is_flat
from se_med.io.metaimage import META_SUFFIXES, read_meta, read_meta_header, write_meta_label
from se_med.io.nifti import NIFTI_SUFFIXES, read_nifti, read_nifti_header
from se_med.io.nifti import write_label as write_nifti_label
from se_med.io.nrrd import NRRD_SUFFIXES, read_nrrd, read_nrrd_header, write_nrrd_label
from se_med.io.stored import Content, Stored, image_volume, label_volume
from se_med.io.volume import Geometry, Volume, check_labels, spacing_of

VOLUME_SUFFIXES = (*NIFTI_SUFFIXES, *NRRD_SUFFIXES, *META_SUFFIXES)
"""File name endings of the volumes that can be read."""
IMAGE_SUFFIXES = (*VOLUME_SUFFIXES, *FLAT_SUFFIXES)
"""File name endings of the images that can be read."""

_LABEL_SUFFIXES = {".hdr": ".nii.gz", ".seg.nrrd": ".nrrd", ".nhdr": ".nrrd", ".mhd": ".mha"}
"""Endings of label maps that are written as one file where the image has two, or has an ending of label maps."""


@dataclass(frozen=True)
class _Format:
    read: Callable[[Path], Content]
    read_header: Callable[[Path], Stored]


_FORMATS = {
    **dict.fromkeys(NIFTI_SUFFIXES, _Format(read_nifti, read_nifti_header)),
    **dict.fromkeys(NRRD_SUFFIXES, _Format(read_nrrd, read_nrrd_header)),
    **dict.fromkeys(META_SUFFIXES, _Format(read_meta, read_meta_header)),
}
_WRITERS: dict[str, Callable[[PathLike, NDArray[Any], Volume], None]] = {
    ".nii": write_nifti_label,
    ".nii.gz": write_nifti_label,
    ".nrrd": write_nrrd_label,
    ".seg.nrrd": write_nrrd_label,
    ".mha": write_meta_label,
}


def read_image(path: PathLike) -> Volume:
    """Read an image of any format strictly; `array` is (C, X, Y, Z) float32.

    Raises:
        ImageError: the file cannot be used, with what to do about it.
    """
    path = Path(path)
    return image2d.read_flat_image(path) if is_flat(path) else image_volume(_format(path).read(path), path)


def read_images(paths: Sequence[PathLike]) -> Volume:
    """Read an image that is stored as one file per channel; channels are joined in the order of `paths`.

    Volumes on other grids than the first are resampled onto it, with a warning (`se_med.io.channels`).

    Returns:
        A volume with the grid, header and path of the first file; its digest covers all files.

    Raises:
        ImageError: a file cannot be read, or does not overlap with the first.
        ValueError: no path is given.
    """
    if not paths:
        raise ValueError("read_images needs at least one path")
    return join_channels([read_image(path) for path in paths])


def read_label(path: PathLike) -> Volume:
    """Read a label map of any format: whole numbers from 0; `array` is (X, Y, Z).

    Raises:
        ImageError: the file cannot be used, with what to do about it.
    """
    path = Path(path)
    return image2d.read_flat_label(path) if is_flat(path) else label_volume(_format(path).read(path), path)


def read_geometry(path: PathLike) -> Geometry:
    """Read the grid of a volume from its header, without the voxels; a 2D image is read whole.

    Raises:
        ImageError: the file is missing, too short for what its header announces, or its header is not usable.
    """
    path = Path(path)
    if not is_flat(path):
        return _format(path).read_header(path).geometry
    image = image2d.read_flat_image(path)
    return Geometry(image.shape, image.affine, spacing_of(image.affine), len(image.array))


def stored_files(path: PathLike) -> tuple[Path, ...]:
    """The files that hold an image: itself, and the file of its voxels where its header lies apart.

    Raises:
        ImageError: the header cannot be used.
    """
    path = Path(path)
    if image_suffix(path).lower() not in (".hdr", ".nhdr", ".nrrd", ".seg.nrrd", ".mhd", ".mha"):
        return (path,)
    data = _format(path).read_header(path).data
    return (path,) if data is None else (path, data)


def write_label(path: PathLike, labels: NDArray[Any], like: Volume) -> None:
    """Write a label map on the grid of `like`, atomically, in the format that the name says.

    Args:
        path: ends in `.nii.gz`, `.nii`, `.nrrd`, `.mha` or, for a 2D image, `.png`.
        labels: (X, Y, Z) whole numbers from 0, in the voxel order of `like`.
        like: the volume whose grid the labels are on.

    Raises:
        UsageError: the file name has another ending, or a value does not fit the format.
        ValueError: `labels` has another shape than `like`, is no integer array or has negative values.
        RunError: the file cannot be written.
    """
    if is_flat(path):
        check_labels(labels, like)
        image2d.write_flat_label(path, labels)
        return
    writer = _WRITERS.get(image_suffix(path).lower())
    if writer is None:
        raise UsageError(f"{path}: cannot write this kind of file; name it .nii.gz, .nii, .nrrd, .mha or .png")
    writer(path, labels, like)


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
    """The suffix of the label map that belongs to an image.

    A volume's own, where that is one file: `.nhdr` gives `.nrrd`, `.mhd` `.mha`, and a `.hdr` pair `.nii.gz`. 2D images get PNG.
    """
    suffix = image_suffix(path)
    return image2d.LABEL_SUFFIX if is_flat(path) else _LABEL_SUFFIXES.get(suffix.lower(), suffix)


def _format(path: Path) -> _Format:
    suffix = image_suffix(path).lower()
    if suffix:
        return _FORMATS[suffix]
    if path.suffix.lower() == ".img":
        raise ImageError(f"{path}: holds the voxels of a pair; name its header {path.stem}.hdr")
    return _FORMATS[".nii.gz"]  # whose reader says what is wrong: a folder, no such file, another format
