"""Makes the bundled sample: a small data set derived from one real template, to try every command on without a download.

The template is the MNI ICBM152 2009a T1 average with its grey and white matter maps (Fonov et al. 2011, NeuroImage 54), which the
wheel of nilearn carries. Each subject is the template, smoothly deformed, with its own bias field, contrast, noise, orientation
and field of view.
"""

from __future__ import annotations

import importlib.util
from dataclasses import dataclass
from pathlib import Path

import nibabel as nib
import numpy as np
from isal import igzip
from nibabel.orientations import axcodes2ornt, inv_ornt_aff, io_orientation, ornt_transform
from scipy import fft, ndimage
from scipy.spatial.transform import Rotation

from se_med.data.layouts.description import FILE_NAME, read_description
from se_med.errors import UsageError
from se_med.io.atomic import write_bytes, write_json, write_text
from se_med.io.nifti import read_image, write_label
from se_med.io.volume import Volume

NAME = "se-med demo"
LABELS = {"grey_matter": 1, "white_matter": 2}
TEMPLATE = "mni_icbm152_{}_tal_nlin_sym_09a_converted.nii.gz"
MARGIN = 12.0
"""Background around the brain, in mm."""
ORIENTATIONS = ("RAS", "LAS", "LPS", "PIR", "ASL")
README = """\
se-med demo data set
====================

These subjects are NOT patients. All are derived from one template, the MNI ICBM152 2009a T1 average of young adults and its maps
of grey and white matter (Fonov et al. 2011, NeuroImage 54, 313-327; taken from the wheel of nilearn). Each subject is that
template with a random smooth deformation, bias field, contrast and noise.

Use them to try se-med's commands. Because every subject shares one anatomy, a score on them says nothing about real
patients, and a difference between two networks is no evidence for or against squeeze-and-excitation.

Layout: Medical Segmentation Decathlon. imagesTr and labelsTr are for training, imagesTs and labelsTs are held out.
Labels: 1 grey matter, 2 white matter; cerebrospinal fluid and everything else is background (0).

Copyright of the template (C) 1993-2009 Louis Collins, McConnell Brain Imaging Centre, Montreal Neurological Institute, McGill
University. Permission to use, copy, modify and distribute it for any purpose and without fee is granted by its authors,
provided that this notice appears in all copies. It comes "as is" without express or implied warranty.
"""


@dataclass(frozen=True)
class Template:
    """The template's maps at the demo's resolution, (X, Y, Z) at 1 mm in RAS.

    Attributes:
        t1: intensities from 0 to 1.
        grey: share of grey matter, 0 to 1.
        white: share of white matter, 0 to 1.
        low: first voxel of the brain along each axis.
        high: last voxel of the brain along each axis.
    """

    t1: np.ndarray
    grey: np.ndarray
    white: np.ndarray
    low: np.ndarray
    high: np.ndarray


def make_demo(folder: Path, subjects: int = 12, seed: int = 0, spacing: float = 3.0) -> Path:
    """Make the demo data set; where the folder already holds the same one, it is left as it is.

    A quarter of the subjects is held out in imagesTs and labelsTs. Equal arguments give equal bytes.

    Args:
        folder: folder to make; its parents are made too.
        subjects: number of subjects, 4 or more.
        seed: seed of every random choice.
        spacing: edge of the voxels in mm, 1 to 8.

    Returns:
        The folder.

    Raises:
        UsageError: nilearn is not installed, an argument is out of range, or the folder holds something else.
    """
    if subjects < 4:
        raise UsageError(f"demo: {subjects} subjects are too few, 4 are the least")
    if not 1.0 <= spacing <= 8.0:
        raise UsageError(f"demo: the spacing {spacing:g} mm is out of range, 1 to 8 are possible")
    recipe = {"version": 1, "subjects": subjects, "seed": seed, "spacing": spacing}
    if _is_made(folder, recipe):
        return folder
    template = _load_template(spacing)
    for name in ("imagesTr", "labelsTr", "imagesTs", "labelsTs"):
        (folder / name).mkdir(parents=True, exist_ok=True)
    write_text(folder / "README.txt", README)
    training = subjects - subjects // 4
    for number in range(subjects):
        part = "Tr" if number < training else "Ts"
        _write_subject(folder, part, _name(number), _make_subject(template, seed, number, spacing))
    entries = [{"image": f"./imagesTr/{_name(n)}.nii.gz", "label": f"./labelsTr/{_name(n)}.nii.gz"} for n in range(training)]
    description = {
        "name": NAME,
        "description": "Grey and white matter, derived from one template. No evidence about any method: see README.txt",
        "recipe": recipe,
        "modality": {"0": "MRI"},
        "labels": {"0": "background"} | {str(value): name for name, value in LABELS.items()},
        "numTraining": training,
        "numTest": subjects - training,
        "training": entries,
        "test": [f"./imagesTs/{_name(n)}.nii.gz" for n in range(training, subjects)],
    }
    # Last, so that the file says that everything is there.
    write_json(folder / FILE_NAME, description)
    return folder


def _is_made(folder: Path, recipe: dict[str, float]) -> bool:
    if not folder.exists():
        return False
    if not folder.is_dir():
        raise UsageError(f"{folder}: is a file; give a folder for the demo")
    if read_description(folder).content.get("recipe") == recipe:
        return True
    readme = folder / "README.txt"
    interrupted = not (folder / FILE_NAME).exists() and readme.is_file() and readme.read_bytes() == README.encode()
    if any(folder.iterdir()) and not interrupted:
        raise UsageError(f"{folder}: holds something else already; give another folder for the demo")
    return False


