"""The result of segmenting one volume: labels on its own grid, sizes of structures, and maps that were asked for."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from se_med.data.structures import mask_of
from se_med.io.volume import Volume

Labels = NDArray[np.integer[Any]]


@dataclass(frozen=True)
class Measure:
    """Size and brightness of one structure.

    Attributes:
        name: of the structure.
        voxels: number of voxels.
        volume_ml: their volume; of a 2D image, in thousands of pixels.
        means: mean intensity of each channel of the image as it is stored; None where the structure is absent.
        deviations: standard deviation of the intensities, likewise.
    """

    name: str
    voxels: int
    volume_ml: float
    means: tuple[float, ...] | None
    deviations: tuple[float, ...] | None


@dataclass(frozen=True, eq=False)
class Segmentation:
    """Labels of one volume, and what else was asked for, in the volume's own shape and orientation.

    Attributes:
        labels: (X, Y, Z) label values in the smallest unsigned type.
        native: the volume that was segmented, as it was stored.
        volumes: volume of each structure in ml, in class order.
        seconds: time that preparation, network and restoring took; reading is not in it when a volume was given.
        structures: name and label values of each structure.
        outputs: names of the probability maps: background and structures, or regions.
        probabilities: (outputs, X, Y, Z) uint8, in 255ths; None where not asked for.
        entropy: (X, Y, Z) float16, from 0 (sure) to 1 (all classes alike); likewise.
        disagreement: (X, Y, Z) float16, the part of the entropy that is there because passes and networks disagree; None also
            where there was a single pass.
    """

    labels: Labels
    native: Volume
    volumes: dict[str, float]
    seconds: float
    structures: Mapping[str, Sequence[int]] = field(default_factory=dict)
    outputs: tuple[str, ...] = ()
    probabilities: NDArray[np.uint8] | None = None
    entropy: NDArray[np.float16] | None = None
    disagreement: NDArray[np.float16] | None = None

    @property
    def affine(self) -> NDArray[np.float64]:
        """Voxel index -> mm in the RAS+ world, (4, 4)."""
        return self.native.affine

    def table(self) -> list[Measure]:
        """Measure each structure, in class order."""
        image = self.native.array
        rows = []
        for name, values in self.structures.items():
            mask = mask_of(self.labels, values)
            voxels = int(np.count_nonzero(mask))
            means = deviations = None
            if voxels:
                inside = [channel[mask] for channel in image]
                means = tuple(float(one.mean(dtype=np.float64)) for one in inside)
                deviations = tuple(float(one.std(dtype=np.float64)) for one in inside)
            rows.append(Measure(name, voxels, self.volumes[name], means, deviations))
        return rows


def volumes_ml(labels: Labels, affine: NDArray[np.float64], structures: Mapping[str, Sequence[int]]) -> dict[str, float]:
    """Return the volume of each structure in ml."""
    voxel = float(abs(np.linalg.det(affine[:3, :3]))) / 1000.0
    voxels = dict.fromkeys(structures, 0)
    for plane in labels:  # which stays in the processor's cache
        for name, values in structures.items():
            voxels[name] += int(np.count_nonzero(mask_of(plane, values)))
    return {name: count * voxel for name, count in voxels.items()}
