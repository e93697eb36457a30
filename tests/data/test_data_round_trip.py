"""From files of any layout, orientation, spacing, shape and type to prepared cases, and back to labels on the files' own grid."""

from __future__ import annotations

import json
import tempfile
from pathlib import Path

import data_sets
import nibabel as nib
import numpy as np
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from nibabel.orientations import apply_orientation, inv_ornt_aff, io_orientation
from prepared_samples import plan_of, write_case
from scipy.ndimage import gaussian_filter, maximum_filter, minimum_filter
from scipy.ndimage import label as components
from test_data_preparation import ORIENTATIONS

from se_med.data.case import Case
from se_med.data.fingerprint import take_fingerprint
from se_med.data.layouts import find_dataset
from se_med.data.planning import make_plan
from se_med.data.preparation import Preparation
from se_med.io.images import read_images, read_label

IMAGE_TYPES = (np.uint8, np.int16, np.uint16, np.int32, np.float32, np.float64)
LABEL_TYPES = (np.uint8, np.int8, np.int16, np.uint16, np.int32, np.float32)
SUFFIXES = (".nii.gz", ".nii")
LAYOUTS = ("msd", "folders", "patterns", "nnunet")

spacings = st.tuples(*[st.floats(0.4, 6.0)] * 3)


def write_set(root: Path, layout: str, suffix: str, image: nib.Nifti1Image, label: nib.Nifti1Image) -> dict[str, object]:
    """Write a data set of two equal cases in a layout; returns what the configuration has to say about it."""
    names = ("one", "two")
    paths = {
        "msd": ("imagesTr/{}", "labelsTr/{}"),
        "folders": ("images/{}", "labels/{}"),
        "patterns": ("{}/t1", "{}/seg"),
        "nnunet": ("imagesTr/{}_0000", "labelsTr/{}"),
    }[layout]
    for name in names:
        for pattern, volume in zip(paths, (image, label), strict=True):
            path = root / f"{pattern.format(name)}{suffix}"
            path.parent.mkdir(parents=True, exist_ok=True)
            nib.save(volume, path)
    if layout == "msd":
        files = [[f"./{pattern.format(name)}{suffix}" for pattern in paths] for name in names]
        training = [dict(zip(("image", "label"), pair, strict=True)) for pair in files]
        content = {"modality": {"0": "MRI"}, "labels": {"0": "background", "1": "a", "4": "b"}, "training": training}
        (root / "dataset.json").write_text(json.dumps(content))
    if layout == "nnunet":
        labels = {"background": 0, "a": 1, "b": 4}
        content = {"channel_names": {"0": "MRI"}, "labels": labels, "numTraining": 2, "file_ending": suffix}
        (root / "dataset.json").write_text(json.dumps(content))
    patterns = {"image_files": f"*/t1{suffix}", "label_files": f"*/seg{suffix}"} if layout == "patterns" else {}
    return {"root": root, **patterns}


def there_and_back(case: Case, preparation: Preparation) -> tuple[np.ndarray, np.ndarray]:
    """Return the labels of a case as stored, and after preparing and restoring them."""
    label = read_label(case.label)
    prepared = preparation.forward(read_images(case.images))
    classes = preparation.forward_label(label, prepared)
    outputs = preparation.plan.num_classes
    one_hot = torch.nn.functional.one_hot(torch.from_numpy(classes).long(), outputs).movedim(-1, 0).float()
    return label.array, preparation.restore(one_hot, prepared)


