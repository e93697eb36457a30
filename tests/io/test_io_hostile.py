"""Files that must be refused, each with the words its message must hold, and awkward ones that must be read."""

import errno
import gzip
import math
import os
import resource
import struct
from pathlib import Path

import nibabel
import numpy as np
import pytest

from se_med.errors import ImageError
from se_med.io.nifti import read_geometry, read_image, read_label


def fields(**values):
    def edit(header):
        for name, value in values.items():
            header[name] = value

    return edit


def dims(*sizes):
    return fields(dim=[len(sizes), *sizes, *[1] * (7 - len(sizes))])


def pixdim(*sizes):
    """Spacing without sform and qform."""
    return fields(pixdim=[1, *sizes, 1, 1, 1, 1], sform_code=0, qform_code=0)


def srow(matrix):
    return fields(srow_x=matrix[0], srow_y=matrix[1], srow_z=matrix[2])


def voxel(value, dtype=np.float32):
    array = np.ones((4, 5, 6), dtype)
    array[1, 2, 3] = value
    return array


def flipped(data, position, bit=0):
    changed = bytearray(data)
    changed[position] ^= 1 << bit
    return bytes(changed)


GZ, NII = "a.nii.gz", "a.nii"
PACK = gzip.compress

HEADERS = {  # what a header says: name -> (edit or options of the builder, expected words)
    "0 dimensions": ({"edit": fields(dim=[0] * 8)}, "number of dimensions is 0"),
    "9 dimensions": ({"edit": fields(dim=[9, 4, 5, 6, 1, 1, 1, 1])}, "number of dimensions is 9"),
    "2D": ({"array": np.ones((4, 5), np.uint8)}, r"2D image of shape 4x5; store it as a volume, one slice as 4x5x1"),
    "1D": ({"array": np.ones(4, np.uint8)}, "1D image of shape 4;"),
    "5D": ({"array": np.ones((4, 5, 6, 2, 3), np.uint8)}, "5D image of shape 4x5x6x2x3"),
    "vector image": ({"array": np.ones((4, 5, 6, 1, 3), np.uint8)}, "5D image of shape 4x5x6x1x3"),
    "zero axis": ({"edit": dims(4, 0, 6)}, "shape 4x0x6 has an axis without voxels"),
    "negative axis": ({"edit": dims(4, -5, 6)}, "shape 4x-5x6 has an axis without voxels"),
    "54 TB": ({"edit": dims(30000, 30000, 30000)}, "truncated: the header announces 54000000000352 bytes"),
    "one row short": ({"edit": dims(4, 5, 7)}, "truncated: "),
    "too long": ({"tail": b"\0" * 5000}, "longer than the 592 (bytes )?its header announces"),
    "garbage behind": ({"tail": b"x"}, "longer than the 592 bytes its header announces"),
    "rgb": ({"edit": fields(datatype=128)}, "RGB colour voxels"),
    "rgba": ({"edit": fields(datatype=2304)}, "RGB colour voxels"),
    "complex64": ({"array": np.ones((4, 5, 6), np.complex64)}, r"complex voxels \(complex64\)"),
    "complex128": ({"edit": fields(datatype=1792)}, r"complex voxels"),
    "type unknown": ({"edit": fields(datatype=777)}, "voxel type code 777 is unknown"),
    "type none": ({"edit": fields(datatype=0)}, "voxel type code 0 cannot be read"),
    "type bits": ({"edit": fields(datatype=1)}, "voxel type code 1 cannot be read"),
    "nan": ({"array": voxel(np.nan)}, "1 voxels are NaN and 0 infinite, of 120"),
    "inf": ({"array": voxel(-np.inf)}, "0 voxels are NaN and 1 infinite, of 120"),
    "beyond float32": ({"array": voxel(1e300, np.float64)}, "0 voxels are NaN and 1 infinite"),
    "scaled to inf": ({"edit": fields(scl_slope=1e38)}, "infinite, of 120"),
    "intercept nan": ({"edit": fields(scl_slope=2, scl_inter=np.nan)}, "scl_inter is nan"),
    "offset in header": ({"edit": fields(vox_offset=100)}, "vox_offset is 100, must be a whole number from 352"),
    "offset negative": ({"edit": fields(vox_offset=-352)}, "vox_offset is -352"),
    "offset fraction": ({"edit": fields(vox_offset=352.5)}, "vox_offset is 352.5"),
    "offset nan": ({"edit": fields(vox_offset=np.nan)}, "vox_offset is nan"),
    "offset far": ({"edit": fields(vox_offset=1e30)}, "truncated: the header announces"),
    "pair": ({"edit": fields(magic=b"ni1")}, r"header of a \.hdr/\.img pair; name it \.hdr"),
    "magic": ({"edit": fields(magic=b"n+7")}, r"wrong magic b'n\+7"),
    "analyze": ({"edit": fields(magic=b"")}, "wrong magic"),
    "spacing 0": ({"edit": pixdim(1, 0, 1)}, "spacing 1x0x1 mm is zero or too small"),
    "spacing tiny": ({"edit": pixdim(1, 1, 1e-4)}, "spacing 1x1x0.0001 mm is zero or too small"),
    "spacing huge": ({"edit": pixdim(1, 5000, 1)}, "spacing 1x5000x1 mm is too large"),
    "spacing nan": ({"edit": pixdim(1, np.nan, 1)}, "affine has values that are not numbers"),
    "qform spacing 0": ({"edit": fields(sform_code=0, pixdim=[1, 0, 1, 1, 0, 0, 0, 0])}, "spacing 0x1x1 mm is zero"),
    "quaternion": ({"edit": fields(sform_code=0, quatern_b=2)}, r"qform quaternion \[2.0, .* is no rotation"),
    "sform nan": ({"edit": fields(srow_x=[1, 0, 0, np.nan])}, "affine has values that are not numbers"),
    "sform inf": ({"edit": fields(srow_y=[0, np.inf, 0, 0])}, "affine has values that are not numbers"),
    "sform huge": ({"edit": fields(srow_y=[0, 1e12, 0, 0])}, "not numbers or too large"),
    "sform zero": ({"edit": srow(np.zeros((3, 4)))}, "spacing 0x0x0 mm is zero"),
    "sform flat": ({"edit": srow(np.array([[1, 1, 0, 0], [1, 1, 0, 0], [0, 0, 1, 0]]))}, "affine is singular"),
    "micrometres": ({"edit": fields(xyzt_units=3)}, "spacing 0.0008x0.0009x0.0025 mm is zero or too small"),
}


