"""NRRD and MetaImage files built field by field, so that any field can be wrong."""

from __future__ import annotations

import gzip
import zlib
from pathlib import Path

import numpy as np

VOXELS = np.arange(4 * 5 * 6, dtype="<i2").reshape(4, 5, 6)
NRRD = {
    "type": "short",
    "dimension": "3",
    "space": "left-posterior-superior",
    "sizes": "4 5 6",
    "space directions": "(0.8,0,0) (0,0.9,0) (0,0,2.5)",
    "kinds": "domain domain domain",
    "endian": "little",
    "encoding": "raw",
    "space origin": "(-20,30.5,7)",
}
META = {
    "ObjectType": "Image",
    "NDims": "3",
    "BinaryData": "True",
    "BinaryDataByteOrderMSB": "False",
    "CompressedData": "False",
    "TransformMatrix": "1 0 0 0 1 0 0 0 1",
    "Offset": "-20 30.5 7",
    "ElementSpacing": "0.8 0.9 2.5",
    "DimSize": "4 5 6",
    "ElementType": "MET_SHORT",
    "ElementDataFile": "LOCAL",
}
AFFINE = np.array([[-0.8, 0, 0, 20], [0, -0.9, 0, -30.5], [0, 0, 2.5, 7], [0, 0, 0, 1]])
PACKED = {"nrrd": {"encoding": "gzip"}, "mha": {"CompressedData": "True"}}
"""Changes of the header that say that the voxels are compressed."""


def content(kind: str, voxels: np.ndarray | bytes = VOXELS, packed: bool = False, **changes: str | None) -> bytes:
    """The bytes of an `nrrd` or `mha` file.

    Changes replace fields of the header (`_` stands for a blank, except in MetaImage), None removes one.
    """
    names = {name.replace(" ", "_"): name for name in NRRD} if kind == "nrrd" else {}
    fields = dict(NRRD if kind == "nrrd" else META) | (PACKED[kind] if packed else {})
    for name, text in changes.items():
        name = names.get(name, name.replace("_", " ") if kind == "nrrd" else name)
        fields.pop(name, None)
        if text is not None:
            fields[name] = text
    data = voxels if isinstance(voxels, bytes) else voxels.tobytes(order="F")
    if packed:
        data = gzip.compress(data, mtime=0) if kind == "nrrd" else zlib.compress(data)
    if kind == "nrrd":
        return "\n".join(["NRRD0004", *(f"{name}: {text}" for name, text in fields.items())]).encode() + b"\n\n" + data
    if "ElementDataFile" in fields:
        fields["ElementDataFile"] = fields.pop("ElementDataFile")  # comes last
    return "".join(f"{name} = {text}\n" for name, text in fields.items()).encode() + data


def write(path: Path, *arguments: object, **changes: object) -> Path:
    """Write `content` to a file whose suffix says the kind."""
    kind = {".nrrd": "nrrd", ".nhdr": "nrrd", ".mha": "mha", ".mhd": "mha"}[path.suffix]
    path.write_bytes(content(kind, *arguments, **changes))  # type: ignore[arg-type]
    return path