def _name(number: int) -> str:
    return f"subject_{number + 1:03d}"


def _load_template(spacing: float) -> Template:
    package = importlib.util.find_spec("nilearn")
    # Found without importing it: nilearn takes seconds, and only its files are wanted.
    folders = [] if package is None else list(package.submodule_search_locations or ())
    maps = []
    for kind in ("t1", "gm", "wm"):
        paths = [Path(folder) / "datasets" / "data" / TEMPLATE.format(kind) for folder in folders]
        path = next((path for path in paths if path.is_file()), None)
        if path is None:
            raise UsageError("demo: the template of nilearn is not installed; run: pip install 'se-med[demo]'")
        # Smoothed to the voxel size, or fine folds would turn into noise.
        maps.append(ndimage.gaussian_filter(read_image(path).array[0] / np.float32(255), 0.35 * spacing))
    t1, grey, white = maps
    brain = np.nonzero(grey + white > 0.1)
    low, high = np.array([axis.min() for axis in brain]), np.array([axis.max() for axis in brain])
    return Template(t1, grey, white, low, high)


def _make_subject(template: Template, seed: int, number: int, spacing: float) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return image (X, Y, Z) int16, label (X, Y, Z) uint8 and affine of one subject."""
    rng = np.random.default_rng([seed, number])
    shape, affine = _draw_grid(template, rng, spacing)
    where = _deformed(template, rng, shape, affine, spacing)
    t1, grey, white = (
        ndimage.map_coordinates(volume, where, order=1, mode="constant")
        for volume in (template.t1, template.grey, template.white)
    )
    label = np.where(grey >= white, np.uint8(1), np.uint8(2))
    label[grey + white < 0.5] = 0
    clean = np.maximum(t1 + rng.uniform(-0.06, 0.06) * grey + rng.uniform(-0.06, 0.06) * white, 0) ** rng.uniform(0.8, 1.3)
    clean *= np.exp(_smooth_noise(rng, shape, 45 / spacing, 0.12))
    noise = rng.uniform(0.02, 0.06)
    # Magnitude images have Rician noise (Gudbjartsson and Patz 1995, MRM 34).
    noisy = np.hypot(clean + rng.normal(0, noise, shape), rng.normal(0, noise, shape))
    return np.rint(noisy * np.exp(rng.uniform(np.log(200), np.log(4000)))).astype(np.int16), label, affine


def _draw_grid(template: Template, rng: np.random.Generator, spacing: float) -> tuple[tuple[int, ...], np.ndarray]:
    """Draw orientation, tilt and field of view; return shape and affine (voxel to template mm)."""
    extent = template.high - template.low + 2 * MARGIN + rng.uniform(-6, 12, 3)
    shape = np.ceil(extent / spacing).astype(int)
    tilt = Rotation.from_rotvec(np.radians(rng.uniform(-5, 5, 3))).as_matrix()
    affine = np.eye(4)
    affine[:3, :3] = tilt * spacing
    centre = (template.low + template.high) / 2 + rng.uniform(-4, 4, 3)
    affine[:3, 3] = centre - affine[:3, :3] @ ((shape - 1) / 2)
    change = ornt_transform(io_orientation(affine), axcodes2ornt(ORIENTATIONS[rng.integers(len(ORIENTATIONS))]))
    turned = tuple(int(shape[int(axis)]) for axis in np.argsort(change[:, 0]))
    return turned, affine @ inv_ornt_aff(change, tuple(int(extent) for extent in shape))


def _deformed(
    template: Template, rng: np.random.Generator, shape: tuple[int, ...], affine: np.ndarray, spacing: float
) -> np.ndarray:
    """Return for each voxel of the subject its place in the template, (3, X, Y, Z) in voxels."""
    world = np.tensordot(affine[:3, :3], np.indices(shape), axes=1) + affine[:3, 3].reshape(3, 1, 1, 1)
    centre = ((template.low + template.high) / 2).reshape(3, 1, 1, 1)
    turn = Rotation.from_rotvec(np.radians(rng.uniform(-6, 6, 3))).as_matrix() @ np.diag(rng.uniform(0.93, 1.07, 3))
    bend = np.stack([_smooth_noise(rng, shape, 20 / spacing, 4.0) for _ in range(3)])
    return np.asarray(np.tensordot(turn, world - centre, axes=1) + centre + bend)


def _smooth_noise(rng: np.random.Generator, shape: tuple[int, ...], sigma: float, std: float) -> np.ndarray:
    spectrum = fft.rfftn(rng.standard_normal(shape))
    noise: np.ndarray = fft.irfftn(ndimage.fourier_gaussian(spectrum, sigma, n=shape[-1]), shape)
    return np.asarray(noise * (std / noise.std()))


def _write_subject(folder: Path, part: str, name: str, subject: tuple[np.ndarray, np.ndarray, np.ndarray]) -> None:
    voxels, label, affine = subject
    image = nib.Nifti1Image(voxels, affine)
    image.header.set_xyzt_units("mm")
    image.set_sform(affine, code="aligned")
    image.set_qform(affine, code="aligned")
    # No time stamp in the gzip header, so that equal voxels are equal files.
    path = folder / f"images{part}" / f"{name}.nii.gz"
    write_bytes(path, igzip.compress(image.to_bytes(), compresslevel=2, mtime=0))
    write_label(folder / f"labels{part}" / path.name, label, like=Volume(voxels[np.newaxis], affine, image.header, path, ""))
