"""NIfTI images and label maps: a strict reader, and a writer that keeps an image's geometry bit for bit.

Voxels stay in the file's own order; orientation and spacing are changed elsewhere (`se_med.data.preparation`). A file that is
damaged or ambiguous is refused with one line that names the file, the value found and what to do.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
from isal import igzip
from nibabel.volumeutils import apply_read_scaling
from numpy.typing import NDArray

from se_med.errors import ImageError, UsageError
from se_med.io.atomic import PathLike, write_bytes
from se_med.io.filebytes import read_header, read_voxels
from se_med.io.header import Stored, affine_of, spacing_of

VOLUME_SUFFIXES = (".nii.gz", ".nii")
"""File name endings of the images that can be read."""

_TOLERANCE = 1e-3  # of a voxel
_LABEL_TOLERANCE = 1e-3  # labels stored as scaled integers or floats come back as 0.9999
_LABEL_TYPES = (np.uint8, np.uint16, np.uint32, np.uint64)
_GEOMETRY_FIELDS = (
    *("qform_code", "quatern_b", "quatern_c", "quatern_d", "qoffset_x", "qoffset_y", "qoffset_z"),
    *("sform_code", "srow_x", "srow_y", "srow_z", "xyzt_units"),
)


@dataclass(frozen=True, eq=False)
class Volume:
    """An image or a label map as its file stores it.

    Attributes:
        array: image `(C, X, Y, Z)` float32, label map `(X, Y, Z)` unsigned integer, in the file's own voxel order.
        affine: `(4, 4)` float64, voxel index to mm in RAS+ world coordinates.
        header: nibabel header (sform and qform codes, units); None for a volume that was not read from a file.
        path: the file, or None.
        digest: sha256 (hex) of the file's bytes.
        flat: a 2D image, read as one slice: its spacing is one pixel, since its true one is not known.
    """

    array: NDArray[Any]
    affine: NDArray[np.float64]
    header: Any = field(default=None, repr=False)
    path: Path | None = None
    digest: str = ""
    flat: bool = False

    @property
    def shape(self) -> tuple[int, int, int]:
        """Voxels along each spatial axis as stored."""
        x, y, z = self.array.shape[-3:]
        return x, y, z

    @property
    def spacing(self) -> tuple[float, float, float]:
        """Length of the voxel edges in mm, along the axes as stored."""
        return spacing_of(self.affine)


@dataclass(frozen=True, eq=False)
class Geometry:
    """The voxel grid of a file: shape in voxels, affine (voxel to mm, RAS+), spacing in mm, number of channels."""

    shape: tuple[int, int, int]
    affine: NDArray[np.float64]
    spacing: tuple[float, float, float]
    channels: int = 1


def read_image(path: PathLike) -> Volume:
    """Read an image strictly: 3D gives one channel, in 4D the last axis holds the channels.

    Raises:
        ImageError: the file is missing, damaged, truncated, no 3D or 4D scalar image, without a usable geometry, or holds NaN
            or infinity.
    """
    path = _volume_path(path)
    stored, raw, digest = read_voxels(path)
    voxels = np.moveaxis(raw, -1, 0) if raw.ndim == 4 else raw[np.newaxis]
    scaled = stored.slope is not None or stored.dtype.kind == "f"
    with np.errstate(over="ignore", invalid="ignore"):  # float64 beyond float32 becomes infinite and is refused below
        array = _ordered(_scaled(voxels, stored), np.float32)
        finite = not scaled or bool(np.isfinite(array.sum(dtype=np.float64)))
    if not finite:
        raise ImageError(f"{path}: {_count_not_finite(array)}; mask them out or export the image again")
    return Volume(array, stored.affine, stored.header, path, digest)


def read_label(path: PathLike) -> Volume:
    """Read a label map: whole numbers from 0, as the smallest unsigned integer type that holds them.

    Floats are accepted where every value is a whole number (to 0.001: scaled label maps come back as 0.9999).

    Raises:
        ImageError: as for `read_image`, or 4D, or with negative or fractional values.
    """
    path = _volume_path(path)
    stored, raw, digest = read_voxels(path)
    if raw.ndim == 4:
        words = "x".join(map(str, raw.shape))
        raise ImageError(f"{path}: 4D label map of shape {words}; store one 3D map with a value per structure")
    values = _scaled(raw, stored)
    if values.dtype.kind == "f":
        values = _whole_numbers(values, path)
    lowest, highest = int(values.min()), int(values.max())
    if lowest < 0:
        raise ImageError(f"{path}: label value {lowest} is negative; use whole numbers from 0 (background)")
    return Volume(_ordered(values, _label_type(highest)), stored.affine, stored.header, path, digest)


def read_geometry(path: PathLike) -> Geometry:
    """Read only the header of an image or label map: its grid, without its voxels.

    Raises:
        ImageError: the file is missing or truncated, or its header is not usable.
    """
    stored = read_header(_volume_path(path))
    x, y, z = stored.shape[:3]
    channels = stored.shape[3] if len(stored.shape) == 4 else 1
    return Geometry((x, y, z), stored.affine, spacing_of(stored.affine), channels)


def same_geometry(a: Volume | Geometry, b: Volume | Geometry) -> str | None:
    """Compare two grids: shape, and affine to a thousandth of a voxel.

    Returns:
        None when they agree, else one line with both values of the first thing that differs: shape, spacing, direction or origin.
    """
    if a.shape != b.shape:
        return f"shape {_words(a.shape, 'x')} against {_words(b.shape, 'x')}"
    spacing = np.array(a.spacing)
    if (np.abs(spacing - np.array(b.spacing)) > _TOLERANCE * spacing).any():
        return f"spacing {_words(a.spacing, 'x')} against {_words(b.spacing, 'x')} mm"
    turned = np.linalg.norm(a.affine[:3, :3] - b.affine[:3, :3], axis=0)
    if (turned > _TOLERANCE * spacing).any():
        return f"axis directions {_directions(a)} against {_directions(b)}"
    shift = np.linalg.solve(a.affine[:3, :3], a.affine[:3, 3] - b.affine[:3, 3])  # in voxels
    if (np.abs(shift) > _TOLERANCE).any():
        return f"origin ({_words(a.affine[:3, 3], ', ')}) against ({_words(b.affine[:3, 3], ', ')}) mm"
    return None


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
    if not path.name.lower().endswith(VOLUME_SUFFIXES):
        raise UsageError(f"{path}: cannot write this kind of file; name it .nii.gz or .nii")
    labels = np.asarray(labels)
    check_labels(labels, like)
    voxels = labels.astype(_label_type(int(labels.max())))
    header = _label_header(like, voxels)
    content = header.binaryblock.ljust(int(header["vox_offset"]), b"\0") + voxels.tobytes(order="F")
    if path.name.lower().endswith(".gz"):
        content = igzip.compress(content, compresslevel=2, mtime=0)
    write_bytes(path, content)


def check_labels(labels: NDArray[Any], like: Volume) -> None:
    """Raise a ValueError unless `labels` are whole numbers from 0 on the grid of `like`."""
    if labels.shape != like.shape:
        raise ValueError(f"labels have shape {labels.shape}, the grid has {like.shape}")
    if labels.dtype.kind not in "iub" or int(labels.min()) < 0:
        raise ValueError(f"labels must be whole numbers from 0, got {labels.dtype} from {labels.min()}")


def _volume_path(path: PathLike) -> Path:
    path = Path(path)
    if path.name.lower().endswith(VOLUME_SUFFIXES) or path.is_dir():
        return path
    raise ImageError(f"{path}: not a .nii.gz or .nii file; convert it to .nii.gz")


def _scaled(voxels: NDArray[Any], stored: Stored) -> NDArray[Any]:
    if stored.slope is None:
        return voxels
    with np.errstate(over="ignore", invalid="ignore"):  # what overflows becomes infinite and is refused by the caller
        scaled: NDArray[Any] = apply_read_scaling(voxels, stored.slope, stored.intercept)
    return scaled


def _ordered(voxels: NDArray[Any], dtype: Any) -> NDArray[Any]:
    """Copy into a C-contiguous array of `dtype`."""
    return np.ascontiguousarray(voxels, dtype=dtype)


def _whole_numbers(values: NDArray[Any], path: Path) -> NDArray[np.int64]:
    if not np.isfinite(values).all():
        raise ImageError(f"{path}: {_count_not_finite(values)}; a label map holds whole numbers from 0")
    rounded = np.rint(values)
    odd = np.abs(values - rounded) > _LABEL_TOLERANCE
    if odd.any():
        raise ImageError(
            f"{path}: {int(odd.sum())} voxels with fractional labels such as {float(values[odd][0]):g}; a label map holds whole "
            "numbers: resample it with nearest neighbour, or threshold the probabilities"
        )
    if np.abs(rounded).max() > 2**53:
        raise ImageError(f"{path}: label value {float(np.abs(rounded).max()):g} is too large to be true; write the labels again")
    whole: NDArray[np.int64] = rounded.astype(np.int64)
    return whole


def _count_not_finite(values: NDArray[Any]) -> str:
    nan, infinite = int(np.isnan(values).sum()), int(np.isinf(values).sum())
    return f"{nan} voxels are NaN and {infinite} infinite, of {values.size}"


def _label_type(highest: int) -> Any:
    return next(kind for kind in _LABEL_TYPES if highest <= np.iinfo(kind).max)


def _label_header(like: Volume, voxels: NDArray[Any]) -> Any:
    """A fresh header with the geometry of `like`: nothing else of its header, which may name a patient, is copied."""
    kind = nibabel.Nifti1Header if like.header is None else type(like.header)
    header = kind(endianness="<")
    header.set_data_shape(voxels.shape)
    header.set_data_dtype(voxels.dtype)
    if like.header is not None and np.array_equal(affine_of(like.header, like.path), like.affine):
        for name in _GEOMETRY_FIELDS:
            header[name] = like.header[name]
        header["pixdim"][:4] = like.header["pixdim"][:4]
    else:
        header.set_xyzt_units("mm")
        header.set_sform(like.affine, code="aligned")
        header.set_qform(like.affine, code="aligned", strip_shears=True)
    header["scl_slope"], header["scl_inter"] = 1.0, 0.0
    header["vox_offset"] = header.single_vox_offset
    header["descrip"] = b"se-med"
    header.set_intent("label")
    return header


def _words(values: Any, separator: str) -> str:
    return separator.join(f"{value:.6g}" for value in values)


def _directions(grid: Volume | Geometry) -> str:
    columns = grid.affine[:3, :3] / np.array(grid.spacing)
    return f"[{'; '.join(_words(column, ' ') for column in columns.T)}]"
