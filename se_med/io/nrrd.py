"""NRRD volumes (.nrrd, and .nhdr with the voxels in a file beside it): a strict reader and a writer of label maps.

The format: Kindlmann, "Definition of NRRD File Format", teem.sourceforge.net/nrrd/format.html. Read are volumes with three
spatial axes in an anatomical space and at most one axis of channels, raw or gzip.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
from isal import igzip
from numpy.typing import NDArray

from se_med.errors import ImageError
from se_med.io.atomic import PathLike, write_bytes
from se_med.io.blocks import check_block, read_block, read_start
from se_med.io.filebytes import AGAIN
from se_med.io.stored import Content, Packing, Stored
from se_med.io.textheader import MOST_HEADER, Fields, split_header
from se_med.io.volume import Volume, check_affine, check_labels, label_type

NRRD_SUFFIXES = (".seg.nrrd", ".nrrd", ".nhdr")
"""File name endings; `.seg.nrrd` is how 3D Slicer names label maps, and belongs to an image without `.seg`."""

_TYPES = {
    "i1": ("signed char", "int8", "int8_t"),
    "u1": ("uchar", "unsigned char", "uint8", "uint8_t"),
    "i2": ("short", "short int", "signed short", "signed short int", "int16", "int16_t"),
    "u2": ("ushort", "unsigned short", "unsigned short int", "uint16", "uint16_t"),
    "i4": ("int", "signed int", "int32", "int32_t"),
    "u4": ("uint", "unsigned int", "uint32", "uint32_t"),
    "i8": ("longlong", "long long", "long long int", "signed long long", "signed long long int", "int64", "int64_t"),
    "u8": ("ulonglong", "unsigned long long", "unsigned long long int", "uint64", "uint64_t"),
    "f4": ("float",),
    "f8": ("double",),
}
_NUMPY = {name: code for code, names in _TYPES.items() for name in names}
_SPACES = {  # signs that take the first three world axes to right, anterior, superior
    "right-anterior-superior": (1, 1, 1),
    "left-anterior-superior": (-1, 1, 1),
    "left-posterior-superior": (-1, -1, 1),
    "RAS": (1, 1, 1),
    "LAS": (-1, 1, 1),
    "LPS": (-1, -1, 1),
}
_MM_PER_UNIT = {"": 1.0, "mm": 1.0, "millimeter": 1.0, "m": 1000.0, "cm": 10.0, "um": 0.001, "µm": 0.001, "micron": 0.001}
_SPATIAL_KINDS = ("domain", "space", "none", "???")
_CHANNEL_KINDS = ("list", "vector", "2-vector", "3-vector", "4-vector", "point", "scalar", "stub", "none", "???")
_MAGIC = re.compile(r"NRRD000[1-5]")
_VECTOR = re.compile(r"none|\([^()]*\)")


def read_nrrd_header(path: Path) -> Stored:
    """Read and check a header, and that the voxels are there.

    Raises:
        ImageError: the file cannot be used.
    """
    stored = _parse(path)
    check_block(stored, path)
    return stored


def read_nrrd(path: Path) -> Content:
    """Read a whole file, and the data file beside it where there is one, and verify every byte.

    Raises:
        ImageError: the file is missing, damaged, truncated, or no volume of plain numbers with a usable geometry.
    """
    return read_block(_parse(path), path)


def write_nrrd_label(path: PathLike, labels: NDArray[Any], like: Volume) -> None:
    """Write a label map on the grid of `like`, gzipped and atomically. Equal labels give equal bytes.

    The affine is written exactly, in the left-posterior-superior space that ITK and 3D Slicer write.

    Args:
        path: ends in `.nrrd`.
        labels: (X, Y, Z) whole numbers from 0, in the voxel order of `like`.
        like: the volume whose grid the labels are on.

    Raises:
        ValueError: `labels` has another shape than `like`, is no integer array or has negative values.
        RunError: the file cannot be written.
    """
    check_labels(labels, like)
    voxels = labels.astype(np.dtype(label_type(int(labels.max()))).newbyteorder("<"))
    affine = np.diag([-1.0, -1.0, 1.0, 1.0]) @ like.affine + 0.0  # no negative zeros
    directions, origin = (_vector(affine[:3, axis]) for axis in range(3)), _vector(affine[:3, 3])
    header = (
        "NRRD0004",
        "# written by se-med",
        f"type: {_TYPES[voxels.dtype.str[1:]][2]}",
        "dimension: 3",
        "space: left-posterior-superior",
        f"sizes: {' '.join(map(str, voxels.shape))}",
        f"space directions: {' '.join(directions)}",
        "kinds: domain domain domain",
        *(("endian: little",) if voxels.dtype.itemsize > 1 else ()),
        "encoding: gzip",
        f"space origin: {origin}",
    )
    packed = igzip.compress(voxels.tobytes(order="F"), compresslevel=2, mtime=0)
    write_bytes(path, "\n".join(header).encode() + b"\n\n" + packed)


def _parse(path: Path) -> Stored:
    lines, end = split_header(read_start(path, MOST_HEADER), b"", path)
    if not _MAGIC.fullmatch(lines[0]):
        raise ImageError(f"{path}: not an NRRD file: it starts with {lines[0][:12]!r}; convert it to .nii.gz")
    fields = Fields(path)
    for line in lines[1:]:
        name, colon, text = line.partition(":")
        if line.startswith("#") or not line or text.startswith("="):  # comments, and pairs of any key and value
            continue
        if not colon:
            raise fields.error(f"the header has a line without a field: {line[:60]!r}; {AGAIN}")
        fields.add(name.strip().lower(), text.strip())
    data = fields.find("data file", "datafile")
    if data is None and lines[-1]:
        raise fields.error(f"truncated: no empty line ends the header; {AGAIN}")
    dtype = _voxel_type(fields)
    dimension = fields.whole_numbers("dimension", fields.get("dimension"), 1)[0]
    if dimension not in (3, 4):
        words = "x".join(fields.get("sizes").split())
        advice = f"a volume, one slice as {words}x1" if dimension == 2 else "a 3D volume, or 4D with an axis of channels"
        raise fields.error(f"{dimension}D image of shape {words}; store it as {advice}")
    sizes = fields.sizes("sizes", fields.get("sizes"), dimension)
    affine, channel_axis = _grid(fields, dimension)
    spatial = tuple(size for axis, size in enumerate(sizes) if axis != channel_axis)
    channels = sizes[channel_axis] if dimension == 4 else 1
    shape = (*spatial, channels) if channels > 1 else spatial
    beside = None if data is None else fields.beside(data)
    offset = _skipped(fields, detached=data is not None) + (end if data is None else 0)
    return Stored(None, shape, affine, dtype, offset, data=beside, packing=_packing(fields), channel_axis=channel_axis)


def _voxel_type(fields: Fields) -> np.dtype[Any]:
    name = " ".join(fields.get("type").split())
    if name not in _NUMPY:
        raise fields.error(f"voxel type {name!r} cannot be read; store the voxels as integers or floats")
    dtype: np.dtype[Any] = np.dtype(_NUMPY[name])
    if dtype.itemsize == 1:
        return dtype
    endian = fields.get("endian").lower()
    if endian not in ("little", "big"):
        raise fields.error(f"endian is {endian!r}, must be little or big; {AGAIN}")
    return dtype.newbyteorder("<" if endian == "little" else ">")


def _packing(fields: Fields) -> Packing:
    encoding = fields.get("encoding").lower()
    if encoding not in ("raw", "gzip", "gz"):
        raise fields.error(f"encoding {encoding!r} is not read; save it raw or with gzip")
    return "none" if encoding == "raw" else "gzip"


def _skipped(fields: Fields, *, detached: bool) -> int:
    """Bytes before the voxels in their file."""
    counts = {}
    for words in (("line skip", "lineskip"), ("byte skip", "byteskip")):
        text = fields.find(*words)
        counts[words[0]] = 0 if text is None else fields.whole_numbers(words[0], text, 1)[0]
    allowed = detached and _packing(fields) == "none" and counts["byte skip"] >= 0  # elsewhere it counts unpacked bytes
    if counts["line skip"] != 0 or (counts["byte skip"] != 0 and not allowed):
        raise fields.error("line skip and byte skip are read only for a raw data file, byte skip from 0; save it as one file")
    return counts["byte skip"]


def _grid(fields: Fields, dimension: int) -> tuple[NDArray[np.float64], int]:
    """Return the affine and the place of the channel axis (3 where there is none)."""
    space, text = fields.find("space"), fields.find("space directions")
    kinds = (fields.find("kinds") or " ".join(["???"] * dimension)).split()
    if len(kinds) != dimension:
        raise fields.error(f"kinds has {len(kinds)} entries for {dimension} axes; {AGAIN}")
    if text is None:
        matrix, channel_axis = _from_spacings(fields, kinds), _channel_axis(fields, kinds)
        signs: tuple[int, ...] = _SPACES["LPS"]  # as ITK reads such files
        scale = 1.0
    else:
        if space is None or (space not in _SPACES and space.lower() not in _SPACES):
            raise fields.error(f"space is {space!r}, which gives no anatomical axes; save it as left-posterior-superior")
        signs = _SPACES.get(space) or _SPACES[space.lower()]
        matrix, channel_axis = _from_directions(fields, text, dimension)
        scale = _mm_per_unit(fields)
    for axis, kind in enumerate(kinds):
        if kind.lower() not in (_CHANNEL_KINDS if dimension == 4 and axis == channel_axis else _SPATIAL_KINDS):
            raise fields.error(f"axis {axis} is of kind {kind!r}; store a volume of numbers, channels as an axis of kind list")
    affine = np.eye(4)
    affine[:3] = np.array(signs)[:, None] * matrix * scale + 0.0  # no negative zeros
    check_affine(affine, fields.path)
    return affine, channel_axis


def _from_directions(fields: Fields, text: str, dimension: int) -> tuple[NDArray[np.float64], int]:
    """Return (3, 4) directions and origin as written, and the place of the axis without a direction."""
    words = _VECTOR.findall(text)
    if _VECTOR.sub("", text).strip() or len(words) != dimension or words.count("none") != dimension - 3:
        raise fields.error(f"space directions {text[:80]!r} must be three vectors, and none for channels; {AGAIN}")
    columns = [_parsed_vector(fields, "space directions", word) for word in words if word != "none"]
    origin = fields.find("space origin")
    columns.append(_parsed_vector(fields, "space origin", origin) if origin is not None else [0.0] * 3)
    return np.array(columns, dtype=np.float64).T, words.index("none") if "none" in words else 3


def _from_spacings(fields: Fields, kinds: list[str]) -> NDArray[np.float64]:
    text = fields.find("spacings")
    if text is None:
        raise fields.error("the header has neither space directions nor spacings, so the voxel size is not known; add them")
    channel_axis = _channel_axis(fields, kinds)
    words = [word for axis, word in enumerate(text.split()) if axis != channel_axis]
    spacings = fields.numbers("spacings", " ".join(words), 3)
    if min(spacings) <= 0:
        raise fields.error(f"spacings are {text!r}, must be above 0; repair the header's spacing")
    return np.hstack([np.diag(spacings), np.zeros((3, 1))])


def _channel_axis(fields: Fields, kinds: list[str]) -> int:
    """Tell from the kinds of the axes which holds the channels; 3 with three axes."""
    if len(kinds) == 3:
        return 3
    spatial = [kind.lower() in ("domain", "space") for kind in kinds]
    if spatial.count(False) != 1:
        raise fields.error(f"kinds {' '.join(kinds)!r} do not say which axis holds the channels; add space directions")
    return spatial.index(False)


def _parsed_vector(fields: Fields, name: str, text: str) -> list[float]:
    if not (text.startswith("(") and text.endswith(")")):
        raise fields.error(f"{name} is {text[:60]!r}, must be vectors like (0,0,1); {AGAIN}")
    return fields.numbers(name, text[1:-1].replace(",", " "), 3)


def _mm_per_unit(fields: Fields) -> float:
    units = set(re.findall(r'"([^"]*)"', fields.find("space units") or '"mm"'))
    if len(units) != 1 or not units <= set(_MM_PER_UNIT):
        raise fields.error(f"space units are {fields.find('space units')!r}, must be one unit of length such as mm")
    return _MM_PER_UNIT[units.pop()]


def _vector(values: NDArray[np.float64]) -> str:
    return f"({','.join(repr(float(value)) for value in values)})"
