"""From a volume to the grid that networks see, and back: orientation, spacing, intensities.

Training and inference use this one object. Forwards it orients to RAS, resamples to the plan's spacing and normalises;
backwards it takes logits to labels on the native grid.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
import numpy.typing as npt
import torch
from monai.data.meta_tensor import MetaTensor
from monai.transforms.spatial.array import Orientation, SpatialResample
from nibabel.orientations import aff2axcodes, axcodes2ornt, inv_ornt_aff
from torch import Tensor

from se_med.data.plan import Normalisation, Plan
from se_med.data.sampling import sample_grid
from se_med.errors import ImageError, UsageError
from se_med.io.nifti import Geometry, Volume, same_geometry

RAS = (("L", "R"), ("P", "A"), ("I", "S"))
SAME_SPACING = 1e-3
"""Spacings that differ by less than this share are equal: nothing is resampled along that axis."""
IGNORED = 255
"""Class index of voxels without a reference in prepared labels; only plans with an `ignore_label` have it."""
SLAB_VOXELS = 2**21
"""Voxels resampled at once; bounds the memory of the sampling grid, which takes several floats per voxel."""

Number = TypeVar("Number", bound=np.generic)
Array = npt.NDArray[np.float32]
Spacing = tuple[float, float, float]
Shape = tuple[int, int, int]


@dataclass(frozen=True)
class Prepared:
    """A volume as networks see it.

    Attributes:
        array: normalised intensities, (C, X, Y, Z) float32, axes in RAS order, at the plan's spacing.
        affine: (4, 4), prepared voxel -> mm in the RAS+ world.
        native: shape, affine and spacing of the volume as it was stored; what `Preparation.restore` goes back to.
    """

    array: Array
    affine: npt.NDArray[np.float64]
    native: Geometry


@dataclass(frozen=True)
class _Grids:
    """The way of one volume: native voxels -> voxels in RAS order -> voxels at the plan's spacing.

    Prepared voxel p lies at `offset + p * target / source` in voxels in RAS order.
    """

    codes: str
    to_native: npt.NDArray[np.float64]
    oriented: Shape
    source: Spacing
    target: Spacing
    shape: Shape
    offset: tuple[float, float, float]

    @property
    def resampled(self) -> bool:
        return self.source != self.target


class Preparation:
    """Takes volumes to the plan's grid and intensities, and logits back to native labels.

    The grid depends on the volume's shape, spacing and nearest orientation alone: an oblique volume keeps its rotation,
    and a volume stored in another orientation gives bitwise the same array. Images and logits are resampled linearly,
    labels take the nearest voxel. The prepared grid has the centre of the volume and reaches its first and last voxel
    centres to a quarter of a prepared voxel; values at the border continue beyond it.

    Args:
        plan: gives spacing, normalisation, channels and labels.

    Raises:
        UsageError: the plan has more than 255 structures, or 254 and an ignore label.
    """

    def __init__(self, plan: Plan) -> None:
        most = 255 if plan.ignore_label is None else IGNORED - 1
        if len(plan.labels) > most:
            raise UsageError(
                f"labels: {len(plan.labels)} structures; at most {most} can be segmented, declare fewer in data.labels"
            )
        self.plan = plan

    def forward(self, image: Volume) -> Prepared:
        """Orient to RAS, resample to the plan's spacing (not where it is equal already) and normalise.

        Args:
            image: array (C, X, Y, Z) in the file's voxel order.

        Raises:
            ImageError: the number of channels is not the plan's, the affine has no orientation, or it is a 2D image and the plan
                was not made from such.
        """
        self._refuse_flat(image)
        channels = len(self.plan.normalisation)
        if image.array.ndim != 4 or image.array.shape[0] != channels:
            raise ImageError(
                f"{image.path}: {image.array.shape[0] if image.array.ndim == 4 else 1} channels, the plan has {channels} "
                f"({', '.join(self.plan.channels)}); give one file with all channels, or one file per channel"
            )
        native = _geometry(image)
        grids = self._grids(native, image)
        array = _orient(image.array, grids)
        if grids.resampled:
            array = _resample(torch.from_numpy(array), grids, "bilinear").numpy()
        for channel, normalisation in zip(array, self.plan.normalisation, strict=True):
            _normalise(channel, normalisation)
        return Prepared(array, _prepared_affine(native, grids), native)

    def forward_label(self, label: Volume, like: Prepared) -> npt.NDArray[np.uint8]:
        """Take a label to the grid of its prepared image: class indices, nearest voxel.

        Args:
            label: array (X, Y, Z) of label values, on the image's native grid.
            like: the prepared image.

        Returns:
            (X, Y, Z) class indices: 0 background, k + 1 the plan's structure k, IGNORED where the label is the plan's
            `ignore_label`.

        Raises:
            ImageError: shape or affine are not the image's, or there are values that the plan does not declare.
        """
        difference = same_geometry(_geometry(label), like.native)
        if difference is not None:
            raise ImageError(f"{label.path}: label and image differ: {difference}")
        grids = self._grids(like.native, label)
        classes = _orient(self._class_indices(label)[None], grids)
        if grids.resampled:
            classes = _resample(torch.from_numpy(classes), grids, "nearest").numpy()
        return np.ascontiguousarray(classes[0], dtype=np.uint8)

    def restore(self, logits: Tensor, prepared: Prepared) -> npt.NDArray[np.integer]:
        """Take logits to labels on the native grid: the class of the highest logit, ties to the lower class.

        Logits are resampled slab by slab and class by class under a running maximum, so memory does not grow with the classes.
        Where nothing was resampled the result is exactly the argmax.

        Args:
            logits: (classes, X, Y, Z) on the prepared grid.
            prepared: the prepared volume (its array is not read, only the geometry).

        Returns:
            (X, Y, Z) label values in the smallest unsigned type, in the volume's own shape and orientation.

        Raises:
            ValueError: the shape of the logits is not that of the prepared volume, or their number that of the classes.
        """
        grids = self._grids(prepared.native, None)
        expected = (self.plan.num_classes, *grids.shape)
        if tuple(logits.shape) != expected:
            raise ValueError(f"logits have shape {tuple(logits.shape)}, the prepared volume needs {expected}")
        logits = logits.detach().cpu()
        classes = torch.empty(grids.oriented, dtype=torch.uint8)
        for slab in _slabs(grids.oriented):
            classes[slab] = _highest(logits, grids, slab)
        native = Orientation(axcodes=grids.codes, labels=RAS)(MetaTensor(classes[None], affine=torch.eye(4, dtype=torch.float64)))
        values = np.array(self.plan.label_values)
        values = values.astype(np.min_scalar_type(int(values.max())))
        return np.ascontiguousarray(values[native.as_tensor()[0].numpy()])

    def _refuse_flat(self, image: Volume) -> None:
        if not image.flat or self.plan.flat:
            return
        if self.plan.slice_axis is None:
            raise ImageError(f"{image.path}: a 2D image; the network takes volumes, give it NIfTI files")
        spacing = "x".join(f"{value:g}" for value in self.plan.spacing)
        raise ImageError(
            f"{image.path}: a 2D image has no spacing, and the plan is for slices of volumes of {spacing} mm; store it as a "
            "NIfTI volume of one slice with its spacing"
        )

    def _grids(self, native: Geometry, volume: Volume | None) -> _Grids:
        codes = aff2axcodes(native.affine, labels=RAS)
        if None in codes:
            where = "volume" if volume is None else volume.path
            raise ImageError(f"{where}: the affine gives no orientation to every axis; correct the header")
        orientation = axcodes2ornt(codes, labels=RAS)
        axes = np.argsort(orientation[:, 0])
        oriented = _shape(np.array(native.shape)[axes])
        target = self.plan.spacing
        measured = (_stable(native.spacing[axis]) for axis in axes)
        source = _triple(
            wanted if abs(found - wanted) < SAME_SPACING * wanted else found
            for found, wanted in zip(measured, target, strict=True)
        )
        ratios = [found / wanted for found, wanted in zip(source, target, strict=True)]
        steps = [(length - 1) * ratio for length, ratio in zip(oriented, ratios, strict=True)]
        shape = _shape([round(extent) + 1 for extent in steps])
        offset = _triple((extent - (length - 1)) / 2 / ratio for extent, length, ratio in zip(steps, shape, ratios, strict=True))
        return _Grids("".join(codes), inv_ornt_aff(orientation, native.shape), oriented, source, target, shape, offset)

    def _class_indices(self, label: Volume) -> npt.NDArray[np.uint8]:
        declared, indices = np.array(self.plan.label_values), np.arange(self.plan.num_classes)
        if self.plan.ignore_label is not None:
            declared, indices = np.append(declared, self.plan.ignore_label), np.append(indices, IGNORED)
        order = np.argsort(declared)
        ascending, indices = declared[order], indices[order]
        classes = np.empty(label.array.shape, dtype=np.uint8)
        unknown: Counter[int] = Counter()
        for plane, target in zip(label.array, classes, strict=True):
            position = np.minimum(np.searchsorted(ascending, plane), len(ascending) - 1)
            wrong = ascending[position] != plane
            if wrong.any():
                found, counts = np.unique(plane[wrong], return_counts=True)
                unknown.update(dict(zip(found.tolist(), counts.tolist(), strict=True)))
            target[...] = indices[position]
        if unknown:
            listed = ", ".join(f"{value} ({unknown[value]} voxels)" for value in sorted(unknown)[:10])
            more = f" and {len(unknown) - 10} more" if len(unknown) > 10 else ""
            raise ImageError(
                f"{label.path}: undeclared label values {listed}{more}; declared are {', '.join(map(str, ascending))}: "
                "declare them in data.labels or correct the file"
            )
        return classes


def _geometry(volume: Volume) -> Geometry:
    return Geometry(volume.shape, volume.affine, volume.spacing)


def _shape(values: Sequence[int] | npt.NDArray[np.integer]) -> Shape:
    x, y, z = (int(value) for value in values)
    return x, y, z


def _triple(values: Iterable[float]) -> tuple[float, float, float]:
    x, y, z = values
    return x, y, z


def _stable(spacing: float) -> float:
    # Headers keep spacings as float32, sometimes only as norms of rotated axes. 20 bits hide that noise, so that equal volumes
    # give equal grids, and keep every dyadic spacing (0.9765625) as it is.
    mantissa, exponent = math.frexp(spacing)
    return math.ldexp(round(math.ldexp(mantissa, 20)), exponent - 20)


def _prepared_affine(native: Geometry, grids: _Grids) -> npt.NDArray[np.float64]:
    to_oriented = np.diag([*(np.array(grids.target) / np.array(grids.source)), 1.0])
    to_oriented[:3, 3] = grids.offset
    affine: npt.NDArray[np.float64] = native.affine @ grids.to_native @ to_oriented
    return affine


def _orient(array: npt.NDArray[Number], grids: _Grids) -> npt.NDArray[Number]:
    # MONAI is given the pure axis permutation: a rotated affine would have its nearest orientation searched again.
    tensor = MetaTensor(torch.from_numpy(array), affine=torch.from_numpy(np.linalg.inv(grids.to_native)))
    oriented = Orientation(axcodes="RAS", labels=RAS)(tensor)
    # One memory layout for all orientations, so that sums over the array are bitwise equal; never the reader's own array.
    return np.array(oriented.as_tensor().numpy(), order="C")


def _slabs(shape: Shape) -> list[slice]:
    thickness = max(1, SLAB_VOXELS // (shape[1] * shape[2]))
    return [slice(start, min(start + thickness, shape[0])) for start in range(0, shape[0], thickness)]


def _resample(array: Tensor, grids: _Grids, mode: str) -> Tensor:
    """Resample (C, X, Y, Z) from the grid in RAS order to the prepared one, slab by slab."""
    transform = SpatialResample(mode=mode, padding_mode="border", align_corners=False, dtype=np.float32)
    affine = torch.diag(torch.tensor([*grids.source, 1.0], dtype=torch.float64))
    resampled = torch.empty((array.shape[0], *grids.shape), dtype=array.dtype)
    for slab in _slabs(grids.shape):
        slab_affine = torch.diag(torch.tensor([*grids.target, 1.0], dtype=torch.float64))
        slab_affine[:3, 3] = torch.tensor(grids.offset, dtype=torch.float64) * affine.diagonal()[:3]
        slab_affine[0, 3] += slab.start * grids.target[0]
        size = (slab.stop - slab.start, *grids.shape[1:])
        for channel, output in zip(array, resampled, strict=True):
            volume = MetaTensor(channel[None].float(), affine=affine)
            output[slab] = transform(volume, dst_affine=slab_affine, spatial_size=size).as_tensor()[0]
    return resampled


def _highest(logits: Tensor, grids: _Grids, slab: slice) -> Tensor:
    """Return the class of the highest logit in the planes `slab` of the volume in RAS order."""
    starts = (slab.start, 0, 0)
    stops = (slab.stop, *grids.oriented[1:])
    positions = [
        (torch.arange(start, stop, dtype=torch.float64) - offset) * (source / target)
        for start, stop, offset, source, target in zip(starts, stops, grids.offset, grids.source, grids.target, strict=True)
    ]
    best: Tensor | None = None
    classes = torch.zeros((slab.stop - slab.start, *grids.oriented[1:]), dtype=torch.uint8)
    for index, channel in enumerate(logits):
        values = sample_grid(channel, positions) if grids.resampled else channel[slab].float()
        if best is None:
            best = values
            continue
        classes[values > best] = index
        best = torch.maximum(values, best)
    return classes


def _normalise(channel: Array, normalisation: Normalisation) -> None:
    """Normalise (X, Y, Z) in place; statistics are taken in float64."""
    if normalisation.method == "ct":
        if normalisation.clip is None or normalisation.mean is None or normalisation.std is None:
            raise UsageError("plan: normalisation `ct` needs clip, mean and std; make the plan again")
        np.clip(channel, *normalisation.clip, out=channel)
        mean, std = normalisation.mean, normalisation.std
    else:
        mean, std = float(channel.mean(dtype=np.float64)), float(channel.std(dtype=np.float64))
    channel -= np.float32(mean)
    channel /= np.float32(max(std, 1e-8))
