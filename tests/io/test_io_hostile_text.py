"""NRRD and MetaImage files that must be refused, each with the words its message must hold."""

import os
import resource

import numpy as np
import pytest
import text_volumes
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from se_med.errors import ImageError
from se_med.io.images import read_geometry, read_image, read_label

NRRD = {  # changes of the header, expected words
    "2D": ({"dimension": "2", "sizes": "4 30"}, "2D image of shape 4x30; store it as a volume, one slice as 4x30x1"),
    "5D": ({"dimension": "5", "sizes": "4 5 6 1 1"}, "5D image"),
    "no dimension": ({"dimension": None}, "no field 'dimension'"),
    "dimension text": ({"dimension": "three"}, "dimension is 'three', must be 1 whole numbers"),
    "too few sizes": ({"sizes": "4 5"}, "sizes is '4 5', must be 3 whole numbers"),
    "size 0": ({"sizes": "4 0 6"}, "shape 4x0x6 has an axis without voxels"),
    "size below 0": ({"sizes": "4 -5 6"}, "shape 4x-5x6 has an axis without voxels"),
    "fractional size": ({"sizes": "4 5.0 6"}, "sizes is '4 5.0 6'"),
    "terabytes": ({"sizes": "40000 50000 60000"}, "truncated: the header announces 240000000"),
    "sizes beyond 64 bits": ({"sizes": "999999999999999999 999999999999999999 9"}, "truncated: the header announces"),
    "shorter than it is": ({"sizes": "1 1 1"}, "longer than the"),
    "block": ({"type": "block"}, "voxel type 'block' cannot be read"),
    "no endian": ({"endian": None}, "no field 'endian'"),
    "middle endian": ({"endian": "middle"}, "endian is 'middle'"),
    "bzip2": ({"encoding": "bzip2"}, "encoding 'bzip2' is not read; save it raw or with gzip"),
    "text": ({"encoding": "ascii"}, "encoding 'ascii' is not read"),
    "gzip that is none": ({"encoding": "gzip"}, "in the compressed stream"),
    "no space": ({"space": None}, "space is None, which gives no anatomical axes"),
    "scanner": ({"space": "scanner-xyz"}, "space is 'scanner-xyz', which gives no anatomical axes"),
    "four-dimensional space": ({"space": None, "space_dimension": "4"}, "gives no anatomical axes"),
    "two directions": ({"space_directions": "(1,0,0) (0,1,0)"}, "must be three vectors"),
    "none of three": ({"space_directions": "(1,0,0) (0,1,0) none"}, "must be three vectors"),
    "words for directions": ({"space_directions": "(1,0,0) (0,1,0) (0,0,x)"}, "space directions is '0 0 x'"),
    "short direction": ({"space_directions": "(1,0,0) (0,1,0) (0,1)"}, "must be 3 numbers"),
    "nan direction": ({"space_directions": "(1,0,0) (0,nan,0) (0,0,1)"}, "space directions is '0 nan 0'"),
    "zero direction": ({"space_directions": "(1,0,0) (0,0,0) (0,0,1)"}, "spacing 1x0x1 mm is zero or too small to be true"),
    "vast direction": ({"space_directions": "(1,0,0) (0,5000,0) (0,0,1)"}, "spacing 1x5000x1 mm is too large to be true"),
    "parallel": ({"space_directions": "(1,0,0) (1,0,0) (0,0,1)"}, "affine is singular"),
    "far origin": ({"space_origin": "(1e12,0,0)"}, "too large"),
    "no geometry": ({"space": None, "space_directions": None}, "neither space directions nor spacings"),
    "spacing 0": ({"space": None, "space_directions": None, "spacings": "1 0 1"}, "must be above 0"),
    "units": ({"space_units": '"parsec" "parsec" "parsec"'}, "must be one unit of length such as mm"),
    "mixed units": ({"space_units": '"mm" "mm" "cm"'}, "must be one unit of length such as mm"),
    "too few kinds": ({"kinds": "domain domain"}, "kinds has 2 entries for 3 axes"),
    "colour": (
        {"dimension": "4", "sizes": "3 4 5 2", "space_directions": "none (1,0,0) (0,1,0) (0,0,1)",
         "kinds": "RGB-color domain domain domain"},
        "axis 0 is of kind 'RGB-color'",
    ),
    "complex": (
        {"dimension": "4", "sizes": "2 4 5 3", "space_directions": "none (1,0,0) (0,1,0) (0,0,1)",
         "kinds": "complex domain domain domain"},
        "axis 0 is of kind 'complex'",
    ),
    "time": ({"kinds": "domain domain time"}, "axis 2 is of kind 'time'"),
    "4D without directions": (
        {"dimension": "4", "sizes": "1 4 5 6", "space": None, "space_directions": None, "spacings": "1 1 1 1", "kinds": None},
        "do not say which axis holds the channels",
    ),
    "same field twice": ({"Sizes": "4 5 6"}, "the field 'sizes' occurs twice"),
    "elsewhere": ({"data_file": "/etc/passwd"}, "a data file must lie beside the header"),
    "above": ({"data_file": "../a.raw"}, "a data file must lie beside the header"),
    "other system's path": ({"data_file": "..\\a.raw"}, "a data file must lie beside the header"),
    "several files": ({"data_file": "slice%03d.raw 1 9 1"}, "in several files"),
    "list": ({"data_file": "LIST"}, "in several files"),
    "missing file": ({"data_file": "none.raw"}, "none.raw: no such file"),
    "line skip": ({"line_skip": "2"}, "line skip and byte skip are read only"),
    "byte skip": ({"byte_skip": "2"}, "line skip and byte skip are read only"),
    "from the end": ({"data_file": "a.raw", "byte_skip": "-1"}, "line skip and byte skip are read only"),
}  # fmt: skip
META = {
    "2D": ({"NDims": "2", "DimSize": "4 30"}, "2D image of shape 4x30; store it as a volume, one slice as 4x30x1"),
    "4D": ({"NDims": "4", "DimSize": "4 5 6 1"}, "4D image of shape 4x5x6x1"),
    "no NDims": ({"NDims": None}, "no field 'NDims'"),
    "no size": ({"DimSize": None}, "no field 'DimSize'"),
    "too few sizes": ({"DimSize": "4 5"}, "DimSize is '4 5', must be 3 whole numbers"),
    "size 0": ({"DimSize": "4 0 6"}, "shape 4x0x6 has an axis without voxels"),
    "terabytes": ({"DimSize": "40000 50000 60000"}, "truncated: the header announces 240000000"),
    "channels 0": ({"ElementNumberOfChannels": "0"}, "ElementNumberOfChannels is 0"),
    "terabytes of channels": ({"ElementNumberOfChannels": "999999999"}, "truncated: the header announces"),
    "shorter than it is": ({"DimSize": "1 1 1"}, "longer than the"),
    "array type": ({"ElementType": "MET_FLOAT_ARRAY"}, "voxel type 'MET_FLOAT_ARRAY' cannot be read"),
    "another object": ({"ObjectType": "Tube"}, "ObjectType is 'Tube', not Image"),
    "text": ({"BinaryData": "False"}, "stored as text"),
    "perhaps": ({"CompressedData": "maybe"}, "CompressedData is 'maybe', must be True or False"),
    "zlib that is none": ({"CompressedData": "True"}, "damaged data in the compressed stream"),
    "no spacing": ({"ElementSpacing": None}, "no ElementSpacing"),
    "spacing 0": ({"ElementSpacing": "1 0 1"}, "spacing 1x0x1 mm must be above 0"),
    "spacing below 0": ({"ElementSpacing": "1 -1 1"}, "must be above 0"),
    "spacing nan": ({"ElementSpacing": "1 nan 1"}, "ElementSpacing is '1 nan 1', must be 3 numbers"),
    "vast spacing": ({"ElementSpacing": "1 1 1e5"}, "too large to be true"),
    "far origin": ({"Offset": "1e12 0 0"}, "too large"),
    "two origins": ({"Position": "0 0 0"}, "the fields 'Offset' and 'Position' mean the same"),
    "parallel": ({"TransformMatrix": "1 0 0 1 0 0 0 0 1"}, "affine is singular"),
    "scaled directions": ({"TransformMatrix": "2 0 0 0 2 0 0 0 2"}, "must be directions of length 1"),
    "short matrix": ({"TransformMatrix": "1 0 0 1"}, "must be 9 numbers"),
    "scaled": ({"ElementToIntensityFunctionSlope": "2"}, "intensities are scaled by 2 and 0"),
    "elsewhere": ({"ElementDataFile": "/etc/passwd"}, "a data file must lie beside the header"),
    "above": ({"ElementDataFile": "../a.raw"}, "a data file must lie beside the header"),
    "several files": ({"ElementDataFile": "slice%03d.raw 1 9 1"}, "in several files"),
    "list": ({"ElementDataFile": "LIST"}, "in several files"),
    "missing file": ({"ElementDataFile": "none.raw"}, "none.raw: no such file"),
    "itself": ({"ElementDataFile": "a.mha"}, "bytes, longer than the|truncated|longer than"),
    "from the end": ({"ElementDataFile": "a.raw", "HeaderSize": "-1"}, "HeaderSize is -1"),
    "skip in one file": ({"HeaderSize": "5"}, "HeaderSize is 5"),
    "no data file": ({"ElementDataFile": None}, "no `Field = value`|no field 'ElementDataFile'"),
}
CASES = [*(("a.nrrd", *case) for case in NRRD.values()), *(("a.mha", *case) for case in META.values())]
quick = settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


