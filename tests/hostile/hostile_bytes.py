"""Bytes of small image files, field by field, so that any field can be wrong."""

from __future__ import annotations

import gzip
import io
from collections.abc import Callable
from typing import Any

import nibabel
import numpy as np
from PIL import Image

SHAPE = (12, 10, 8)
AFFINE = np.array([[1.0, 0, 0, -6], [0, 1.0, 0, -5], [0, 0, 1.0, 4], [0, 0, 0, 1]])
PACK = gzip.compress


def voxels(shape: tuple[int, ...] = SHAPE, dtype: Any = np.int16) -> np.ndarray:
    """Whole numbers from 0 to 126, smooth, the same each time: every voxel type holds them exactly."""
    grid = np.meshgrid(*[np.linspace(0, 3, size) for size in shape], indexing="ij")
    wave = sum(np.sin(axis * (number + 1.3)) for number, axis in enumerate(grid))
    return np.rint(63 + 21 * wave).astype(dtype)


def nifti(
    array: np.ndarray | None = None,
    affine: np.ndarray = AFFINE,
    *,
    kind: Any = nibabel.Nifti1Header,
    endianness: str = "<",
    tail: bytes = b"",
    edit: Callable[[Any], None] | None = None,
    **fields: Any,
) -> bytes:
    """A single NIfTI file. Fields, and then `edit`, change the header last, whatever it then says."""
    array = voxels() if array is None else array
    header = kind(endianness=endianness)
    header.set_data_shape(array.shape)
    header.set_data_dtype(array.dtype)
    header.set_xyzt_units("mm")
    header.set_sform(affine, code="scanner")
    header.set_qform(affine, code="scanner", strip_shears=True)
    header["vox_offset"] = header.single_vox_offset
    header["scl_slope"], header["scl_inter"] = 1, 0
    for name, value in fields.items():
        header[name] = value
    if edit is not None:
        edit(header)
    content = array.astype(array.dtype.newbyteorder(endianness)).tobytes(order="F")
    return header.binaryblock.ljust(int(header.single_vox_offset), b"\0") + content + tail


def dims(*sizes: int) -> list[int]:
    """The header's field `dim`."""
    return [len(sizes), *sizes, *[1] * (7 - len(sizes))]


def pixdims(*sizes: float) -> dict[str, Any]:
    """Header fields of a file that has a spacing, and neither sform nor qform."""
    return {"pixdim": [1, *sizes, 1, 1, 1, 1], "sform_code": 0, "qform_code": 0}


def spoiled(value: float, dtype: Any = np.float32) -> np.ndarray:
    """Voxels of which one has another value."""
    array = voxels(dtype=dtype)
    array[3, 4, 5] = value
    return array


def flipped(data: bytes, position: int, bit: int = 0) -> bytes:
    """The bytes with one bit flipped."""
    changed = bytearray(data)
    changed[position] ^= 1 << bit
    return bytes(changed)


def nrrd(array: np.ndarray | None = None, *, packed: bool = False, **fields: str | None) -> bytes:
    """An NRRD file; a field None is left out, `_` in its name stands for a blank."""
    array = voxels() if array is None else array
    said: dict[str, str | None] = {
        "type": "short",
        "dimension": "3",
        "space": "left-posterior-superior",
        "sizes": " ".join(map(str, array.shape)),
        "space directions": "(-1,0,0) (0,-1,0) (0,0,1)",
        "kinds": "domain domain domain",
        "endian": "little",
        "encoding": "gzip" if packed else "raw",
        "space origin": "(6,5,4)",
        **{name.replace("_", " "): text for name, text in fields.items()},
    }
    header = "".join(f"{name}: {text}\n" for name, text in said.items() if text is not None)
    content = array.astype("<i2").tobytes(order="F")
    return b"NRRD0004\n" + header.encode() + b"\n" + (PACK(content, mtime=0) if packed else content)


def meta(array: np.ndarray | None = None, **fields: str | None) -> bytes:
    """A MetaImage file; a field None is left out."""
    array = voxels() if array is None else array
    said: dict[str, str | None] = {
        "ObjectType": "Image",
        "NDims": "3",
        "BinaryData": "True",
        "BinaryDataByteOrderMSB": "False",
        "TransformMatrix": "-1 0 0 0 -1 0 0 0 1",
        "Offset": "6 5 4",
        "ElementSpacing": "1 1 1",
        "DimSize": " ".join(map(str, array.shape)),
        "ElementType": "MET_SHORT",
        **fields,
    }
    last = said.pop("ElementDataFile", "LOCAL")
    header = "".join(f"{name} = {text}\n" for name, text in said.items() if text is not None)
    return header.encode() + f"ElementDataFile = {last}\n".encode() + array.astype("<i2").tobytes(order="F")


def picture(kind: str, pixels: np.ndarray | None = None, **options: Any) -> bytes:
    """A PNG, JPEG or TIFF of 20 x 16 pixels."""
    image = Image.fromarray(voxels((16, 20), np.uint8) if pixels is None else pixels)
    content = io.BytesIO()
    image.save(content, format=kind, **options)
    return content.getvalue()
