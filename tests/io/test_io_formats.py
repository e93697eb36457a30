"""NRRD, MetaImage and NIfTI pairs: voxels and geometry as the formats' own libraries have them, and round trips."""

import nibabel
import numpy as np
import pytest
import text_volumes
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from test_io_nifti import geometries, label_maps

from se_med.errors import ImageError, UsageError
from se_med.io.images import label_suffix, read_geometry, read_image, read_images, read_label, stored_files, write_label
from se_med.io.volume import Volume, same_geometry

LPS = np.diag([-1.0, -1.0, 1.0, 1.0])
quick = settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
DTYPES = [np.uint8, np.int8, np.int16, np.uint16, np.int32, np.uint32, np.int64, np.uint64, np.float32, np.float64]


@pytest.fixture(scope="module")
def sitk():
    return pytest.importorskip("SimpleITK", reason="needs SimpleITK, the reference for NRRD and MetaImage")


def voxels_of(dtype, channels: int, seed: int = 0) -> np.ndarray:
    generator = np.random.default_rng(seed)
    shape = (3, 4, 5, channels) if channels > 1 else (3, 4, 5)
    return generator.integers(0, 100, shape).astype(dtype)


@quick
@given(
    geometry=geometries(),
    dtype=st.sampled_from(DTYPES),
    channels=st.sampled_from([1, 2, 3]),
    name=st.sampled_from(["a.nrrd", "a.nhdr", "a.mha", "a.mhd"]),
    packed=st.booleans(),
)
def test_images_are_read_as_itk_writes_them(tmp_path, sitk, geometry, dtype, channels, name, packed):
    world = LPS @ geometry[0]
    spacing = np.linalg.norm(world[:3, :3], axis=0)
    voxels = voxels_of(dtype, channels)
    image = sitk.GetImageFromArray(np.swapaxes(voxels, 0, 2), isVector=channels > 1)
    image.SetSpacing(spacing.tolist())
    image.SetDirection((world[:3, :3] / spacing).ravel().tolist())
    image.SetOrigin(world[:3, 3].tolist())
    sitk.WriteImage(image, str(tmp_path / name), useCompression=packed)

    read = read_image(tmp_path / name)
    np.testing.assert_array_equal(read.array, np.moveaxis(voxels, 3, 0) if channels > 1 else voxels[None])
    directions = np.array(image.GetDirection()).reshape(3, 3) * image.GetSpacing()
    np.testing.assert_array_equal(read.affine[:3, :3], LPS[:3, :3] @ directions)
    np.testing.assert_array_equal(read.affine[:3, 3], LPS[:3, :3] @ image.GetOrigin())
    grid = read_geometry(tmp_path / name)
    assert (grid.shape, grid.channels) == ((3, 4, 5), channels)
    np.testing.assert_array_equal(grid.affine, read.affine)


@quick
@given(geometry=geometries(), labels=label_maps(), name=st.sampled_from(["a.nrrd", "a.mha", "a.seg.nrrd"]))
def test_a_label_map_on_any_grid_comes_back(tmp_path, sitk, geometry, labels, name):
    labels = np.abs(labels.astype(np.int64))
    like = Volume(np.zeros((1, *labels.shape), np.float32), geometry[0])
    write_label(tmp_path / name, labels, like)
    read = read_label(tmp_path / name)
    np.testing.assert_array_equal(read.array, labels)
    assert same_geometry(like, read) is None
    if name != "a.mha":  # which stores directions and spacing apart
        np.testing.assert_array_equal(read.affine, like.affine)
    first = (tmp_path / name).read_bytes()
    write_label(tmp_path / name, labels, read)
    assert (tmp_path / name).read_bytes() == first

    other = sitk.ReadImage(str(tmp_path / name))
    np.testing.assert_array_equal(np.swapaxes(sitk.GetArrayFromImage(other), 0, 2), labels)
    directions = np.array(other.GetDirection()).reshape(3, 3) * other.GetSpacing()
    np.testing.assert_allclose(LPS[:3, :3] @ directions, like.affine[:3, :3], atol=1e-9)
    np.testing.assert_allclose(LPS[:3, :3] @ other.GetOrigin(), like.affine[:3, 3], rtol=1e-12, atol=1e-9)


@quick
@given(geometry=geometries(), name=st.sampled_from(["a.nrrd", "a.nhdr", "a.mha", "a.mhd", "a.hdr"]), seed=st.integers(0, 9))
def test_the_label_map_of_an_image_has_its_grid_bit_for_bit(tmp_path, sitk, geometry, name, seed):
    image = sitk.GetImageFromArray(np.zeros((5, 4, 3), np.float32))
    world = LPS @ geometry[0]
    spacing = np.linalg.norm(world[:3, :3], axis=0)
    image.SetSpacing(spacing.tolist())
    image.SetDirection((world[:3, :3] / spacing).ravel().tolist())
    image.SetOrigin(world[:3, 3].tolist())
    if name == "a.hdr":  # ITK writes single files only
        nibabel.save(nibabel.Nifti1Pair(np.zeros((3, 4, 5), np.float32), geometry[0]), tmp_path / name)
    else:
        sitk.WriteImage(image, str(tmp_path / name))
    native = read_image(tmp_path / name)
    labels = np.random.default_rng(seed).integers(0, 300, native.shape)
    written = tmp_path / f"b{label_suffix(name)}"
    write_label(written, labels, native)
    read = read_label(written)
    np.testing.assert_array_equal(read.array, labels)
    np.testing.assert_array_equal(read.affine, native.affine)
    if name.startswith("a.mh"):
        assert read.header == native.header


