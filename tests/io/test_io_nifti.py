import gzip
import hashlib
import itertools
import os
from dataclasses import replace
from pathlib import Path

import nibabel
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from se_med.errors import ImageError, RunError, UsageError
from se_med.io.nifti import read_geometry, read_image, read_label, write_label
from se_med.io.volume import Volume, same_geometry

ORIENTATIONS = ["".join(letters) for order in itertools.permutations(("RL", "AP", "SI")) for letters in itertools.product(*order)]
HEADER_TYPES = {
    "<1": (nibabel.Nifti1Header, "<"),
    ">1": (nibabel.Nifti1Header, ">"),
    "<2": (nibabel.Nifti2Header, "<"),
    ">2": (nibabel.Nifti2Header, ">"),
}
GEOMETRY = (
    *("qform_code", "sform_code", "quatern_b", "quatern_c", "quatern_d", "qoffset_x", "qoffset_y", "qoffset_z"),
    *("srow_x", "srow_y", "srow_z", "xyzt_units"),
)
quick = settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


def oriented_affine(orientation: str, spacing, origin, turn: float) -> np.ndarray:
    """An affine whose axes point where `orientation` says, turned by `turn` radians about the last world axis."""
    affine = nibabel.orientations.inv_ornt_aff(nibabel.orientations.axcodes2ornt(orientation), (2, 3, 4))
    cosine, sine = np.cos(turn), np.sin(turn)
    rotation = np.array([[cosine, -sine, 0], [sine, cosine, 0], [0, 0, 1]])
    affine[:3, :3] = rotation @ np.sign(affine[:3, :3]) @ np.diag(spacing)
    affine[:3, 3] = origin
    return affine


@st.composite
def geometries(draw):
    spacing = draw(st.tuples(*[st.floats(0.0625, 12, width=32)] * 3))
    origin = draw(st.tuples(*[st.floats(-500, 500, width=32)] * 3))
    affine = oriented_affine(draw(st.sampled_from(ORIENTATIONS)), spacing, origin, draw(st.sampled_from([0.0, 0.1, -0.6])))
    return affine, draw(st.integers(0, 4)), draw(st.integers(0, 4))


@st.composite
def label_maps(draw):
    shape = draw(st.tuples(*[st.integers(1, 7)] * 3))
    dtype = draw(st.sampled_from([np.uint8, np.int8, np.uint16, np.int16, np.int32, np.uint32, np.int64, np.float32, np.float64]))
    limit = 2**20 if np.dtype(dtype).kind == "f" else np.iinfo(dtype).max
    highest = draw(st.sampled_from([1, 2, 100, 255, 256, 65535, 65536, 1_000_000]))
    values = np.random.default_rng(draw(st.integers(0, 99))).integers(0, min(highest, limit) + 1, shape)
    return values.astype(dtype)


@quick
@given(geometries(), label_maps(), st.sampled_from(list(HEADER_TYPES)), st.sampled_from(["a.nii", "a.nii.gz"]))
def test_a_written_label_map_has_the_voxels_and_the_geometry_of_its_image(tmp_path, geometry, labels, header_type, name):
    affine, sform_code, qform_code = geometry
    kind, endianness = HEADER_TYPES[header_type]
    header = kind(endianness=endianness)
    header.set_xyzt_units("mm", "sec")
    image = (nibabel.Nifti2Image if "2" in header_type else nibabel.Nifti1Image)(labels, affine, header)
    image.header.set_data_dtype(labels.dtype)
    image.set_qform(affine, qform_code)
    image.set_sform(affine, sform_code)
    source, target = tmp_path / "source.nii.gz", tmp_path / name
    nibabel.save(image, source)

    like = read_image(source)
    np.testing.assert_array_equal(like.affine, nibabel.load(source).affine)
    first = read_label(source)
    write_label(target, first.array, like)
    second = read_label(target)

    np.testing.assert_array_equal(second.array, labels)
    assert second.array.dtype == np.min_scalar_type(int(labels.max()))
    np.testing.assert_array_equal(second.affine, like.affine)
    assert same_geometry(second, like) is None
    stored, written = nibabel.load(source).header, nibabel.load(target).header
    for field in GEOMETRY:
        np.testing.assert_array_equal(stored[field], written[field], err_msg=field)
    np.testing.assert_array_equal(stored.get_sform(), written.get_sform())
    np.testing.assert_array_equal(stored.get_qform(), written.get_qform())
    np.testing.assert_array_equal(stored["pixdim"][:4], written["pixdim"][:4])
    np.testing.assert_array_equal(nibabel.load(target).get_fdata(), labels)