@pytest.mark.parametrize(
    ("name", "changes", "words"), CASES, ids=[*(f"nrrd {key}" for key in NRRD), *(f"mha {key}" for key in META)]
)
def test_headers_that_are_refused(tmp_path, name, changes, words):
    big = np.zeros((40, 50, 60), "<i2") if "longer" in words else text_volumes.VOXELS
    path = text_volumes.write(tmp_path / name, big, **changes)
    with pytest.raises(ImageError, match=words) as caught:
        read_image(path)
    assert "\n" not in str(caught.value)
    assert str(caught.value).startswith(str(tmp_path))


@pytest.mark.parametrize("name", ["a.nrrd", "a.mha", "a.nhdr", "a.mhd"])
@pytest.mark.parametrize("content", [b"\0" * 50, b"NRRD0009\n\n", b"x = ", b"\xff\xfe" * 9, b"NRRD0004\nnothing\n\n", b"\n" * 5])
def test_files_of_another_kind_are_refused(tmp_path, name, content):
    (tmp_path / name).write_bytes(content)
    for read in (read_image, read_label, read_geometry):
        with pytest.raises(ImageError) as caught:
            read(tmp_path / name)
        assert "\n" not in str(caught.value)


def test_a_header_without_end_is_refused(tmp_path):
    (tmp_path / "a.nrrd").write_bytes(b"NRRD0004\n" + b"# more\n" * 200_000)
    with pytest.raises(ImageError, match="the header has no end within 1048576 bytes"):
        read_image(tmp_path / "a.nrrd")