@pytest.mark.parametrize("kind", [nibabel.Nifti1Pair, nibabel.Nifti2Pair])
def test_nifti_pairs_are_read_as_nibabel_reads_them(tmp_path, kind):
    affine = np.array([[0, -0.8, 0, 3], [0.9, 0, 0, -4], [0, 0, 2.5, 5], [0, 0, 0, 1.0]])
    voxels = np.random.default_rng(0).normal(size=(3, 4, 5)).astype(np.float32)
    nibabel.save(kind(voxels, affine), tmp_path / "a.hdr")
    read = read_image(tmp_path / "a.hdr")
    np.testing.assert_array_equal(read.array[0], voxels)
    np.testing.assert_array_equal(read.affine, nibabel.load(tmp_path / "a.img").affine)
    assert stored_files(tmp_path / "a.hdr") == (tmp_path / "a.hdr", tmp_path / "a.img")
    assert read_geometry(tmp_path / "a.hdr").shape == (3, 4, 5)


def test_a_pair_that_is_no_pair(tmp_path, write_nifti):
    with pytest.raises(ImageError, match=r"a\.img: holds the voxels of a pair; name its header a\.hdr"):
        read_image(tmp_path / "a.img")
    path = write_nifti("whole.nii")
    path.rename(tmp_path / "whole.hdr")
    with pytest.raises(ImageError, match=r"whole\.hdr: holds header and voxels, not a header alone; name it \.nii"):
        read_image(tmp_path / "whole.hdr")
    nibabel.save(nibabel.Nifti1Pair(np.zeros((3, 4, 5), np.int16), np.eye(4)), tmp_path / "b.hdr")
    (tmp_path / "b.img").write_bytes((tmp_path / "b.img").read_bytes()[:-1])
    for read in (read_image, read_geometry):
        with pytest.raises(ImageError, match=r"b\.img: truncated: the header announces 120 bytes"):
            read(tmp_path / "b.hdr")
    (tmp_path / "b.img").unlink()
    with pytest.raises(ImageError, match=r"b\.img: no such file"):
        read_image(tmp_path / "b.hdr")


@pytest.mark.parametrize("name", ["a.nrrd", "a.mha"])
@pytest.mark.parametrize("packed", [False, True])
def test_built_files_are_read(tmp_path, name, packed):
    read = read_image(text_volumes.write(tmp_path / name, packed=packed))
    np.testing.assert_array_equal(read.array[0], text_volumes.VOXELS)
    np.testing.assert_array_equal(read.affine, text_volumes.AFFINE)
    assert not np.signbit(read.affine[read.affine == 0]).any()
    assert stored_files(tmp_path / name) == (tmp_path / name,)


@pytest.mark.parametrize(
    ("name", "changes", "voxels"),
    [
        ("a.nrrd", {"endian": "big"}, text_volumes.VOXELS.astype(">i2")),
        ("a.mha", {"BinaryDataByteOrderMSB": "True"}, text_volumes.VOXELS.astype(">i2")),
        ("a.nrrd", {"space": "RAS", "space_directions": "(-0.8,0,0) (0,-0.9,0) (0,0,2.5)", "space_origin": "(20,-30.5,7)"}, None),
        ("a.nrrd", {"space_units": '"cm" "cm" "cm"', "space_origin": "(-2,3.05,0.7)",
                    "space_directions": "(.08,0,0) (0,.09,0) (0,0,.25)"}, None),
        ("a.nrrd", {"sizes": "4 5 6 1", "dimension": "4", "kinds": "domain domain domain list",
                    "space_directions": "(0.8,0,0) (0,0.9,0) (0,0,2.5) none"}, None),
        ("a.mha", {"TransformMatrix": None, "Orientation": "1 0 0 0 1 0 0 0 1", "Offset": None, "Position": "-20 30.5 7"}, None),
    ],
    ids=["big nrrd", "big mha", "RAS", "cm", "one channel last", "other names"],
)  # fmt: skip
def test_other_ways_to_say_the_same(tmp_path, name, changes, voxels):
    read = read_image(text_volumes.write(tmp_path / name, text_volumes.VOXELS if voxels is None else voxels, **changes))
    np.testing.assert_array_equal(read.array[0], text_volumes.VOXELS)
    np.testing.assert_allclose(read.affine, text_volumes.AFFINE, rtol=1e-15)


