"""Prepared cases of formats whose voxels lie in another file than their header."""

import nibabel
import numpy as np
from prepared_samples import blobs, plan_of, write_case

from se_med.data.cache import prepare_cases
from se_med.data.case import Case


def test_a_pair_whose_voxels_changed_is_prepared_again(tmp_path):
    image, label = blobs((12, 13, 14), 0)
    case = write_case(tmp_path, "a", image, label)
    pair = tmp_path / "pair.hdr"
    nibabel.save(nibabel.Nifti1Pair(image.astype(np.float32), nibabel.load(case.images[0]).affine), pair)
    case = Case("a", (pair,), case.label)
    (first,) = prepare_cases([case], plan_of(), tmp_path / "cache")
    (again,) = prepare_cases([case], plan_of(), tmp_path / "cache")
    assert first.folder == again.folder
    voxels = np.frombuffer((tmp_path / "pair.img").read_bytes(), "<f4").copy()
    voxels[:20] += 50
    (tmp_path / "pair.img").write_bytes(voxels.tobytes())
    (changed,) = prepare_cases([case], plan_of(), tmp_path / "cache")
    assert changed.folder != first.folder
    assert not np.array_equal(changed.image, first.image)