@pytest.mark.parametrize("name", ["a.nrrd", "a.mha"])
@pytest.mark.parametrize("packed", [False, True])
def test_truncation_at_any_byte_is_refused(tmp_path, name, packed):
    path = text_volumes.write(tmp_path / name, packed=packed)
    whole = path.read_bytes()
    for length in range(len(whole)):
        path.write_bytes(whole[:length])
        with pytest.raises(ImageError):
            read_image(path)
    path.write_bytes(whole + b"\0" * 100)
    assert read_image(path).array.shape == (1, 4, 5, 6)
    path.write_bytes(whole + b"x" * 100)
    with pytest.raises(ImageError, match=r"longer than|damaged data"):
        read_image(path)


@pytest.mark.parametrize("name", ["a.nrrd", "a.mha"])
def test_a_flipped_bit_in_packed_voxels_is_refused_or_harmless(tmp_path, name):
    path = text_volumes.write(tmp_path / name, packed=True)
    whole, expected = path.read_bytes(), read_image(path).array
    start = len(whole) - 40
    for position in range(start, len(whole)):
        changed = bytearray(whole)
        changed[position] ^= 1 << position % 8
        path.write_bytes(bytes(changed))
        try:
            found = read_image(path).array
        except ImageError:
            continue
        np.testing.assert_array_equal(found, expected)


@quick
@given(st.data())
def test_any_mutation_is_refused_or_read(tmp_path, data):
    name = data.draw(st.sampled_from(["a.nrrd", "a.mha"]))
    whole = text_volumes.content(name[2:], packed=data.draw(st.booleans()))
    changed = bytearray(whole)
    for _ in range(data.draw(st.integers(1, 4))):
        at = data.draw(st.integers(0, min(len(changed), 400) - 1))
        how = data.draw(st.sampled_from(["set", "insert", "delete"]))
        byte = data.draw(st.sampled_from(b"0123456789-+.,()eE:= \n\tnaLx\xff\0"))
        changed[at : at + (how != "insert")] = b"" if how == "delete" else bytes([byte])
    (tmp_path / name).write_bytes(bytes(changed))
    for read in (read_image, read_label, read_geometry):
        message = ""
        try:
            found = read(tmp_path / name)
        except ImageError as error:
            message = str(error)
        else:
            assert np.isfinite(found.affine).all()
        assert "\n" not in message


def test_refusing_a_bomb_takes_no_memory(tmp_path):
    zeros = b"\0" * (96 << 20)
    bombs = {
        "a.nrrd": text_volumes.content("nrrd", packed=True, sizes="30000 30000 30000"),
        "b.nrrd": text_volumes.content("nrrd", zeros, packed=True),
        "a.mha": text_volumes.content("mha", packed=True, DimSize="30000 30000 30000"),
        "b.mha": text_volumes.content("mha", zeros, packed=True),
    }
    del zeros
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    for name, content in bombs.items():
        (tmp_path / name).write_bytes(content)
        with pytest.raises(ImageError):
            read_image(tmp_path / name)
    assert (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024 < 32  # MiB


def test_a_pipe_beside_a_header_is_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / "a.raw")
    with pytest.raises(ImageError, match=r"a\.raw: is a pipe or device"):
        read_image(text_volumes.write(tmp_path / "a.mhd", b"", ElementDataFile="a.raw"))


@pytest.mark.parametrize(("name", "kind"), [("a.nrrd", {"type": "float"}), ("a.mha", {"ElementType": "MET_FLOAT"})])
@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_voxels_that_are_not_finite_are_refused(tmp_path, name, kind, value):
    voxels = np.ones((4, 5, 6), "<f4")
    voxels[1, 2, 3] = value
    path = text_volumes.write(tmp_path / name, voxels, **kind)
    for read in (read_image, read_label):
        with pytest.raises(ImageError, match=r"1 infinite, of 120|1 voxels are NaN"):
            read(path)
