"""The same volume in every format, and channels on grids of their own: one result, on the grid of the input, in its format."""

from __future__ import annotations

import nibabel
import numpy as np
import pytest
from tiny_model import make_plan, make_predictor

from se_med.inference.batch import predict_cases
from se_med.inference.cases import find_cases
from se_med.io.images import read_geometry, read_image, read_label
from se_med.io.volume import same_geometry

AFFINE = np.array([[0.0, -1, 0, 3], [-0.8, 0, 0, 4], [0, 0, 1.5, 5], [0, 0, 0, 1]])


def nhdr(folder, name, voxels, affine):
    """Write an NRRD with its voxels in a file beside it."""
    world = np.diag([-1, -1, 1, 1]) @ affine
    columns = [f"({','.join(map(str, world[:3, axis]))})" for axis in range(4)]
    lines = [
        "NRRD0004",
        "type: float",
        "dimension: 3",
        "space: left-posterior-superior",
        f"sizes: {' '.join(map(str, voxels.shape))}",
    ]
    lines += [f"space directions: {' '.join(columns[:3])}", f"space origin: {columns[3]}", "endian: little", "encoding: raw"]
    (folder / f"{name}.raw").write_bytes(voxels.astype("<f4").tobytes(order="F"))
    (folder / f"{name}.nhdr").write_text("\n".join([*lines, f"data file: {name}.raw", ""]))


def mha(folder, name, voxels, affine):
    world = np.diag([-1, -1, 1, 1]) @ affine
    spacing = np.linalg.norm(world[:3, :3], axis=0)
    fields = {
        "ObjectType": "Image",
        "NDims": "3",
        "TransformMatrix": " ".join(map(str, (world[:3, :3] / spacing).T.ravel())),
        "Offset": " ".join(map(str, world[:3, 3])),
        "ElementSpacing": " ".join(map(str, spacing)),
        "DimSize": " ".join(map(str, voxels.shape)),
        "ElementType": "MET_FLOAT",
        "ElementDataFile": "LOCAL",
    }
    header = "".join(f"{key} = {value}\n" for key, value in fields.items())
    (folder / f"{name}.mha").write_bytes(header.encode() + voxels.astype("<f4").tobytes(order="F"))


@pytest.fixture
def images(noise, tmp_path):
    folder = tmp_path / "images"
    folder.mkdir()
    nibabel.save(nibabel.Nifti1Image(noise, AFFINE), folder / "a.nii.gz")
    nibabel.save(nibabel.Nifti1Pair(noise, AFFINE), folder / "b.hdr")
    nhdr(folder, "c", noise, AFFINE)
    mha(folder, "d", noise, AFFINE)
    return folder


def test_one_volume_in_four_formats_has_one_result(images, predictor, tmp_path):
    cases = find_cases([images], tmp_path / "out", 1)
    results = sorted(predict_cases(predictor, cases), key=lambda result: result.name)
    assert [(result.status, result.output.name) for result in results] == [
        ("done", "a.nii.gz"),
        ("done", "b.nii.gz"),
        ("done", "c.nrrd"),
        ("done", "d.mha"),
    ]
    written = {result.name: read_label(result.output) for result in results}
    assert written["a"].array.any()
    for case in cases:
        np.testing.assert_array_equal(written[case.name].array, written["a"].array)
        np.testing.assert_array_equal(written[case.name].affine, read_image(case.files[0]).affine)


def test_another_file_of_voxels_is_another_input(images, predictor, tmp_path):
    def run():
        cases = find_cases([images], tmp_path / "out", 1)
        return {result.name: result.status for result in predict_cases(predictor, cases)}

    run()
    assert set(run().values()) == {"skipped"}
    content = (images / "c.raw").read_bytes()
    (images / "c.raw").write_bytes(content[4:] + content[:4])
    assert run() == {"a": "skipped", "b": "skipped", "c": "done", "d": "skipped"}


def test_a_channel_on_its_own_grid_is_segmented_as_if_it_was_resampled_before(noise, tmp_path):
    finer = np.diag([0.5, 0.5, 0.5, 1.0])
    finer[:3, 3] = -0.25
    nibabel.save(nibabel.Nifti1Image(noise, np.eye(4)), tmp_path / "p_0000.nii.gz")
    nibabel.save(nibabel.Nifti1Image(noise, np.eye(4)), tmp_path / "same.nii.gz")
    doubled = noise.repeat(2, 0).repeat(2, 1).repeat(2, 2)  # whose samples at the first grid's centres are the noise again
    nibabel.save(nibabel.Nifti1Image(doubled, finer), tmp_path / "p_0001.nii.gz")
    predictor = make_predictor(make_plan(channels=2))
    apart = predictor.predict([tmp_path / "p_0000.nii.gz", tmp_path / "p_0001.nii.gz"])
    together = predictor.predict([tmp_path / "p_0000.nii.gz", tmp_path / "same.nii.gz"])
    np.testing.assert_array_equal(apart.labels, together.labels)
    assert same_geometry(apart.native, read_geometry(tmp_path / "p_0000.nii.gz")) is None
