"""Channels in separate files on grids of their own: resampled onto the first, said, or refused."""

import logging

import nibabel
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image
from test_io_nifti import oriented_affine

from se_med.errors import ImageError
from se_med.io.images import read_image, read_images

quick = settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
SLOPES = np.array([0.3, -0.7, 1.1])  # intensity per mm along the world axes


def ramp(shape, affine) -> np.ndarray:
    """Intensities that are linear in the world, so that linear interpolation gives them exactly."""
    voxels = np.stack(np.meshgrid(*map(np.arange, shape), indexing="ij"), axis=-1)
    return ((voxels @ affine[:3, :3].T + affine[:3, 3]) @ SLOPES).astype(np.float32)


def save(path, shape, affine, voxels=None):
    nibabel.save(nibabel.Nifti1Image(ramp(shape, affine) if voxels is None else voxels, affine), path)
    return path


@quick
@given(
    orientation=st.sampled_from(["RAS", "LPS", "PIR", "SLA", "ILP"]),
    spacing=st.tuples(*[st.floats(0.5, 4)] * 3),
    turn=st.sampled_from([0.0, 0.1, -0.4]),
    shift=st.tuples(*[st.floats(-3, 3)] * 3),
)
def test_a_channel_lies_where_its_affine_says(tmp_path, orientation, spacing, turn, shift):
    first = oriented_affine("RAS", (1, 1.5, 2), (-4, 5, 3), 0.0)
    other = oriented_affine(orientation, spacing, (0, 0, 0), turn)
    # The centre of the other grid lies near the centre of the first, and it is large enough to hold it whole.
    shape = tuple(int(36 / length) + 2 for length in spacing)
    centre = first[:3, :3] @ [2.5, 2, 1.5] + first[:3, 3] + shift
    other[:3, 3] = centre - other[:3, :3] @ ((np.array(shape) - 1) / 2)
    paths = [save(tmp_path / "a_0000.nii", (6, 5, 4), first), save(tmp_path / "a_0001.nii", shape, other)]
    joined = read_images(paths)
    assert joined.array.shape == (2, 6, 5, 4)
    np.testing.assert_array_equal(joined.affine, read_image(paths[0]).affine)
    np.testing.assert_array_equal(joined.array[0], ramp((6, 5, 4), first))
    np.testing.assert_allclose(joined.array[1], ramp((6, 5, 4), first), atol=2e-4)


def test_the_warning_names_both_files_and_what_lies_outside(tmp_path, caplog):
    first, other = np.diag([1.0, 1, 1, 1]), np.diag([1.0, 1, 2, 1])
    paths = [save(tmp_path / "ct.nii", (4, 4, 8), first), save(tmp_path / "pet.nii", (4, 4, 2), other)]
    with caplog.at_level(logging.WARNING, "se_med"):
        joined = read_images(paths)
        read_images(paths)
    pet = read_image(paths[1]).array[0]
    # Slices of 2 mm from -1 to 3 mm: the centres at 0, 1, 2 and 3 mm are inside, those beyond take the lowest value.
    np.testing.assert_allclose(
        joined.array[1, ..., :4], np.stack([pet[..., 0], pet.mean(2), pet[..., 1], pet[..., 1]], -1), atol=1e-5
    )
    assert (joined.array[1, ..., 4:] == pet.min()).all()
    assert [record.getMessage() for record in caplog.records] == [
        f"{paths[1]}: grid differs from {paths[0]} (shape 4x4x8 against 4x4x2); resampled onto it, "
        "50.0% of its voxels lie outside and take the lowest value"
    ]


def test_equal_grids_are_taken_as_they_are(tmp_path, caplog):
    affine = oriented_affine("LPS", (0.7, 0.8, 3), (1, 2, 3), 0.2)
    noise = np.random.default_rng(0).normal(size=(4, 5, 6)).astype(np.float32)
    paths = [save(tmp_path / f"{name}.nii", (4, 5, 6), affine, noise + index) for index, name in enumerate("ab")]
    np.testing.assert_array_equal(read_images(paths).array, np.stack([noise, noise + 1]))
    assert not caplog.records


def test_channels_that_do_not_overlap_are_refused(tmp_path):
    far = np.diag([1.0, 1, 1, 1])
    far[0, 3] = 4.0  # voxels from 3.5 mm on: just behind the last centre of the first
    paths = [save(tmp_path / "t1.nii", (4, 4, 4), np.eye(4)), save(tmp_path / "t2.nii", (4, 4, 4), far)]
    with pytest.raises(ImageError, match=r"t2\.nii: does not overlap with .*t1\.nii: origin \(0, 0, 0\) against \(4, 0, 0\) mm"):
        read_images(paths)
    far[0, 3] = 3.4
    assert read_images([paths[0], save(tmp_path / "near.nii", (4, 4, 4), far)]).array.shape == (2, 4, 4, 4)


def test_2d_images_are_not_resampled(tmp_path):
    for name, size in (("a.png", (4, 5)), ("b.png", (4, 6))):
        Image.new("L", size).save(tmp_path / name)
    with pytest.raises(ImageError, match=r"b\.png: grid differs from .*a\.png: shape 4x5x1 against 4x6x1; 2D images are not"):
        read_images([tmp_path / "a.png", tmp_path / "b.png"])
    volume = save(tmp_path / "c.nii", (4, 5, 1), np.diag([-1.0, -1, 1, 1]))
    with pytest.raises(ImageError, match="only one of them is a 2D image"):
        read_images([tmp_path / "a.png", volume])
