"""NIfTI images and label maps: a strict reader, and a writer that keeps an image's geometry bit for bit.

A file that is damaged or ambiguous is refused with one line that names the file, the value found and what to do.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
from numpy.typing import NDArray

from se_med.errors import ImageError, UsageError
from se_med.io.atomic import PathLike, write_bytes
from se_med.io.blocks import check_block, read_block
from se_med.io.filebytes import read_header, read_small_file, read_voxels
from se_med.io.header import affine_of, parse_header
from se_med.io.pieces import gzipped
from se_med.io.stored import Content, Stored, image_volume, in_c_order, label_volume
from se_med.io.volume import Geometry, Volume, check_labels, label_type

NIFTI_SUFFIXES = (".nii.gz", ".nii", ".hdr")
"""File name endings of the images that can be read; the voxels of a `.hdr` file are in the `.img` file beside it."""
WRITTEN_SUFFIXES = (".nii.gz", ".nii")

_SLICES = 64  # turned around together: as many bytes as the processor reads at once
_MOST_HEADER = 2**20  # bytes of a .hdr file; what follows the 348 are extensions
_GEOMETRY_FIELDS = (
    *("qform_code", "quatern_b", "quatern_c", "quatern_d", "qoffset_x", "qoffset_y", "qoffset_z"),
    *("sform_code", "srow_x", "srow_y", "srow_z", "xyzt_units"),
)


def read_image(path: PathLike) -> Volume:
    """Read an image strictly: 3D gives one channel, in 4D the last axis holds the channels.

    Raises:
        ImageError: the file is missing, damaged, truncated, no 3D or 4D scalar image, without a usable geometry, or holds NaN
            or infinity.
    """
    return image_volume(read_nifti(Path(path)), Path(path))


def read_label(path: PathLike) -> Volume:
    """Read a label map: whole numbers from 0, as the smallest unsigned integer type that holds them.

    Floats are accepted where every value is a whole number (to 0.001: scaled label maps come back as 0.9999).

    Raises:
        ImageError: as for `read_image`, or 4D, or with negative or fractional values.
    """
    return label_volume(read_nifti(Path(path)), Path(path))


def read_geometry(path: PathLike) -> Geometry:
    """Read only the header of an image or label map: its grid, without its voxels.

    Raises:
        ImageError: the file is missing or truncated, or its header is not usable.
    """
    return read_nifti_header(Path(path)).geometry


def read_nifti(path: Path) -> Content:
    """Read a whole file, or both of a .hdr/.img pair, and verify every byte.

    Raises:
        ImageError: the file cannot be used.
    """
    _check_name(path)
    return read_block(_pair_header(path), path) if _is_pair(path) else read_voxels(path)


def read_nifti_header(path: Path) -> Stored:
    """Read and check a header, and that the voxels are there.

    Raises:
        ImageError: the file cannot be used.
    """
    _check_name(path)
    if not _is_pair(path):
        return read_header(path)
    stored = _pair_header(path)
    check_block(stored, path)
    return stored


def write_label(path: PathLike, labels: NDArray[Any], like: Volume) -> None:
    """Write a label map on the grid of `like`, atomically, as the smallest unsigned integer type that holds its values.

    Sform and qform codes and matrices, spacing and units are those of `like`'s header bit for bit. Equal labels give equal bytes.

    Args:
        path: ends in `.nii` or `.nii.gz`.
        labels: `(X, Y, Z)` whole numbers from 0 (any integer or boolean type), in the voxel order of `like`.
        like: the volume whose grid the labels are on.

    Raises:
        UsageError: the file name has another ending.
        ValueError: `labels` has another shape than `like`, is no integer array or has negative values.
        RunError: the file cannot be written.
    """
    path = Path(path)
    if not path.name.lower().endswith(WRITTEN_SUFFIXES):
        raise UsageError(f"{path}: cannot write this kind of file; name it .nii.gz or .nii")
    labels = np.asarray(labels)
    check_labels(labels, like)
    voxels = labels.astype(label_type(int(labels.max())), copy=False)
    header = header_like(like, voxels)
    header.set_intent("label")
    start = header.binaryblock.ljust(int(header["vox_offset"]), b"\0")
    # The file has the first axis fastest: slices across the last, each turned around, follow one another.
    slices = (in_c_order(voxels.T[first : first + _SLICES], voxels.dtype) for first in range(0, voxels.shape[2], _SLICES))
    if path.name.lower().endswith(".gz"):
        write_bytes(path, gzipped(start, slices, voxels.size))
    else:
        write_bytes(path, b"".join([start, *(slice_.tobytes() for slice_ in slices)]))


def _check_name(path: Path) -> None:
    if not path.name.lower().endswith(NIFTI_SUFFIXES) and not path.is_dir():  # a folder is refused as such
        raise ImageError(f"{path}: not a .nii.gz or .nii file; convert it to .nii.gz")


def _is_pair(path: Path) -> bool:
    return path.suffix.lower() == ".hdr"


def _pair_header(path: Path) -> Stored:
    """Read the header of a .hdr/.img pair."""
    stored = parse_header(read_small_file(path, _MOST_HEADER), path, pair=True)
    return replace(stored, data=path.with_suffix(".IMG" if path.suffix.isupper() else ".img"))


def header_like(like: Volume, voxels: NDArray[Any]) -> Any:
    """Make a fresh header with the geometry of `like`: nothing else of its header, which may name a patient, is copied."""
    known = like.header if isinstance(like.header, nibabel.Nifti1Header) else None
    kind = nibabel.Nifti1Header if known is None else type(known)
    header = kind(endianness="<")
    header.set_data_shape(voxels.shape)
    header.set_data_dtype(voxels.dtype)
    if known is not None and np.array_equal(affine_of(known, like.path), like.affine):
        for name in _GEOMETRY_FIELDS:
            header[name] = known[name]
        header["pixdim"][:4] = known["pixdim"][:4]
    else:
        header.set_xyzt_units("mm")
        header.set_sform(like.affine, code="aligned")
        header.set_qform(like.affine, code="aligned", strip_shears=True)
    header["scl_slope"], header["scl_inter"] = 1.0, 0.0
    header["vox_offset"] = header.single_vox_offset
    header["descrip"] = b"se-med"
    return header
