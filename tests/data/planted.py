"""A sound data set of small volumes, and faults to plant in it, one per case."""

from __future__ import annotations

import gzip
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import data_sets
import nibabel as nib
import numpy as np

SHAPE = (18, 16, 14)
GROUP = "^p[0-9]+"
LABELS = {"background": 0, "ball": 1, "box": 2}
CASES = 45


def make_sound_data(root: Path, cases: int = CASES) -> Path:
    """Write images/ and labels/ with a dataset.json: cases p00, p01, ... of patients of their own."""
    data_sets.describe(root, labels=LABELS, channel_names={"0": "MRI"})
    for number in range(cases):
        write_case(root, f"p{number:02d}", number)
    return root


def write_case(root: Path, name: str, seed: int) -> None:
    """Write a bright ball and a brighter box of varied sizes in noise; shape, spacing and gain vary as scans do."""
    draw = np.random.default_rng(seed)
    shape = tuple(int(size) for size in np.array(SHAPE) + draw.integers(-1, 2, 3))
    affine = np.diag([*(np.array([1.0, 1.0, 2.0]) * draw.uniform(0.95, 1.05)), 1.0])
    affine[:3, 3] = draw.uniform(-20, 20, 3)
    grid = np.stack(np.meshgrid(*map(np.arange, shape), indexing="ij"), -1)
    label = np.zeros(shape, np.uint8)
    label[((grid - draw.uniform(4, 6, 3)) ** 2).sum(-1) < draw.uniform(9, 14)] = 1
    corner, edge = draw.integers(8, 10, 3), draw.integers(3, 5, 3)
    label[tuple(slice(start, start + length) for start, length in zip(corner, edge, strict=True))] = 2
    gain = draw.uniform(0.8, 1.25)
    image = gain * (100 + 150.0 * (label > 0) + draw.normal(0, 8, shape))
    save(root / f"images/{name}.nii.gz", image.astype(np.float32), affine)
    save(root / f"labels/{name}.nii.gz", label, affine)


def save(path: Path, voxels: np.ndarray, affine: np.ndarray) -> None:
    """Write a volume with sform and qform that agree."""
    path.parent.mkdir(parents=True, exist_ok=True)
    image = nib.Nifti1Image(voxels, affine)
    image.set_sform(affine, 1)
    image.set_qform(affine, 1)
    nib.save(image, path)


def load(path: Path) -> tuple[np.ndarray, np.ndarray]:
    stored = nib.load(path)
    return np.asarray(stored.dataobj), stored.affine


@dataclass(frozen=True)
class Planted:
    """A fault and what is to be said of it: severity, kind, and a text that the message holds."""

    plant: Callable[[Path, str], None]
    severity: str
    kind: str
    says: str


def change(folder: str, edit: Callable[[np.ndarray], np.ndarray]) -> Callable[[Path, str], None]:
    """Return what replaces the voxels of a file."""

    def plant(root: Path, name: str) -> None:
        path = root / folder / f"{name}.nii.gz"
        voxels, affine = load(path)
        save(path, edit(voxels.copy()), affine)

    return plant


def scale_grid(*factors: float) -> Callable[[Path, str], None]:
    """Return what multiplies the spacing of image and label."""

    def plant(root: Path, name: str) -> None:
        for folder in ("images", "labels"):
            path = root / folder / f"{name}.nii.gz"
            voxels, affine = load(path)
            save(path, voxels, affine @ np.diag([*factors, 1.0]))

    return plant


def edit_header(root: Path, folder: str, name: str, **fields: float) -> None:
    """Write header fields as no library would, and leave the sform as the only coded geometry."""
    path = root / folder / f"{name}.nii.gz"
    content = bytearray(gzip.decompress(path.read_bytes()))
    content[252:254] = bytes(2)  # qform_code
    for field, value in fields.items():
        offset = {"pixdim_x": 80, "srow_x": 280}[field]
        content[offset : offset + 4] = np.float32(value).tobytes()
    path.write_bytes(gzip.compress(bytes(content)))


