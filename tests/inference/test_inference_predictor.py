from __future__ import annotations

import nibabel
import numpy as np
import pytest
from nibabel.orientations import axcodes2ornt, inv_ornt_aff, ornt_transform
from tiny_model import make_plan, make_predictor, write_image

from se_med.errors import ImageError
from se_med.io.nifti import read_image, write_label

OBLIQUE = np.array([[0.98, -0.199, 0.0, -20.0], [0.199, 0.98, 0.0, 7.0], [0.0, 0.0, 1.0, 3.0], [0, 0, 0, 1]])


def reoriented(array: np.ndarray, affine: np.ndarray, codes: str) -> nibabel.Nifti1Image:
    """The same volume stored in another order of axes, by nibabel alone."""
    change = ornt_transform(axcodes2ornt(nibabel.aff2axcodes(affine)), axcodes2ornt(codes))
    return nibabel.Nifti1Image(
        np.ascontiguousarray(nibabel.apply_orientation(array, change)), affine @ inv_ornt_aff(change, array.shape)
    )


@pytest.mark.parametrize("affine", [np.diag([1.0, 1.0, 1.0, 1.0]), OBLIQUE, np.diag([-1.0, -1.0, 1.0, 1.0])])
@pytest.mark.parametrize("codes", ["LPS", "PIR", "ASL"])
def test_a_reoriented_volume_gets_the_same_labels_on_its_own_grid(codes, affine, noise, predictor, tmp_path):
    nibabel.save(nibabel.Nifti1Image(noise, affine), tmp_path / "a.nii.gz")
    nibabel.save(reoriented(noise, affine, codes), tmp_path / "b.nii.gz")
    straight = predictor.predict(tmp_path / "a.nii.gz")
    turned = predictor.predict(tmp_path / "b.nii.gz")
    assert set(np.unique(straight.labels)) == {0, 3, 7}
    assert turned.labels.shape == nibabel.load(tmp_path / "b.nii.gz").shape
    assert np.array_equal(turned.labels, reoriented(straight.labels, affine, codes).dataobj)
    write_label(tmp_path / "out.nii.gz", turned.labels, turned.native)
    stored = nibabel.load(tmp_path / "out.nii.gz")
    assert np.array_equal(stored.affine, nibabel.load(tmp_path / "b.nii.gz").affine)
    assert stored.get_data_dtype() == np.uint8


def test_labels_of_a_resampled_volume_lie_on_its_own_grid_and_have_its_size(noise, tmp_path):
    predictor = make_predictor(make_plan(spacing=(2.0, 1.0, 1.5)))
    path = write_image(tmp_path / "a.nii.gz", noise, np.diag([-1.0, 1.0, 1.0, 1.0]))
    segmentation = predictor.predict(path)
    assert segmentation.labels.shape == noise.shape
    assert np.array_equal(segmentation.affine, np.diag([-1.0, 1.0, 1.0, 1.0]))


def test_volumes_are_voxel_counts_times_voxel_volume(noise, predictor, tmp_path):
    path = write_image(tmp_path / "a.nii", noise, np.diag([1.0, -1.0, 1.0, 1.0]))
    segmentation = predictor.predict(path)
    assert segmentation.volumes == {
        "front": pytest.approx((segmentation.labels == 3).sum() / 1000),
        "back": pytest.approx((segmentation.labels == 7).sum() / 1000),
    }
    assert segmentation.volumes["front"] > 0
    coarse = make_predictor(make_plan(spacing=(2.0, 3.0, 4.0))).predict(write_image(path, noise, np.diag([2.0, 3.0, 4.0, 1.0])))
    assert coarse.volumes["back"] == pytest.approx((coarse.labels == 7).sum() * 24 / 1000)


def test_channels_come_from_one_file_each_from_4d_or_from_a_volume_already_read(noise, tmp_path):
    predictor = make_predictor(make_plan(channels=2))
    other = np.flip(noise, 0).copy()
    files = [write_image(tmp_path / "a_0000.nii.gz", noise), write_image(tmp_path / "a_0001.nii.gz", other)]
    joined = write_image(tmp_path / "b.nii.gz", np.stack([noise, other], -1))
    expected = predictor.predict(files).labels
    assert np.array_equal(predictor.predict(joined).labels, expected)
    assert np.array_equal(predictor.predict(read_image(joined)).labels, expected)
    assert not np.array_equal(predictor.predict(files[::-1]).labels, expected)


def test_a_wrong_number_of_channels_is_refused_with_the_file_and_both_numbers(noise, predictor, tmp_path):
    path = write_image(tmp_path / "two.nii.gz", np.stack([noise, noise], -1))
    with pytest.raises(ImageError, match=r"two\.nii\.gz: 2 channels, the plan has 1"):
        predictor.predict(path)


def test_a_2d_network_segments_volumes(noise, tmp_path):
    predictor = make_predictor(make_plan(2))
    nibabel.save(reoriented(noise, np.eye(4), "ASL"), tmp_path / "a.nii.gz")
    segmentation = predictor.predict(tmp_path / "a.nii.gz")
    straight = predictor.predict(write_image(tmp_path / "b.nii.gz", noise))
    assert np.array_equal(segmentation.labels, reoriented(straight.labels, np.eye(4), "ASL").dataobj)