@pytest.mark.parametrize(("options", "words"), HEADERS.values(), ids=HEADERS.keys())
@pytest.mark.parametrize("name", [GZ, NII])
def test_headers_that_are_refused(write_nifti, options, words, name):
    path = write_nifti(name, **options)
    with pytest.raises(ImageError, match=words) as caught:
        read_image(path)
    assert caught.value.message.startswith(str(path) + ": ")
    assert "\n" not in caught.value.message
    assert caught.value.exit_code == 3


STREAMS = {  # what stands in a file: name -> (file name, bytes made from a good plain NIfTI, expected words)
    "empty": (NII, lambda good: b"", "the file is empty"),
    "empty gz": (GZ, lambda good: b"", "the file is empty"),
    "empty stream": (GZ, lambda good: PACK(b""), "truncated: 0 bytes are too few"),
    "text": (NII, lambda good: b"hello " * 100, "not a NIfTI file: it starts with b'hello he'"),
    "text in gz": (GZ, lambda good: PACK(b"hello " * 100), "not a NIfTI file"),
    "short text": (NII, lambda good: b"hello", "truncated: 5 bytes are too few for a NIfTI header"),
    "plain named gz": (GZ, lambda good: good, r"not gzip: .* name it \.nii"),
    "gz named plain": (NII, PACK, r"is gzip compressed; name it \.nii\.gz"),
    "half a header": (NII, lambda good: good[:200], "truncated: 200 bytes end inside the header"),
    "header alone": (NII, lambda good: good[:352], "truncated: the header announces 592 bytes"),
    "cut": (NII, lambda good: good[:-1], "truncated: the header announces 592 bytes"),
    "cut before gzip": (GZ, lambda good: PACK(good[:-1]), "truncated: 591 bytes, but the header announces 592"),
    "gz cut in voxels": (GZ, lambda good: PACK(good)[:-60], "truncated: the compressed stream ends early"),
    "gz cut in trailer": (GZ, lambda good: PACK(good)[:-4], "truncated: the compressed stream ends early"),
    "gz without trailer": (GZ, lambda good: PACK(good)[:-8], "truncated: the compressed stream ends early"),
    "gz head alone": (GZ, lambda good: PACK(good)[:10], "truncated: the compressed stream ends early"),
    "gz checksum": (GZ, lambda good: flipped(PACK(good), -7), "wrong checksum in the compressed stream"),
    "gz length": (GZ, lambda good: flipped(PACK(good), -1), "wrong checksum in the compressed stream"),
    "gz method": (GZ, lambda good: flipped(PACK(good), 2), "damaged data in the compressed stream"),
    "gz block": (GZ, lambda good: PACK(good)[:10] + b"\xff" * 90, "damaged data in the compressed stream"),
    "gz then garbage": (GZ, lambda good: PACK(good) + b"garbage behind the stream", "damaged data in the compressed stream"),
    "bomb": (GZ, lambda good: PACK(good + b"\0" * (64 << 20)), "longer than the 592 bytes its header announces"),
    "second member": (GZ, lambda good: PACK(good) * 2, "longer than the 592 bytes its header announces"),
    "pickle": (GZ, lambda good: PACK(b"\x80\x04\x95" + b"\0" * 600), "not a NIfTI file"),
    "nifti-2 cut": (NII, lambda good: struct.pack("<i", 540) + good[4:400], "truncated: 400 bytes end inside the header of 540"),
}


