from pathlib import Path

import numpy as np
import pytest

from se_med.io.images import image_stem, label_suffix, read_image, read_images


def test_channels_of_several_files_are_joined(write_nifti):
    arrays = [np.full((4, 5, 6), value, np.int16) for value in (3, 7)]
    paths = [write_nifti(f"case_000{index}.nii.gz", array) for index, array in enumerate(arrays)]
    volume = read_images(paths)
    assert volume.array.shape == (2, 4, 5, 6)
    assert volume.array[:, 0, 0, 0].tolist() == [3, 7]
    assert volume.path == paths[0]
    assert volume.digest != read_images(paths[::-1]).digest
    assert read_images(paths[:1]).digest == read_image(paths[0]).digest
    with pytest.raises(ValueError, match="at least one"):
        read_images([])


@pytest.mark.parametrize(
    ("name", "stem", "label"),
    [
        ("a.nii.gz", "a", ".nii.gz"),
        ("x/b.c.nii", "b.c", ".nii"),
        ("A.NII.GZ", "A", ".NII.GZ"),
        ("a.gz", "a.gz", ""),
        ("a.nii.txt", "a.nii.txt", ""),
        ("a.b.PNG", "a.b", ".png"),
        ("a.jpeg", "a", ".png"),
        ("a.tiff", "a", ".png"),
        ("a.hdr", "a", ".nii.gz"),
        ("a.nrrd", "a", ".nrrd"),
        ("a.NRRD", "a", ".NRRD"),
        ("a.nhdr", "a", ".nrrd"),
        ("a.seg.nrrd", "a", ".nrrd"),
        ("a.mha", "a", ".mha"),
        ("a.mhd", "a", ".mha"),
        ("a.img", "a.img", ""),
    ],
)
def test_stems_and_suffixes(name, stem, label):
    assert image_stem(name) == image_stem(Path(name)) == stem
    assert label_suffix(name) == label