def no_spacing(root: Path, name: str) -> None:
    for folder in ("images", "labels"):
        edit_header(root, folder, name, pixdim_x=0, srow_x=0)


def put(value: float, where: tuple[int, ...] = (2, 3, 4)) -> Callable[[np.ndarray], np.ndarray]:
    def edit(voxels: np.ndarray) -> np.ndarray:
        voxels = voxels.astype(np.float32)
        voxels[where] = value
        return voxels

    return edit


def pad_label(voxels: np.ndarray) -> np.ndarray:
    return voxels[:, :, :-1]


def widen(root: Path, name: str) -> None:
    """Put the case into an image that is three times as long."""
    for folder, mode in (("images", "wrap"), ("labels", "constant")):
        path = root / folder / f"{name}.nii.gz"
        voxels, affine = load(path)
        save(path, np.pad(voxels, ((0, 2 * voxels.shape[0]), (0, 0), (0, 0)), mode=mode), affine)


def cut(root: Path, name: str) -> None:
    path = root / f"images/{name}.nii.gz"
    path.write_bytes(path.read_bytes()[:-200])


def not_gzip(root: Path, name: str) -> None:
    (root / f"images/{name}.nii.gz").write_bytes(b"<html>404 not found</html>")


def wrong_sum(root: Path, name: str) -> None:
    path = root / f"labels/{name}.nii.gz"
    content = bytearray(path.read_bytes())
    content[-6] ^= 0xFF
    path.write_bytes(bytes(content))


def move_label(root: Path, name: str) -> None:
    path = root / f"labels/{name}.nii.gz"
    voxels, affine = load(path)
    affine[:3, 3] += 5
    save(path, voxels, affine)


def two_forms(root: Path, name: str) -> None:
    path = root / f"images/{name}.nii.gz"
    image = nib.load(path)
    turned = image.affine.copy()
    turned[:3, 3] += (0, 7, 0)
    image.set_qform(turned, 1)
    image = nib.Nifti1Image(np.asarray(image.dataobj), None, image.header)
    nib.save(image, path)


def pixdim_alone(root: Path, name: str) -> None:
    """Leave another spacing in pixdim beside an sform, without a qform."""
    edit_header(root, "images", name, pixdim_x=4)


def copy_image(source: str) -> Callable[[Path, str], None]:
    """Return what gives a case the pixels of another, in a file with other bytes, and a label that is nearly the same."""

    def plant(root: Path, name: str) -> None:
        voxels, affine = load(root / f"images/{source}.nii.gz")
        save(root / f"images/{name}.nii.gz", voxels.astype(np.float64), affine)
        label, _ = load(root / f"labels/{source}.nii.gz")
        label[0, 0, 0] = 1
        save(root / f"labels/{name}.nii.gz", label, affine)

    return plant


def copy_label(source: str) -> Callable[[Path, str], None]:
    """Return what gives a case the label map of another, and an image of its shape."""

    def plant(root: Path, name: str) -> None:
        voxels, affine = load(root / f"images/{source}.nii.gz")
        noise = np.random.default_rng(99).normal(0, 8, voxels.shape)
        save(root / f"images/{name}.nii.gz", (voxels + noise).astype(np.float32), affine)
        save(root / f"labels/{name}.nii.gz", *load(root / f"labels/{source}.nii.gz"))

    return plant


def drop(folder: str) -> Callable[[Path, str], None]:
    return lambda root, name: (root / folder / f"{name}.nii.gz").unlink()


def clash(root: Path, name: str) -> None:
    save(root / f"images/{name}.nii", *load(root / f"images/{name}.nii.gz"))


def second_channel(voxels: np.ndarray) -> np.ndarray:
    return np.stack([voxels, voxels + 1], axis=-1)