@quick
@given(
    geometries(), st.sampled_from([np.int16, np.uint8, np.float32, np.float64, np.int32]), st.sampled_from("<>"), st.booleans()
)
def test_images_are_read_as_nibabel_reads_them(tmp_path, geometry, dtype, endianness, scaled):
    affine, sform_code, qform_code = geometry
    header = nibabel.Nifti1Header(endianness=endianness)
    array = np.random.default_rng(0).integers(0, 200, (3, 4, 5, 2)).astype(dtype)
    image = nibabel.Nifti1Image(array, affine, header, dtype=dtype)
    image.set_qform(affine, qform_code)
    image.set_sform(affine, sform_code)
    if scaled:
        image.header.set_slope_inter(0.25, -10)
    path = tmp_path / "a.nii.gz"
    nibabel.save(image, path)
    reference = nibabel.load(path)
    volume = read_image(path)
    np.testing.assert_array_equal(volume.array, np.moveaxis(reference.get_fdata(dtype=np.float32), -1, 0))
    np.testing.assert_array_equal(volume.affine, reference.affine)
    assert volume.digest == hashlib.sha256(path.read_bytes()).hexdigest()
    geometry = read_geometry(path)
    assert (geometry.shape, geometry.spacing, geometry.channels) == (volume.shape, volume.spacing, 2)
    np.testing.assert_array_equal(geometry.affine, volume.affine)


@pytest.fixture(scope="module")
def packed() -> tuple[bytes, np.ndarray]:
    """A gzip file with dynamic blocks, and its voxels."""
    rng = np.random.default_rng(1)
    array = (rng.normal(size=(9, 8, 7)) * 30).astype(np.int16)
    return gzip.compress(nibabel.Nifti1Image(array, np.diag([1.0, 2, 3, 1])).to_bytes(), mtime=0), array


def test_truncation_at_any_byte_is_refused(tmp_path, packed):
    content, _ = packed
    path = tmp_path / "cut.nii.gz"
    for length in range(len(content)):
        path.write_bytes(content[:length])
        with pytest.raises(ImageError, match=r"truncated|empty|not gzip"):
            read_image(path)


def test_a_flipped_bit_is_refused_or_harmless(tmp_path, packed):
    content, array = packed
    path = tmp_path / "flip.nii.gz"
    refused = 0
    for position in range(len(content)):
        changed = bytearray(content)
        changed[position] ^= 1 << (position * 5 % 8)
        path.write_bytes(changed)
        try:
            volume = read_image(path)
        except ImageError:
            refused += 1
        else:
            np.testing.assert_array_equal(volume.array[0], array)
    assert refused >= len(content) - 12  # harmless: time and system in the gzip header, padding bits


@quick
@given(st.data())
def test_any_mutation_of_a_plain_file_is_refused_or_read(tmp_path, data):
    array = np.arange(60, dtype=np.int16).reshape(3, 4, 5)
    content = bytearray(nibabel.Nifti1Image(array, np.diag([1.0, 2, 3, 1])).to_bytes())
    for _ in range(data.draw(st.integers(1, 6))):
        content[data.draw(st.integers(0, 351))] = data.draw(st.integers(0, 255))
    path = tmp_path / "mutant.nii"
    path.write_bytes(content)
    for read in (read_image, read_label, read_geometry):
        try:
            found = read(path)
        except ImageError:
            continue
        else:
            assert np.isfinite(found.affine).all()
            assert min(found.shape) > 0


def test_equal_labels_give_equal_bytes(tmp_path, write_nifti):
    like = read_image(write_nifti())
    labels = np.arange(120).reshape(4, 5, 6) % 3
    contents = []
    for name in ("one.nii.gz", "two.nii.gz"):
        write_label(tmp_path / name, labels, like)
        contents.append((tmp_path / name).read_bytes())
    assert contents[0] == contents[1]
    assert contents[0][4:8] == b"\0\0\0\0"  # no time in the gzip header
    assert sorted(p.name for p in tmp_path.iterdir()) == ["image.nii.gz", "one.nii.gz", "two.nii.gz"]


def test_the_header_of_a_label_map(tmp_path, write_nifti):
    def edit(header):
        header["descrip"], header["db_name"], header["aux_file"] = b"Doe^Jane 1970-01-01", b"Doe", b"doe.txt"
        header["cal_max"], header["scl_slope"], header["xyzt_units"] = 900, 2, 10

    write_label(tmp_path / "label.nii.gz", np.ones((4, 5, 6), bool), read_image(write_nifti(edit=edit)))
    header = nibabel.load(tmp_path / "label.nii.gz").header
    raw = gzip.decompress((tmp_path / "label.nii.gz").read_bytes())
    assert header.get_intent()[0] == "label"
    assert header.get_data_dtype() == np.uint8
    assert int(header["xyzt_units"]) == 10
    assert header["descrip"].item() == b"se-med"
    assert float(header["cal_max"]) == 0
    assert b"Doe" not in raw
    assert np.frombuffer(raw, "<f4", 2, 112).tolist() == [1.0, 0.0]  # slope and intercept
    assert len(raw) == 352 + 120


