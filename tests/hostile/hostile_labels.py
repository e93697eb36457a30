"""Label maps: which must be refused, with words of the refusal, and which must be taken. The image is always the same grid."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from hostile_bytes import AFFINE, SHAPE, flipped, nifti
from hostile_images import gz

NAN = float("nan")


def structures(dtype: type = np.uint8) -> np.ndarray:
    """Two boxes, of the values 1 and 2."""
    label = np.zeros(SHAPE, dtype)
    label[1:5, 1:5, 1:5] = 1
    label[6:10, 5:9, 3:7] = 2
    return label


def with_voxel(value: float, dtype: type = np.float32) -> np.ndarray:
    label = structures(dtype)
    label[2, 2, 2] = value
    return label


def moved(*millimetres: float) -> np.ndarray:
    affine = AFFINE.copy()
    affine[: len(millimetres), 3] += millimetres
    return affine


def spaced(factor: float) -> np.ndarray:
    return AFFINE @ np.diag([factor, 1, 1, 1])


def turned(degrees: float) -> np.ndarray:
    angle = np.deg2rad(degrees)
    turn = np.eye(4)
    turn[:2, :2] = [[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]]
    affine = turn @ AFFINE
    affine[:3, 3] = AFFINE[:3, 3]  # about its own first voxel
    return affine


REFUSED: dict[str, tuple[Callable[[], bytes], str]] = {
    "fraction": (lambda: nifti(with_voxel(0.5)), "1 voxels with fractional labels such as 0.5"),
    "soft": (lambda: nifti(structures(np.float32) * 0.37), "fractional labels"),
    "negative": (lambda: nifti(with_voxel(-1, np.int16)), "label value -1 is negative"),
    "nan": (lambda: nifti(with_voxel(NAN)), "1 voxels are NaN"),
    "infinite": (lambda: nifti(with_voxel(np.inf)), "1 infinite"),
    "beyond_integers": (lambda: nifti(with_voxel(1e30)), "is too large to be true"),
    "undeclared": (lambda: nifti(with_voxel(7, np.uint8)), "undeclared"),
    "undeclared_vast": (lambda: nifti(with_voxel(2**40, np.int64)), "undeclared"),
    "four_axes": (lambda: nifti(np.stack([structures()] * 3, -1)), "4D label map"),
    "one_slice_short": (lambda: nifti(structures()[..., :-1]), "12x10x8"),
    "transposed": (lambda: nifti(structures().transpose(1, 0, 2)), "10x12x8"),
    "shifted": (lambda: nifti(structures(), moved(5)), "origin"),
    "shifted_half_voxel": (lambda: nifti(structures(), moved(0, 0.5)), "origin"),
    "mirrored": (lambda: nifti(structures(), AFFINE * [[-1], [1], [1], [1]]), "axis directions"),
    "turned": (lambda: nifti(structures(), turned(2)), "axis directions"),
    "other_spacing": (lambda: nifti(structures(), spaced(1.1)), "spacing"),
    "truncated": (lambda: nifti(structures())[:-5], "truncated"),
    "checksum": (lambda: flipped(gz(array=structures()), -7), "not a NIfTI file"),
    "colour": (lambda: nifti(structures(), datatype=128), "RGB colour voxels"),
    "complex": (lambda: nifti(structures().astype(np.complex64)), "complex voxels"),
}
REFUSED["checksum"] = (lambda: flipped(gz(array=structures()), -7), "is gzip compressed")

ACCEPTED: dict[str, Callable[[], bytes]] = {
    **{
        f"type_{name}": (lambda name=name: nifti(structures(np.dtype(name).type)))
        for name in ("int8", "uint16", "int64", "float64")
    },
    "nearly_whole": lambda: nifti(structures(np.float32) * np.float32(0.9996)),
    "scaled": lambda: nifti(structures() * 2, scl_slope=0.5),
    "origin_off_by_a_little": lambda: nifti(structures(), moved(0.0005)),
    "spacing_off_by_a_little": lambda: nifti(structures(), spaced(1.00005)),
    "turned_a_little": lambda: nifti(structures(), turned(0.02)),
    "trailing_one": lambda: nifti(structures()[..., None]),
    "big_endian": lambda: nifti(structures(np.int32), endianness=">"),
    "empty": lambda: nifti(np.zeros(SHAPE, np.uint8)),
}
