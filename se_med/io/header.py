"""NIfTI headers, checked before anything is allocated: what is stored, where, on which grid.

nibabel parses the fields; this file decides what may be used. All refusals are `ImageError` with the file, the value and what
to do.
"""

from __future__ import annotations

import logging
import math
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
from nibabel.spatialimages import HeaderDataError
from numpy.typing import NDArray

from se_med.errors import ImageError
from se_med.io.stored import Stored
from se_med.io.volume import check_affine

HEADER_BYTES = 544
"""Bytes that hold a NIfTI-1 (348) or NIfTI-2 (540) header and the extension flag."""

_MM_PER_UNIT = {1: 1000.0, 3: 0.001}  # xyzt_units: 1 metre, 2 mm, 3 micrometre; 0 unknown is taken as mm
_MAGICS = {348: b"n+1\0", 540: b"n+2\0\r\n\x1a\n"}
_SILENT = logging.Logger("nibabel header checks", level=logging.CRITICAL + 1)


def parse_header(block: bytes, path: Path, *, pair: bool = False) -> Stored:
    """Read and check the header of a NIfTI-1 or NIfTI-2 file of either byte order.

    Args:
        block: the first `HEADER_BYTES` bytes of the (uncompressed) file, or all of a shorter one.
        path: the file, for messages.
        pair: the header has a file of its own (.hdr), and the voxels another (.img).

    Raises:
        ImageError: the header is damaged, of another format, or describes something that is not a 3D image with channels.
    """
    header = _unpack(block, path, pair=pair)
    dtype = _voxel_type(header, path)
    shape = _shape(header, path)
    offset = _offset(header, path, smallest=0 if pair else int(header.single_vox_offset))
    try:
        slope, intercept = header.get_slope_inter()
    except HeaderDataError:
        raise ImageError(f"{path}: scl_inter is {float(header['scl_inter'])}; repair the header or export again") from None
    return Stored(header, shape, affine_of(header, path), dtype, offset, slope, intercept or 0.0)


def affine_of(header: Any, path: Path | None = None) -> NDArray[np.float64]:
    """The voxel to world matrix of a header, in mm: sform if coded, else qform if coded, else spacing alone.

    Units of metres and micrometres are converted to mm. Harmless faults (a qfac of 0, negative pixdims, unknown codes) are
    mended as nibabel mends them when it loads a file.

    Raises:
        ImageError: the matrix is not finite, singular, or its spacing is absurd.
    """
    mended = header.copy()
    mended.check_fix(logger=_SILENT, error_level=1000)
    # nibabel turns a spacing of 0 into 1, which would hide that the true spacing is not known.
    mended["pixdim"][1:4] = np.abs(header["pixdim"][1:4])
    try:
        affine = np.array(mended.get_best_affine(), dtype=np.float64)
    except ValueError:  # a quaternion longer than 1, or not a number
        quaternion = [float(header[f"quatern_{axis}"]) for axis in "bcd"]
        raise ImageError(f"{path}: qform quaternion {quaternion} is no rotation; set an sform or repair the header") from None
    with np.errstate(over="ignore", invalid="ignore"):  # what is not finite is refused next
        affine[:3] *= _MM_PER_UNIT.get(int(header["xyzt_units"]) & 7, 1.0)
    check_affine(affine, path)
    return affine


def _unpack(block: bytes, path: Path, *, pair: bool) -> Any:
    for order, mark in (("little", "<"), ("big", ">")):
        size = int.from_bytes(block[:4], order, signed=True)  # type: ignore[arg-type]  # the loop's words are the literals asked for
        if size not in _MAGICS:
            continue
        if len(block) < size:
            raise ImageError(
                f"{path}: truncated: {len(block)} bytes end inside the header of {size}; copy or export the file again"
            )
        kind = nibabel.Nifti1Header if size == 348 else nibabel.Nifti2Header
        header = kind(block[:size], endianness=mark, check=False)
        magic = block[344:348] if size == 348 else block[4:12]
        single, paired = magic == _MAGICS[size], magic == _MAGICS[size].replace(b"n+", b"ni")
        if single and pair:
            raise ImageError(f"{path}: holds header and voxels, not a header alone; name it .nii")
        if paired and not pair:
            raise ImageError(f"{path}: is the header of a .hdr/.img pair; name it .hdr, beside its .img file")
        if not single and not paired:
            raise ImageError(f"{path}: wrong magic {magic!r}, not a NIfTI file (Analyze 7.5, or damaged); convert it to .nii.gz")
        return header
    if len(block) < 348:
        raise ImageError(f"{path}: truncated: {len(block)} bytes are too few for a NIfTI header; copy or export the file again")
    raise ImageError(f"{path}: not a NIfTI file: it starts with {block[:8]!r}; convert it to .nii.gz")


def _voxel_type(header: Any, path: Path) -> np.dtype[Any]:
    code = int(header["datatype"])
    try:
        dtype: np.dtype[Any] = np.dtype(header.get_data_dtype())
    except (HeaderDataError, KeyError):
        raise ImageError(f"{path}: voxel type code {code} is unknown; the header is damaged, export the file again") from None
    if dtype.names is not None:
        raise ImageError(f"{path}: RGB colour voxels; convert it to one grey channel, or to one file per channel")
    if dtype.kind == "c":
        raise ImageError(
            f"{path}: complex voxels ({dtype.name}); store the magnitude, or real and imaginary part as two channels"
        )
    if dtype.kind not in "iuf" or dtype.itemsize == 0:
        raise ImageError(f"{path}: voxel type code {code} cannot be read; store it as integers or floats")
    return dtype


def _shape(header: Any, path: Path) -> tuple[int, ...]:
    rank = int(header["dim"][0])
    if not 1 <= rank <= 7:
        raise ImageError(f"{path}: number of dimensions is {rank}; the header is damaged, export the file again")
    shape = tuple(int(size) for size in header["dim"][1 : rank + 1])
    words = "x".join(map(str, shape))
    if min(shape) < 1:
        raise ImageError(f"{path}: shape {words} has an axis without voxels; export the file again")
    while len(shape) > 3 and shape[-1] == 1:
        shape = shape[:-1]
    if len(shape) < 3:
        raise ImageError(f"{path}: {len(shape)}D image of shape {words}; store it as a volume, one slice as {words}x1")
    if len(shape) > 4:
        raise ImageError(f"{path}: {len(shape)}D image of shape {words}; store a volume, or a 4D image with channels last")
    return shape


def _offset(header: Any, path: Path, smallest: int) -> int:
    offset = float(header["vox_offset"])
    if not math.isfinite(offset) or offset < smallest or offset != int(offset):
        raise ImageError(f"{path}: vox_offset is {offset:g}, must be a whole number from {smallest}; the header is damaged")
    return int(offset)
