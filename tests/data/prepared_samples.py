"""Plans, volumes and small data sets on disk for the tests of preparation, cache, augmentation and stream."""

from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
from scipy.ndimage import gaussian_filter

from se_med.config.augmentation import AugmentationConfig
from se_med.data.cache import PreparedCase, prepare_cases
from se_med.data.case import Case
from se_med.data.plan import Normalisation, Plan
from se_med.io.volume import Volume

OFF = {
    name: {"probability": 0.0}
    for name in ("affine", "noise", "blur", "brightness", "contrast", "low_resolution", "gamma", "flip")
}


def plan_of(**changes: Any) -> Plan:
    """A plan of two structures at 1 mm with a patch of 12x16x8."""
    fields: dict[str, Any] = {
        "spatial_dims": 3,
        "slice_axis": None,
        "channels": ("T1",),
        "labels": {"front": 1, "back": 4},
        "spacing": (1.0, 1.0, 1.0),
        "normalisation": (Normalisation(method="zscore"),),
        "patch": (12, 16, 8),
        "batch_size": 4,
        "features": (4, 8),
        "strides": ((2, 2, 2),),
        "kernels": ((3, 3, 3), (3, 3, 3)),
        "stem": (1, 1, 1),
        "flip_axes": (0,),
        "median_shape": (16, 20, 12),
        "cases": 5,
    }
    return Plan(**(fields | changes))


def slice_plan(**changes: Any) -> Plan:
    """The same for a 2D network that takes slices across axis 2."""
    two = {"strides": ((2, 2),), "kernels": ((3, 3), (3, 3)), "stem": (1, 1)}
    return plan_of(**({"spatial_dims": 2, "slice_axis": 2, "patch": (12, 16)} | two | changes))


def augmentation(**changes: Any) -> AugmentationConfig:
    """The default augmentation with flips along axis 0."""
    return AugmentationConfig.model_validate({"flip": {"axes": (0,)}} | changes)


def no_augmentation(**changes: Any) -> AugmentationConfig:
    """An augmentation that does nothing but what is given."""
    return AugmentationConfig.model_validate(OFF | {"flip": {"probability": 0.0, "axes": ()}} | changes)


def volume(array: np.ndarray, affine: np.ndarray, path: str = "image.nii.gz") -> Volume:
    """A volume that was never on disk: (X, Y, Z) floats become an image of one channel, integers a label."""
    if array.dtype.kind == "f" and array.ndim == 3:
        array = array[None].astype(np.float32)
    return Volume(np.ascontiguousarray(array), affine, None, Path(path), "")


def blobs(shape: tuple[int, int, int], seed: int) -> tuple[np.ndarray, np.ndarray]:
    """A smooth random image and a label with the values 1 and 4 where it is bright and dark."""
    smooth = gaussian_filter(np.random.default_rng(seed).normal(size=shape), 2)
    label = np.where(smooth > np.quantile(smooth, 0.9), 1, np.where(smooth < np.quantile(smooth, 0.1), 4, 0))
    return (100 + 1000 * smooth).astype(np.float32), label.astype(np.uint8)


def write_case(folder: Path, name: str, image: np.ndarray, label: np.ndarray, affine: np.ndarray | None = None) -> Case:
    """Write an image and a label file and return their case."""
    affine = np.eye(4) if affine is None else affine
    paths = folder / f"{name}.nii.gz", folder / f"{name}_label.nii.gz"
    for path, array in zip(paths, (image, label), strict=True):
        nib.save(nib.Nifti1Image(array, affine), path)
    return Case(name, (paths[0],), paths[1], None)


def write_cases(folder: Path, shapes: list[tuple[int, int, int]]) -> list[Case]:
    """Write one case of each shape."""
    folder.mkdir(parents=True, exist_ok=True)
    return [write_case(folder, f"case{index}", *blobs(shape, index)) for index, shape in enumerate(shapes)]


def prepared_cases(folder: Path, plan: Plan, shapes: list[tuple[int, int, int]] | None = None) -> list[PreparedCase]:
    """Write and prepare cases; the second of the default ones is smaller than the patch."""
    shapes = shapes or [(18, 20, 12), (10, 22, 7), (20, 17, 14), (16, 25, 9), (13, 16, 8)]
    return prepare_cases(write_cases(folder / "raw", shapes), plan, folder / "cache", workers=1)