@pytest.mark.parametrize(("name", "change", "words"), STREAMS.values(), ids=STREAMS.keys())
def test_files_that_are_refused(tmp_path, build, name, change, words):
    path = tmp_path / name
    path.write_bytes(change(build()))
    with pytest.raises(ImageError, match=words) as caught:
        read_image(path)
    assert caught.value.message.startswith(str(path) + ": ")
    assert "\n" not in caught.value.message


LABELS = {
    "4D": (np.ones((4, 5, 6, 2), np.uint8), "4D label map of shape 4x5x6x2"),
    "negative": (voxel(-1, np.int16), "label value -1 is negative"),
    "negative float": (voxel(-3), "label value -3 is negative"),
    "fraction": (voxel(0.5), "1 voxels with fractional labels such as 0.5"),
    "soft": (np.linspace(0, 1, 120, dtype=np.float32).reshape(4, 5, 6), "118 voxels with fractional labels"),
    "nan": (voxel(np.nan), "1 voxels are NaN and 0 infinite"),
    "inf": (voxel(np.inf), "0 voxels are NaN and 1 infinite"),
    "beyond integers": (voxel(1e30), "label value 1e.30 is too large"),
}


@pytest.mark.parametrize(("array", "words"), LABELS.values(), ids=LABELS.keys())
def test_label_maps_that_are_refused(write_nifti, array, words):
    path = write_nifti(array=array)
    with pytest.raises(ImageError, match=words) as caught:
        read_label(path)
    assert caught.value.message.startswith(str(path) + ": ")


@pytest.mark.parametrize("read", [read_image, read_label, read_geometry])
def test_paths_that_are_no_file(tmp_path, read):
    (tmp_path / "folder.nii").mkdir()
    os.mkfifo(tmp_path / "pipe.nii.gz")
    (tmp_path / "loop.nii").symlink_to(tmp_path / "loop.nii")
    (tmp_path / "gone.nii").symlink_to(tmp_path / "nowhere.nii")
    cases = {
        tmp_path: "is a folder",
        tmp_path / "folder.nii": "is a folder, not an image file",
        tmp_path / "pipe.nii.gz": "is a pipe or device",
        tmp_path / "loop.nii": "cannot be read: Too many levels of symbolic links",
        tmp_path / "gone.nii": "no such file",
        tmp_path / "none.nii.gz": "no such file; check the path",
        tmp_path / "a.mha": r"not a \.nii\.gz or \.nii file; convert it",
        tmp_path / "a.img": r"not a \.nii\.gz or \.nii file; convert it",
        "a\0b.nii": "not a path",
    }
    for path, words in cases.items():
        with pytest.raises(ImageError, match=words):
            read(path)


def test_a_file_without_read_permission(write_nifti, monkeypatch):
    path = write_nifti()

    def refuse(self, *args, **options):  # the superuser, who often runs the tests in a container, may read everything
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(self))

    monkeypatch.setattr(Path, "open", refuse)
    with pytest.raises(ImageError, match=r"image\.nii\.gz: cannot be read: Permission denied; check the path and its rights"):
        read_image(path)


def test_refusing_a_bomb_takes_no_memory(tmp_path, build):
    bombs = {
        "stream": PACK(build() + b"\0" * (128 << 20), 1),
        "header": PACK(build(edit=dims(30000, 30000, 30000))),
        "offset": PACK(build(edit=fields(vox_offset=2.0**40))),
    }
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    for name, content in bombs.items():
        path = tmp_path / f"{name}.nii.gz"
        path.write_bytes(content)
        with pytest.raises(ImageError):
            read_image(path)
    grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024
    assert grown < 64  # MiB


def test_an_image_larger_than_the_machine_is_refused_before_it_is_unpacked(write_nifti, monkeypatch):
    path = write_nifti()
    monkeypatch.setattr(os, "sysconf", lambda name: 16)
    with pytest.raises(ImageError, match=r"of memory, the machine has 0\.0; crop the image"):
        read_image(path)


