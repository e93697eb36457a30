"""From a volume to the grid that networks see, and back: orientation, spacing, intensities.

Training and inference use this one object. Forwards it orients to RAS, resamples to the plan's spacing and normalises;
backwards it takes logits to labels on the native grid.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from torch import Tensor

from se_med.data.grids import Grids, find_grids, resample_image, resample_label, slabs
from se_med.data.plan import Normalisation, Plan
from se_med.data.restoration import Restoration
from se_med.data.targets import make_target
from se_med.errors import ImageError, UsageError
from se_med.io.volume import Geometry, Volume, same_geometry

_VAST = 1e30  # standard deviation of intensities from which on their differences may overflow
IGNORED = 255
"""Class index of voxels without a reference in prepared labels; only plans with an `ignore_label` have it."""

Array = npt.NDArray[np.float32]


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
        if len(plan.label_values) - 1 > most:
            raise UsageError(
                f"labels: {len(plan.labels)} structures; at most {most} can be segmented, declare fewer in data.labels"
            )
        self.plan = plan
        self.target = make_target(plan)

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
        grids = find_grids(native, self.plan.spacing, image.path)
        array = grids.orient(image.array)
        if grids.resampled:
            array = resample_image(array, grids)
        for channel, normalisation in zip(array, self.plan.normalisation, strict=True):
            _normalise(channel, normalisation)
        return Prepared(array, grids.affine(native.affine), native)

    def forward_label(self, label: Volume, like: Prepared) -> npt.NDArray[np.uint8]:
        """Take a label to the grid of its prepared image: class indices, nearest voxel.

        Args:
            label: array (X, Y, Z) of label values, on the image's native grid.
            like: the prepared image.

        Returns:
            (X, Y, Z) class indices: 0 background, k + 1 the plan's structure k (of regions: the k-th group of values that are in
            the same regions), IGNORED where the label is the plan's `ignore_label`.

        Raises:
            ImageError: shape or affine are not the image's, or there are values that the plan does not declare.
        """
        difference = same_geometry(_geometry(label), like.native)
        if difference is not None:
            raise ImageError(f"{label.path}: label and image differ: {difference}")
        grids = find_grids(like.native, self.plan.spacing, label.path)
        classes = grids.orient(self._class_indices(label))
        return resample_label(classes, grids) if grids.resampled else classes

    def restore(self, logits: Tensor, prepared: Prepared) -> npt.NDArray[np.integer]:
        """Take logits to labels on the native grid: the class of the highest logit, or of the regions above 0 (`Target.choose`).

        Logits are resampled slab by slab and class by class, so memory does not grow with the classes. Where nothing was
        resampled the result is exactly that of the logits as they are.

        Args:
            logits: (outputs, X, Y, Z) on the prepared grid.
            prepared: the prepared volume (its array is not read, only the geometry).

        Returns:
            (X, Y, Z) label values in the smallest unsigned type, in the volume's own shape and orientation.

        Raises:
            ValueError: the shape of the logits is not that of the prepared volume, or their number that of the outputs.
        """
        grids = find_grids(prepared.native, self.plan.spacing)
        expected = (self.plan.num_classes, *grids.shape)
        if tuple(logits.shape) != expected:
            raise ValueError(f"logits have shape {tuple(logits.shape)}, the prepared volume needs {expected}")
        logits = logits.detach().cpu()
        restoration = Restoration(grids, axis=0)
        classes = np.empty(grids.oriented, dtype=np.uint8)
        for slab in slabs(grids.oriented):
            outputs = (restoration.read(output[restoration.needed(slab)], slab) for output in logits)
            classes[slab] = self.target.choose(outputs).numpy()
        return self.label_values(classes, grids)

    def label_values(self, classes: npt.NDArray[np.uint8], grids: Grids) -> npt.NDArray[np.integer]:
        """Return the label values (X, Y, Z), in the smallest unsigned type and native order, of classes in RAS order."""
        values = np.array(self.plan.label_values)
        values = values.astype(np.min_scalar_type(int(values.max())))
        native = grids.to_native(classes)
        if values.dtype == classes.dtype and np.array_equal(values, np.arange(len(values))):
            return native.copy()
        labels = np.empty(native.shape, values.dtype)
        for plane, target in zip(native, labels, strict=True):  # as an index, a class takes eight bytes
            target[...] = values[plane]
        return labels

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

    def _class_indices(self, label: Volume) -> npt.NDArray[np.uint8]:
        pairs = {0: 0} | dict.fromkeys(self.plan.background_values, 0)
        pairs |= {value: index for index, group in enumerate(self.plan.structures.classes, start=1) for value in group}
        if self.plan.ignore_label is not None:
            pairs[self.plan.ignore_label] = IGNORED
        declared, indices = np.array(list(pairs)), np.array(list(pairs.values()))
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
                "declare them in data.labels or data.background_values, or correct the file"
            )
        return classes


def _geometry(volume: Volume) -> Geometry:
    return Geometry(volume.shape, volume.affine, volume.spacing)


def _normalise(channel: Array, normalisation: Normalisation) -> None:
    """Normalise (X, Y, Z) in place; statistics are taken in float64."""
    clip = normalisation.clip if normalisation.method == "ct" else None
    if normalisation.method == "ct":
        if clip is None or normalisation.mean is None or normalisation.std is None:
            raise UsageError("plan: normalisation `ct` needs clip, mean and std; make the plan again")
        mean, std = normalisation.mean, normalisation.std
    else:
        mean, std = float(channel.mean(dtype=np.float64)), float(channel.std(dtype=np.float64))
    first = std if std > _VAST else 1.0  # the difference of two such numbers may be more than float32 holds
    mean, std = mean / first, max(std / first, 1e-8)
    for plane in channel:  # which stays in the processor's cache
        if clip is not None:
            np.clip(plane, *clip, out=plane)
        if first != 1.0:
            plane /= np.float32(first)
        plane -= np.float32(mean)
        plane /= np.float32(std)
