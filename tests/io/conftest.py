"""Small NIfTI files built field by field, so that any field can be wrong."""

from __future__ import annotations

import gzip
from collections.abc import Callable
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pytest

AFFINE = np.array([[-0.8, 0.0, 0.0, 20.0], [0.0, 0.9, 0.0, -30.5], [0.0, 0.0, 2.5, 7.0], [0.0, 0.0, 0.0, 1.0]])


def nifti_bytes(
    array: np.ndarray | None = None,
    *,
    edit: Callable[[Any], None] | None = None,
    kind: Any = nibabel.Nifti1Header,
    endianness: str = "<",
    tail: bytes = b"",
    affine: np.ndarray = AFFINE,
) -> bytes:
    """The bytes of a single-file NIfTI; `edit` changes header fields last, whatever they then say."""
    if array is None:
        array = np.arange(4 * 5 * 6, dtype=np.int16).reshape(4, 5, 6)
    header = kind(endianness=endianness)
    header.set_data_shape(array.shape)
    header.set_data_dtype(array.dtype)
    header.set_xyzt_units("mm")
    header.set_sform(affine, code="scanner")
    header.set_qform(affine, code="scanner")
    header["vox_offset"] = header.single_vox_offset
    header["scl_slope"], header["scl_inter"] = 1, 0
    if edit is not None:
        edit(header)
    voxels = array.astype(array.dtype.newbyteorder(endianness)).tobytes(order="F")
    return header.binaryblock.ljust(int(header.single_vox_offset), b"\0") + voxels + tail


@pytest.fixture
def build() -> Callable[..., bytes]:
    """`nifti_bytes`, for tests that damage the bytes themselves."""
    return nifti_bytes


@pytest.fixture
def write_nifti(tmp_path: Path) -> Callable[..., Path]:
    """Write `nifti_bytes(...)` under a name in the test's folder; `.gz` names are compressed."""

    def write(name: str = "image.nii.gz", array: np.ndarray | None = None, **options: Any) -> Path:
        content = nifti_bytes(array, **options)
        path = tmp_path / name
        path.write_bytes(gzip.compress(content, mtime=0) if name.endswith(".gz") else content)
        return path

    return write
