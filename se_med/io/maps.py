"""Maps as NIfTI files: shares, such as probabilities, of one byte per value; any other numbers as they are."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from isal import igzip
from numpy.typing import NDArray

from se_med.io.atomic import PathLike, write_bytes
from se_med.io.nifti import header_like
from se_med.io.volume import Volume

STEP = float(np.nextafter(np.float32(1 / 255), np.float32(0)))
"""Difference of two neighbouring values of a map: 1/255, rounded so that readers give no value above 1."""


def write_map(path: PathLike, values: NDArray[Any], like: Volume) -> None:
    """Write values from 0 to 1 on the grid of `like`, atomically, in steps of 1/255. Equal maps give equal bytes.

    Args:
        path: ends in `.nii.gz`.
        values: `(X, Y, Z)`, or `(maps, X, Y, Z)`, which becomes a file of four dimensions with the maps last; floats, or uint8 in
            255ths.
        like: the volume whose grid the values are on. Of a volume of another format the affine is taken over.

    Raises:
        ValueError: `values` has another shape than `like`, or floats are not from 0 to 1.
        RunError: the file cannot be written.
    """
    if values.shape[-3:] != like.shape or values.ndim not in (3, 4):
        raise ValueError(f"maps of shape {values.shape} are not on the grid {like.shape}")
    _write(path, values if values.dtype == np.uint8 else _quantised(values), like, STEP)


def write_values(path: PathLike, values: NDArray[np.float32], like: Volume) -> None:
    """Write any numbers on the grid of `like` as float32, atomically. Equal maps give equal bytes.

    Args:
        path: ends in `.nii.gz`.
        values: `(X, Y, Z)`.
        like: the volume whose grid the values are on.

    Raises:
        ValueError: `values` has another shape than `like`.
        RunError: the file cannot be written.
    """
    if values.shape != like.shape:
        raise ValueError(f"a map of shape {values.shape} is not on the grid {like.shape}")
    _write(path, values.astype(np.float32, copy=False), like, 1.0)


def _write(path: PathLike, voxels: NDArray[Any], like: Volume, slope: float) -> None:
    if voxels.ndim == 4:
        voxels = np.moveaxis(voxels, 0, -1)
    header = header_like(like, voxels)
    header["scl_slope"] = slope
    header.set_intent("estimate")
    content = header.binaryblock.ljust(int(header["vox_offset"]), b"\0") + voxels.tobytes(order="F")
    write_bytes(Path(path), igzip.compress(content, compresslevel=2, mtime=0))


def _quantised(values: NDArray[Any]) -> NDArray[np.uint8]:
    lowest, highest = float(values.min()), float(values.max())
    if not (lowest >= 0 and highest <= 1):
        raise ValueError(f"values of a map are from {lowest:g} to {highest:g}, not from 0 to 1")
    return np.rint(values.astype(np.float32) * 255).astype(np.uint8)