AWKWARD = {  # accepted, and with which shape
    "one slice": ({"array": np.ones((4, 5, 1), np.int16)}, (1, 4, 5, 1)),
    "trailing ones": ({"array": np.ones((4, 5, 6, 1, 1), np.int16)}, (1, 4, 5, 6)),
    "channels": ({"array": np.ones((4, 5, 6, 3), np.int16)}, (3, 4, 5, 6)),
    "constant": ({"array": np.zeros((4, 5, 6), np.int16)}, (1, 4, 5, 6)),
    "padding": ({"tail": b"\0" * 160}, (1, 4, 5, 6)),
    "qfac 0": ({"edit": fields(pixdim=[0, 0.8, 0.9, 2.5, 0, 0, 0, 0], sform_code=0)}, (1, 4, 5, 6)),
    "negative pixdim": ({"edit": fields(pixdim=[1, -0.8, 0.9, 2.5, 0, 0, 0, 0], sform_code=0)}, (1, 4, 5, 6)),
    "no codes": ({"edit": fields(sform_code=0, qform_code=0)}, (1, 4, 5, 6)),
    "unknown code": ({"edit": fields(sform_code=77)}, (1, 4, 5, 6)),
    "slope nan": ({"edit": fields(scl_slope=np.nan, scl_inter=np.nan)}, (1, 4, 5, 6)),
    "slope 0": ({"edit": fields(scl_slope=0, scl_inter=5)}, (1, 4, 5, 6)),
    "scaled": ({"edit": fields(scl_slope=0.5, scl_inter=-1024)}, (1, 4, 5, 6)),
    "bitpix": ({"edit": fields(bitpix=3)}, (1, 4, 5, 6)),
    "sform against qform": ({"edit": fields(srow_x=[0.8, 0, 0, 0])}, (1, 4, 5, 6)),
    "sheared": ({"edit": fields(srow_x=[0.8, 0.1, 0, 0])}, (1, 4, 5, 6)),
    "big-endian": ({"endianness": ">"}, (1, 4, 5, 6)),
    "nifti-2": ({"kind": nibabel.Nifti2Header}, (1, 4, 5, 6)),
    "nifti-2 big-endian": ({"kind": nibabel.Nifti2Header, "endianness": ">"}, (1, 4, 5, 6)),
    "one voxel": ({"array": np.ones((1, 1, 1), np.uint8)}, (1, 1, 1, 1)),
    "float64": ({"array": np.linspace(-3, 9, 120).reshape(4, 5, 6)}, (1, 4, 5, 6)),
    "int64": ({"array": np.arange(120).reshape(4, 5, 6)}, (1, 4, 5, 6)),
}


@pytest.mark.parametrize(("options", "shape"), AWKWARD.values(), ids=AWKWARD.keys())
@pytest.mark.parametrize("name", [GZ, NII])
def test_awkward_files_are_read_as_nibabel_reads_them(write_nifti, options, shape, name):
    path = write_nifti(name, **options)
    volume = read_image(path)
    reference = nibabel.load(path)
    expected = reference.get_fdata(dtype=np.float32).reshape([*shape[1:], shape[0]])
    assert volume.array.shape == shape
    assert volume.array.dtype == np.float32
    assert volume.array.flags.c_contiguous
    np.testing.assert_array_equal(volume.array, np.moveaxis(expected, -1, 0))
    np.testing.assert_array_equal(volume.affine, reference.affine)


def test_extensions_are_skipped(tmp_path, write_nifti):
    image = nibabel.load(write_nifti("plain.nii"))
    image.header.extensions.append(nibabel.nifti1.Nifti1Extension("comment", b"scanned on a Monday"))
    nibabel.save(image, tmp_path / "extended.nii.gz")
    np.testing.assert_array_equal(read_image(tmp_path / "extended.nii.gz").array[0], image.get_fdata(dtype=np.float32))


def test_gzip_of_several_members_and_with_padding(tmp_path, build):
    good = build()
    path = tmp_path / "members.nii.gz"
    path.write_bytes(PACK(good[:100]) + PACK(good[100:400]) + PACK(good[400:]) + b"\0" * 512)
    assert read_image(path).array[0, 3, 4, 5] == 119


def test_metres_and_micrometres_become_mm(write_nifti):
    affine = np.diag([0.002, 0.003, 0.005, 1.0])
    affine[:3, 3] = 0.1, 0.2, -0.3
    volume = read_image(write_nifti(affine=affine, edit=fields(xyzt_units=1)))
    assert volume.spacing == pytest.approx((2, 3, 5))
    np.testing.assert_allclose(volume.affine[:3, 3], (100, 200, -300), rtol=1e-6)
    thousand = np.diag([500.0, 600.0, 700.0, 1.0])
    assert read_image(write_nifti("b.nii", affine=thousand, edit=fields(xyzt_units=3))).spacing == pytest.approx((0.5, 0.6, 0.7))
    assert math.prod(volume.spacing) == pytest.approx(30)