@given(
    orientation=st.sampled_from(ORIENTATIONS),
    spacing=spacings,
    shape=st.tuples(*[st.integers(8, 20)] * 3),
    image_type=st.sampled_from(IMAGE_TYPES),
    label_type=st.sampled_from(LABEL_TYPES),
    layout=st.sampled_from(LAYOUTS),
    suffix=st.sampled_from(SUFFIXES),
    seed=st.integers(0, 1000),
)
@settings(max_examples=40, deadline=None)
def test_labels_come_back_exactly_where_the_spacing_stays(
    orientation, spacing, shape, image_type, label_type, layout, suffix, seed
):
    generator = np.random.default_rng(seed)
    label = generator.choice([0, 1, 4], shape, p=(0.5, 0.3, 0.2)).astype(label_type)
    label.flat[:2] = 1, 4
    image = generator.integers(0, 120, shape).astype(image_type)
    affine = np.diag([*spacing, 1.0])
    affine[:3, 3] = generator.uniform(-100, 100, 3)
    affine = affine @ inv_ornt_aff(orientation, shape)
    volumes = [nib.Nifti1Image(apply_orientation(array, orientation), affine) for array in (image, label)]
    with tempfile.TemporaryDirectory() as folder:
        data = write_set(Path(folder), layout, suffix, *volumes)
        # Some of these volumes are too small to plan a network for.
        config = data_sets.config(data=data, network={"strides": ((2, 2, 2),)}, training={"patch": (16, 16, 16)})
        dataset = find_dataset(config.data)
        assert [case.name for case in dataset.cases] == ["one", "two"]
        plan = make_plan(config, dataset, take_fingerprint(dataset))
        stored, restored = there_and_back(dataset.cases[0], Preparation(plan))
    assert np.allclose(plan.spacing, spacing, rtol=1e-4)
    assert np.array_equal(restored, stored)
    assert restored.shape == apply_orientation(label, orientation).shape


def thick_blob(generator, shape, edges) -> np.ndarray:
    """One smooth structure of any form, everywhere at least as thick as the edges (in voxels), that touches no border."""
    smooth = gaussian_filter(generator.normal(size=shape), generator.uniform(0.5, 1.0) * edges)
    smooth[[0, -1]] = smooth[:, [0, -1]] = smooth[:, :, [0, -1]] = smooth.min()
    opened = binary_opening(smooth > np.quantile(smooth, generator.uniform(0.5, 0.9)), edges)
    found, count = components(opened)
    return found == 1 + np.argmax(np.bincount(found.ravel())[1:]) if count else np.zeros(shape, bool)


def binary_opening(inside: np.ndarray, edges) -> np.ndarray:
    """What boxes of these edges can fill without leaving the structure."""
    eroded = minimum_filter(inside, size=edges, mode="constant", origin=0)
    # The box of the dilation is the mirrored one; for even edges the centre is the other of the two middle voxels.
    return maximum_filter(eroded, size=edges, mode="constant", origin=tuple(-1 if edge % 2 == 0 else 0 for edge in edges))


def test_the_centre_of_any_structure_of_two_coarser_voxels_each_way_stays_within_half_of_one():
    generator = np.random.default_rng(0)
    shares = []
    while len(shares) < 60:
        native, planned = generator.uniform(0.5, 3.0, (2, 3))
        coarse = np.maximum(native, planned)
        edges = np.ceil(2 * coarse / native).astype(int)
        inside = thick_blob(generator, tuple((edges * generator.uniform(3, 5, 3)).astype(int)), edges)
        if not inside.any():
            continue
        orientation = ORIENTATIONS[generator.integers(48)]
        stored = apply_orientation(np.where(inside, 4, 0).astype(np.uint8), orientation)
        affine = np.diag([*native, 1.0]) @ inv_ornt_aff(orientation, inside.shape)
        with tempfile.TemporaryDirectory() as folder:
            case = write_case(Path(folder), "a", stored.astype(np.float32), stored, affine)
            before, after = there_and_back(case, Preparation(plan_of(spacing=tuple(planned))))
        ras = [apply_orientation(array, io_orientation(affine)) == 4 for array in (before, after)]
        steps = np.abs(np.argwhere(ras[1]).mean(axis=0) - np.argwhere(ras[0]).mean(axis=0))
        shares.append(steps * native / coarse)
    assert np.max(shares) < 0.5
    assert np.mean(shares) < 0.1