def test_channels_may_come_first_or_last(tmp_path):
    voxels = np.arange(2 * 4 * 5 * 6, dtype="<i2").reshape(2, 4, 5, 6)
    directions = "(0.8,0,0) (0,0.9,0) (0,0,2.5)"
    first = {"sizes": "2 4 5 6", "space_directions": f"none {directions}", "kinds": "vector domain domain domain"}
    last = {"sizes": "4 5 6 2", "space_directions": f"{directions} none", "kinds": "domain domain domain list"}
    paths = [
        text_volumes.write(tmp_path / "first.nrrd", voxels, dimension="4", **first),
        text_volumes.write(tmp_path / "last.nrrd", np.moveaxis(voxels, 0, 3), dimension="4", **last),
        text_volumes.write(tmp_path / "a.mha", voxels, ElementNumberOfChannels="2"),
    ]
    for path in paths:
        np.testing.assert_array_equal(read_image(path).array, voxels)
        assert read_geometry(path).channels == 2
        with pytest.raises(ImageError, match="4D label map of shape 4x5x6x2"):
            read_label(path)


def test_spacings_without_directions_are_read_as_itk_reads_them(tmp_path):
    changes = {"space": None, "space_directions": None, "space_origin": None, "spacings": "0.8 0.9 2.5"}
    read = read_image(text_volumes.write(tmp_path / "a.nrrd", **changes))
    np.testing.assert_array_equal(read.affine, np.diag([-0.8, -0.9, 2.5, 1]))
    four = {"dimension": "4", "sizes": "1 4 5 6", "kinds": "list space space space", "spacings": "nan 0.8 0.9 2.5"}
    np.testing.assert_array_equal(read_image(text_volumes.write(tmp_path / "b.nrrd", **(changes | four))).affine, read.affine)


@pytest.mark.parametrize(
    ("header", "data", "changes"),
    [
        ("a.nhdr", "a.raw", {"data_file": "a.raw", "byte_skip": "3"}),
        ("a.mhd", "a.raw", {"ElementDataFile": "a.raw", "HeaderSize": "3"}),
    ],
)
def test_the_digest_covers_a_data_file(tmp_path, header, data, changes):
    text_volumes.write(tmp_path / header, b"", **changes)
    voxels = text_volumes.VOXELS.tobytes(order="F")
    (tmp_path / data).write_bytes(b"xyz" + voxels)
    first = read_image(tmp_path / header)
    np.testing.assert_array_equal(first.array[0], text_volumes.VOXELS)
    assert stored_files(tmp_path / header) == (tmp_path / header, tmp_path / data)
    (tmp_path / data).write_bytes(b"xyz" + voxels[:-1] + b"\1")
    second = read_image(tmp_path / header)
    text_volumes.write(tmp_path / header, b"", **(changes | {"comment": "none"}))
    assert len({first.digest, second.digest, read_image(tmp_path / header).digest}) == 3
    (tmp_path / data).write_bytes(b"xyz" + voxels[:-1])
    with pytest.raises(ImageError, match=rf"{data}: truncated"):
        read_image(tmp_path / header)


def test_float_labels_are_accepted_where_they_are_whole(tmp_path):
    labels = text_volumes.VOXELS % 4
    for name, kind in (("a.nrrd", {"type": "double"}), ("a.mha", {"ElementType": "MET_DOUBLE"})):
        np.testing.assert_array_equal(read_label(text_volumes.write(tmp_path / name, labels.astype("<f8"), **kind)).array, labels)
        with pytest.raises(ImageError, match=rf"{name}: \d+ voxels with fractional labels such as 0.5"):
            read_label(text_volumes.write(tmp_path / name, labels.astype("<f8") / 2, **kind))


def test_formats_are_joined_and_written_by_their_names(tmp_path, write_nifti):
    paths = [text_volumes.write(tmp_path / "a_0000.nrrd"), text_volumes.write(tmp_path / "a_0001.mha")]
    joined = read_images(paths)
    assert joined.array.shape == (2, 4, 5, 6)
    with pytest.raises(UsageError, match=r"c\.mhd: cannot write this kind of file; name it \.nii\.gz"):
        write_label(tmp_path / "c.mhd", np.zeros((4, 5, 6), np.uint8), joined)
    for name in ("c.nii.gz", "c.mha", "c.nrrd"):
        write_label(tmp_path / name, np.ones((4, 5, 6), np.uint8), joined)
        assert same_geometry(read_label(tmp_path / name), joined) is None
    from_nifti = read_image(write_nifti())
    for name in ("d.mha", "d.nrrd"):
        write_label(tmp_path / name, np.ones((4, 5, 6), np.uint8), from_nifti)
        np.testing.assert_allclose(read_label(tmp_path / name).affine, from_nifti.affine, rtol=1e-15, atol=1e-15)
    assert not (tmp_path / "c.mhd").exists()
