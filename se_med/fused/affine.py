"""Patches turned, scaled and bent, image and labels in one."""

from __future__ import annotations

import ctypes
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from se_med.fused.kernels import library

FARTHEST = 2**24
"""Voxels up to which every whole number is a float32, and an index an int32."""


class _Affine(ctypes.Structure):
    """``Affine`` of affine.c."""

    _fields_ = (
        ("channels", ctypes.c_int64),
        ("size", ctypes.c_int64 * 3),
        ("source", ctypes.c_int64 * 3),
        *((name, ctypes.c_int32) for name in ("width", "threads", "cubic")),
        ("matrix", ctypes.c_float * 12),
        *((name, ctypes.c_void_p) for name in ("image", "label", "field", "patch", "classes")),
    )


def usable(image: Tensor, label: Tensor | None = None) -> bool:
    """Return whether images (C, *S), and labels (1, *S) if given, can be taken: float32, uint8, in main memory, and kernels."""
    kernel = "se_med_sample_image" if label is None else "se_med_sample_affine"
    fits = 0 < image[0].numel() < FARTHEST and (label is None or _plain(label, torch.uint8))
    return hasattr(library(), kernel) and fits and _plain(image, torch.float32)


def affine_patch(
    image: Tensor,
    label: Tensor,
    matrix: npt.NDArray[np.float64],
    size: Sequence[int],
    field: Tensor | None = None,
    cubic: bool = False,
) -> tuple[Tensor, Tensor]:
    """Return linear samples of the image, or cubic splines, and nearest ones of the labels, at the border where they are outside.

    Args:
        image: (C, *source) float32; if cubic, coefficients of splines.
        label: (1, *source) uint8.
        matrix: (rank + 1, rank + 1), from patch to source voxels, both counted from the centre.
        size: of the patch.
        field: (rank, *size) float32, displacements that are added to the positions, in source voxels; None for none.
        cubic: splines of the image, else linear samples.

    Returns:
        (C, *size) float32 and (1, *size) uint8.
    """
    label, classes = label.contiguous(), torch.empty(1, *size, dtype=torch.uint8)
    if field is not None:
        field = torch.cat([field.new_zeros(3 - len(size), *size), field])
    addresses = {"label": label.data_ptr(), "classes": classes.data_ptr(), "field": None if field is None else field.data_ptr()}
    return _sample("se_med_sample_affine", image, matrix, size, cubic, 1, addresses), classes


def affine_image(image: Tensor, matrix: npt.NDArray[np.float64], size: Sequence[int], cubic: bool = False) -> Tensor:
    """Return samples of an image alone, as `affine_patch` does, on several threads."""
    return _sample("se_med_sample_image", image, matrix, size, cubic, torch.get_num_threads(), {})


def _sample(
    kernel: str,
    image: Tensor,
    matrix: npt.NDArray[np.float64],
    size: Sequence[int],
    cubic: bool,
    threads: int,
    addresses: dict[str, int | None],
) -> Tensor:
    rank, image, patch = len(size), image.contiguous(), torch.empty(image.shape[0], *size)
    rows = np.eye(3, 4)
    rows[3 - rank :, 3 - rank : 3] = matrix[:rank, :rank]
    rows[3 - rank :, 3] = matrix[:rank, rank]
    ones = (1,) * (3 - rank)
    kernels = library()
    work = _Affine(
        channels=image.shape[0],
        size=(*ones, *size),
        source=(*ones, *image.shape[1:]),
        width=kernels.se_med_width(),  # type: ignore[union-attr]  # usable has seen it
        threads=threads,
        cubic=cubic,
        matrix=tuple(rows.flatten().tolist()),
        image=image.data_ptr(),
        patch=patch.data_ptr(),
        **addresses,
    )
    getattr(kernels, kernel)(ctypes.byref(work))
    return patch


def _plain(tensor: Tensor, kind: torch.dtype) -> bool:
    return type(tensor) is Tensor and tensor.dtype == kind and tensor.device.type == "cpu"