def test_a_label_map_on_a_grid_that_was_not_read(tmp_path):
    affine = oriented_affine("LPS", (0.7, 0.8, 3.0), (10, 20, 30), 0.3)
    made = Volume(np.zeros((1, 3, 4, 5), np.float32), affine)
    write_label(tmp_path / "a.nii.gz", np.full((3, 4, 5), 300), made)
    back = read_label(tmp_path / "a.nii.gz")
    np.testing.assert_allclose(back.affine, affine, atol=1e-5)
    assert back.array.dtype == np.uint16
    shifted = back.affine.copy()
    shifted[0, 3] += 5
    write_label(tmp_path / "b.nii.gz", back.array, replace(back, affine=shifted))
    np.testing.assert_allclose(read_label(tmp_path / "b.nii.gz").affine, shifted, atol=1e-5)


def test_what_cannot_be_written(tmp_path, write_nifti):
    like = read_image(write_nifti())
    good = np.zeros((4, 5, 6), np.uint8)
    with pytest.raises(UsageError, match=r"a\.png: cannot write this kind of file; name it \.nii\.gz"):
        write_label(tmp_path / "a.png", good, like)
    with pytest.raises(ValueError, match="shape"):
        write_label(tmp_path / "a.nii", good[1:], like)
    with pytest.raises(ValueError, match="from 0, got int64 from -1"):
        write_label(tmp_path / "a.nii", good.astype(int) - 1, like)
    with pytest.raises(ValueError, match="whole numbers"):
        write_label(tmp_path / "a.nii", good.astype(float), like)
    with pytest.raises(RunError, match="cannot be written"):
        write_label(tmp_path / "none" / "a.nii", good, like)
    assert [p.name for p in tmp_path.iterdir()] == ["image.nii.gz"]


def test_nearly_whole_labels_are_rounded(write_nifti):
    labels = np.arange(120).reshape(4, 5, 6) % 4

    def edit(header):
        header["scl_slope"] = 1 / 85  # 255 / 85 = 3.0000001

    read = read_label(write_nifti(array=(labels * 85).astype(np.uint8), edit=edit))
    np.testing.assert_array_equal(read.array, labels)
    np.testing.assert_array_equal(read_label(write_nifti("b.nii", array=(labels * 0.9999).astype(np.float32))).array, labels)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (np.diag([1, 1, 1.00015, 1]), None),
        (np.diag([1, 1, 1.01, 1]), "spacing 0.8x0.9x2.5 against 0.8x0.9x2.525 mm"),
        (np.diag([-1, 1, 1, 1]), "axis directions"),
        (oriented_affine("RAS", (1, 1, 1), (0.0001, 0, 0), 0), None),
        (oriented_affine("RAS", (1, 1, 1), (5, 0, 0), 0), r"origin \(20, -30.5, 7\) against \(25, -30.5, 7\) mm"),
        (oriented_affine("RAS", (1, 1, 1), (0, 0, 0), 0.05), "axis directions"),
    ],
)
def test_grids_are_compared_to_a_thousandth_of_a_voxel(write_nifti, change, words):
    base = read_image(write_nifti())
    affine = change @ base.affine if change[2, 2] == 1 and words != "axis directions" else base.affine @ change
    other = read_geometry(write_nifti("b.nii", affine=affine))
    found = same_geometry(base, other)
    if words is None:
        assert found is None
    else:
        assert found is not None
        assert words.replace("\\", "") in found
        assert "\n" not in found


def test_shape_comes_before_affine(write_nifti):
    other = write_nifti("b.nii", np.zeros((5, 4, 6), np.int16), affine=np.eye(4))
    assert same_geometry(read_geometry(write_nifti()), read_geometry(other)) == "shape 4x5x6 against 5x4x6"


def test_header_only_reading_ignores_the_voxels(tmp_path, build):
    content = gzip.compress(build(np.random.default_rng(0).integers(0, 999, (30, 30, 30)).astype(np.int16)))
    (tmp_path / "a.nii.gz").write_bytes(content[: len(content) * 3 // 4])
    assert read_geometry(tmp_path / "a.nii.gz").shape == (30, 30, 30)
    with pytest.raises(ImageError, match="truncated"):
        read_image(tmp_path / "a.nii.gz")


@pytest.mark.skipif("SE_MED_DATA" not in os.environ, reason="needs real volumes: set SE_MED_DATA to the data folder")
def test_real_files_are_accepted_and_equal_to_nibabel():
    paths = sorted(Path(os.environ["SE_MED_DATA"]).glob("*/*/*.nii.gz"))[::9]
    assert paths
    for path in paths:
        reference = nibabel.load(path)
        volume = read_image(path)
        np.testing.assert_array_equal(volume.array[0], reference.get_fdata(dtype=np.float32))
        np.testing.assert_array_equal(volume.affine, reference.affine)
