"""MetaImage volumes (.mha, and .mhd with the voxels in a file beside it): a strict reader and a writer of label maps.

The format is ITK's: itk.org/Wiki/ITK/MetaIO/Documentation. Read are binary volumes with three axes and any number of channels.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from isal import isal_zlib
from numpy.typing import NDArray

from se_med.io.atomic import PathLike, write_bytes
from se_med.io.blocks import check_block, read_block, read_start
from se_med.io.filebytes import AGAIN
from se_med.io.stored import Content, Stored
from se_med.io.textheader import MOST_HEADER, Fields, split_header
from se_med.io.volume import Volume, check_affine, check_labels, label_type, spacing_of

META_SUFFIXES = (".mha", ".mhd")

_TYPES = {  # MetaIO's long has 4 bytes on every machine
    "MET_CHAR": "i1",
    "MET_UCHAR": "u1",
    "MET_SHORT": "i2",
    "MET_USHORT": "u2",
    "MET_INT": "i4",
    "MET_UINT": "u4",
    "MET_LONG": "i4",
    "MET_ULONG": "u4",
    "MET_LONG_LONG": "i8",
    "MET_ULONG_LONG": "u8",
    "MET_FLOAT": "f4",
    "MET_DOUBLE": "f8",
}
_WRITTEN = {"u1": "MET_UCHAR", "u2": "MET_USHORT", "u4": "MET_UINT", "u8": "MET_ULONG_LONG"}
_LAST = "ElementDataFile"


@dataclass(frozen=True)
class MetaGeometry:
    """The grid as a MetaImage writes it: a product of directions and spacing would not come back bit for bit.

    Attributes:
        directions: nine cosines, the direction of the first axis first, in the left-posterior-superior world.
        origin: centre of the first voxel, mm.
        spacing: mm per axis.
    """

    directions: tuple[float, ...]
    origin: tuple[float, ...]
    spacing: tuple[float, ...]

    @property
    def affine(self) -> NDArray[np.float64]:
        """Voxel -> mm in the RAS+ world, (4, 4)."""
        affine = np.eye(4)
        affine[:3, :3] = np.array(self.directions).reshape(3, 3).T * np.array(self.spacing)
        affine[:3, 3] = self.origin
        affine[:2] *= -1
        return affine + 0.0  # no negative zeros


def read_meta_header(path: Path) -> Stored:
    """Read and check a header, and that the voxels are there.

    Raises:
        ImageError: the file cannot be used.
    """
    stored = _parse(path)
    check_block(stored, path)
    return stored


def read_meta(path: Path) -> Content:
    """Read a whole file, and the data file beside it where there is one, and verify every byte.

    Raises:
        ImageError: the file is missing, damaged, truncated, or no volume of plain numbers with a usable geometry.
    """
    return read_block(_parse(path), path)


def write_meta_label(path: PathLike, labels: NDArray[Any], like: Volume) -> None:
    """Write a label map on the grid of `like`, compressed and atomically. Equal labels give equal bytes.

    The geometry of a `like` that was read from a MetaImage is written number for number.

    Args:
        path: ends in `.mha`.
        labels: (X, Y, Z) whole numbers from 0, in the voxel order of `like`.
        like: the volume whose grid the labels are on.

    Raises:
        ValueError: `labels` has another shape than `like`, is no integer array or has negative values.
        RunError: the file cannot be written.
    """
    check_labels(labels, like)
    voxels = labels.astype(np.dtype(label_type(int(labels.max()))).newbyteorder("<"))
    geometry = like.header
    if not isinstance(geometry, MetaGeometry) or not np.array_equal(geometry.affine, like.affine):
        geometry = _geometry_of(like.affine)
    packed = isal_zlib.compress(voxels.tobytes(order="F"), level=2)
    header = (
        "ObjectType = Image",
        "NDims = 3",
        "BinaryData = True",
        "BinaryDataByteOrderMSB = False",
        "CompressedData = True",
        f"CompressedDataSize = {len(packed)}",
        f"TransformMatrix = {_words(geometry.directions)}",
        f"Offset = {_words(geometry.origin)}",
        "CenterOfRotation = 0 0 0",
        f"ElementSpacing = {_words(geometry.spacing)}",
        f"DimSize = {' '.join(map(str, voxels.shape))}",
        f"ElementType = {_WRITTEN[voxels.dtype.str[1:]]}",
        f"{_LAST} = LOCAL",
    )
    write_bytes(path, "\n".join(header).encode() + b"\n" + packed)


def _parse(path: Path) -> Stored:
    lines, end = split_header(read_start(path, MOST_HEADER), _LAST.encode(), path)
    fields = Fields(path)
    for line in lines:
        name, sign, text = line.partition("=")
        if not line:
            continue
        if not sign:
            raise fields.error(f"not a MetaImage header: {line[:40]!r} is no `Field = value`; convert it to .nii.gz")
        fields.add(name.strip(), text.strip())
    data = fields.get(_LAST)
    if (fields.find("ObjectType") or "Image") != "Image":
        raise fields.error(f"ObjectType is {fields.find('ObjectType')!r}, not Image; name an image")
    _check_rank(fields)
    packed = _flag(fields, "CompressedData")
    if not _flag(fields, "BinaryData", default=True):
        raise fields.error("its voxels are stored as text (BinaryData = False); save it binary")
    shape = fields.sizes("DimSize", fields.get("DimSize"), 3)
    channels = fields.whole_numbers("ElementNumberOfChannels", fields.find("ElementNumberOfChannels") or "1", 1)[0]
    if channels < 1:
        raise fields.error(f"ElementNumberOfChannels is {channels}, must be 1 or more; {AGAIN}")
    dtype = _voxel_type(fields)
    _check_intensities(fields)
    geometry = _geometry(fields)
    skipped = fields.whole_numbers("HeaderSize", fields.find("HeaderSize") or "0", 1)[0]
    local = data.upper() in ("LOCAL", "")
    if skipped < 0 or (skipped and (local or packed)):
        raise fields.error(f"HeaderSize is {skipped}, must be 0, or more for a raw data file; {AGAIN}")
    return Stored(
        header=geometry,
        shape=(*shape, channels) if channels > 1 else shape,
        affine=geometry.affine,
        dtype=dtype,
        offset=end if local else skipped,
        data=None if local else fields.beside(data),
        packing="zlib" if packed else "none",
        channel_axis=0 if channels > 1 else 3,
    )


def _check_rank(fields: Fields) -> None:
    rank = fields.whole_numbers("NDims", fields.get("NDims"), 1)[0]
    if rank != 3:
        shape = "x".join(fields.get("DimSize").split())
        advice = f"a volume, one slice as {shape}x1" if rank == 2 else "a 3D volume, perhaps with ElementNumberOfChannels"
        raise fields.error(f"{rank}D image of shape {shape}; store it as {advice}")


def _voxel_type(fields: Fields) -> np.dtype[Any]:
    name = fields.get("ElementType")
    if name not in _TYPES:
        raise fields.error(f"voxel type {name!r} cannot be read; store the voxels as integers or floats")
    most_first = [name for name in ("BinaryDataByteOrderMSB", "ElementByteOrderMSB") if _flag(fields, name)]
    return np.dtype(_TYPES[name]).newbyteorder(">" if most_first else "<")


def _check_intensities(fields: Fields) -> None:
    """Refuse a scale that readers ignore or apply as they please."""
    slope = fields.numbers("slope", fields.find("ElementToIntensityFunctionSlope") or "1", 1)
    offset = fields.numbers("offset", fields.find("ElementToIntensityFunctionOffset") or "0", 1)
    if (slope, offset) != ([1.0], [0.0]):
        raise fields.error(f"intensities are scaled by {slope[0]:g} and {offset[0]:g} in the header; save the scaled values")


def _geometry(fields: Fields) -> MetaGeometry:
    spacing = fields.find("ElementSpacing") or fields.find("ElementSize")
    if spacing is None:
        raise fields.error("the header has no ElementSpacing, so the voxel size is not known; add it")
    lengths = fields.numbers("ElementSpacing", spacing, 3)
    if min(lengths) <= 0:
        raise fields.error(
            f"spacing {'x'.join(f'{value:g}' for value in lengths)} mm must be above 0; repair the header's spacing"
        )
    directions = fields.find("TransformMatrix", "Orientation", "Rotation") or "1 0 0 0 1 0 0 0 1"
    origin = fields.find("Offset", "Origin", "Position") or "0 0 0"
    geometry = MetaGeometry(
        tuple(fields.numbers("TransformMatrix", directions, 9)), tuple(fields.numbers("Offset", origin, 3)), tuple(lengths)
    )
    unit = np.linalg.norm(np.array(geometry.directions).reshape(3, 3), axis=1)
    if (np.abs(unit - 1) > 1e-2).any():  # then the spacing is not the spacing
        raise fields.error(f"TransformMatrix {directions!r} must be directions of length 1; repair the header")
    check_affine(geometry.affine, fields.path)
    return geometry


def _geometry_of(affine: NDArray[np.float64]) -> MetaGeometry:
    spacing = spacing_of(affine)
    world = np.diag([-1.0, -1.0, 1.0, 1.0]) @ affine + 0.0
    directions = (world[:3, :3] / np.array(spacing)).T.ravel()
    return MetaGeometry(tuple(directions.tolist()), tuple(world[:3, 3].tolist()), spacing)


def _flag(fields: Fields, name: str, default: bool = False) -> bool:
    text = fields.find(name)
    if text is None:
        return default
    if text.lower() not in ("true", "false"):
        raise fields.error(f"{name} is {text[:20]!r}, must be True or False; {AGAIN}")
    return text.lower() == "true"


def _words(values: tuple[float, ...]) -> str:
    return " ".join(repr(float(value)) for value in values)
