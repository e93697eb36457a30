from __future__ import annotations

import nibabel as nib
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from se_med.io.maps import write_map
from se_med.io.nifti import read_image
from se_med.io.volume import Volume

AFFINE = np.array([[-0.9, 0, 0, 12], [0, 0, 1.5, -7], [0, -2, 0, 3], [0, 0, 0, 1]])
SHAPE = (3, 4, 5)


@pytest.fixture
def like(tmp_path):
    image = nib.Nifti1Image(np.zeros(SHAPE, np.float32), AFFINE)
    image.set_sform(AFFINE, 4)
    image.set_qform(AFFINE, 1)
    image.header["descrip"] = b"NAME OF A PATIENT"
    nib.save(image, tmp_path / "image.nii.gz")
    return read_image(tmp_path / "image.nii.gz")


@given(st.integers(0, 2**32 - 1), st.integers(0, 3))
def test_values_come_back_to_half_a_step(tmp_path_factory, seed, count):
    folder = tmp_path_factory.mktemp("maps")
    shape = (count, *SHAPE) if count else SHAPE
    values = np.random.default_rng(seed).random(shape).astype(np.float16)
    write_map(folder / "map.nii.gz", values, Volume(np.zeros((1, *SHAPE), np.float32), AFFINE))
    stored = nib.load(folder / "map.nii.gz")
    found = stored.get_fdata()
    assert np.allclose(np.moveaxis(found, -1, 0) if count else found, values, atol=0.5 / 255 + 1e-6)
    assert found.max() <= 1
    assert np.allclose(stored.affine, AFFINE)


def test_the_geometry_is_that_of_the_image_bit_for_bit_and_nothing_else_is(like, tmp_path):
    write_map(tmp_path / "map.nii.gz", np.zeros((2, *SHAPE), np.uint8), like)
    stored, image = nib.load(tmp_path / "map.nii.gz"), nib.load(tmp_path / "image.nii.gz")
    assert stored.shape == (*SHAPE, 2)
    assert np.array_equal(stored.affine, image.affine)
    for name in ("sform_code", "qform_code", "quatern_b", "srow_x", "xyzt_units"):
        assert np.array_equal(stored.header[name], image.header[name])
    assert np.array_equal(stored.header["pixdim"][:4], image.header["pixdim"][:4])
    assert b"PATIENT" not in (tmp_path / "map.nii.gz").read_bytes()
    assert b"PATIENT" not in bytes(stored.header.binaryblock)


def test_255ths_are_taken_as_they_are(like, tmp_path):
    values = np.arange(60, dtype=np.uint8).reshape(SHAPE) * 4
    write_map(tmp_path / "map.nii.gz", values, like)
    assert np.array_equal(np.asarray(nib.load(tmp_path / "map.nii.gz").dataobj.get_unscaled()), values)


@pytest.mark.parametrize(
    "values", [np.full(SHAPE, 1.01), np.full(SHAPE, -0.1), np.full(SHAPE, np.nan), np.zeros((4, 4, 5)), np.zeros((1, 1, *SHAPE))]
)
def test_what_is_no_map_is_refused(like, tmp_path, values):
    with pytest.raises(ValueError, match=r"map"):
        write_map(tmp_path / "map.nii.gz", values, like)
    assert not (tmp_path / "map.nii.gz").exists()