def grow_ball(voxels: np.ndarray) -> np.ndarray:
    voxels[voxels == 1] = 0
    voxels[:8, 1:-1, 1:-1][voxels[:8, 1:-1, 1:-1] == 0] = 1
    return voxels


FAULTS: dict[str, Planted] = {
    "p01": Planted(cut, "error", "truncated", "stream ends early"),
    "p02": Planted(change("images", put(np.nan)), "error", "not finite", "1 voxels are NaN and 0 infinite"),
    "p03": Planted(change("images", put(np.inf)), "error", "not finite", "0 voxels are NaN and 1 infinite"),
    "p04": Planted(not_gzip, "error", "unreadable", "not gzip"),
    "p05": Planted(wrong_sum, "error", "unreadable", "wrong checksum"),
    "p06": Planted(change("images", lambda voxels: np.full_like(voxels, 7)), "error", "constant", "every voxel is 7"),
    "p07": Planted(move_label, "error", "geometry", "origin ("),
    "p08": Planted(change("labels", pad_label), "error", "geometry", "shape "),
    "p09": Planted(two_forms, "warning", "header", "up to 7 mm"),
    "p10": Planted(pixdim_alone, "warning", "header", "spacing 4x"),
    "p11": Planted(no_spacing, "error", "spacing", "zero or too small"),
    "p12": Planted(scale_grid(0.001, 0.001, 0.001), "error", "spacing", "too small"),
    "p13": Planted(scale_grid(0.01, 0.01, 0.01), "warning", "spacing", "were metres or centimetres stored as mm"),
    "p14": Planted(change("labels", put(7)), "error", "undeclared", "7 (1 voxels); declared are [1, 2]"),
    "p15": Planted(change("labels", put(0.5)), "error", "bad labels", "1 voxels with fractional labels such as 0.5"),
    "p16": Planted(change("labels", put(-1)), "error", "bad labels", "-1 is negative"),
    "p17": Planted(change("labels", np.zeros_like), "warning", "empty", "no voxel of any structure"),
    "p18": Planted(change("labels", lambda voxels: voxels % 2), "warning", "missing", "no voxel of box"),
    "p19": Planted(change("labels", grow_ball), "warning", "odd volume", "ball has"),
    "p20": Planted(widen, "warning", "odd size", "left-right"),
    "p21": Planted(scale_grid(1.0, 1.0, 3.0), "warning", "odd spacing", "inferior-superior"),
    "p22": Planted(change("images", lambda voxels: 1000 * voxels), "warning", "odd intensity", "intensities span"),
    "p23": Planted(change("images", lambda voxels: 400 - voxels), "warning", "odd intensity", "darker than the image"),
    "p24": Planted(change("images", second_channel), "error", "channels", "2 channels, most cases have 1"),
    "p25": Planted(copy_image("p40"), "error", "leak", "the same pixels"),
    "p26": Planted(copy_label("p41"), "warning", "label copy", "the same label map"),
    "p27": Planted(drop("labels"), "error", "folder", "image without a label"),
    "p28": Planted(drop("images"), "error", "folder", "label without an image"),
    "p29": Planted(clash, "error", "folder", "have the same name"),
    "p42_late": Planted(copy_image("p42"), "warning", "duplicate", "the same pixels"),
}
"""The case that a fault is planted in, and the fault. p25 is another patient than p40, p42_late is p42 again."""


def split(late: bool = False) -> list[dict[str, list[str]]]:
    """Return one fold in which p25 is trained on and p40 held out, without the cases that lose a file."""
    names = [f"p{number:02d}" for number in range(CASES) if number not in (27, 28)] + ["p42_late"] * late
    held_out = [name for name in names if name >= "p35"]
    return [{"train": [name for name in names if name not in held_out], "validation": held_out}]


def plant_all(root: Path) -> None:
    for name, fault in FAULTS.items():
        fault.plant(root, name)
