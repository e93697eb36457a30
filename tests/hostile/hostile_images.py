"""Images that must be refused, each with words of the refusal, and awkward ones that must be read.

Every entry is the image of a case of its own. Prediction, check and training meet all of them at once, among good cases.
"""

from __future__ import annotations

import io
from collections.abc import Callable
from dataclasses import dataclass, field

import nibabel
import numpy as np
from hostile_bytes import (
    AFFINE,
    PACK,
    SHAPE,
    dims,
    flipped,
    meta,
    nifti,
    nrrd,
    picture,
    pixdims,
    spoiled,
    voxels,
)  # fmt: skip

Turn = Callable[[np.ndarray], np.ndarray]


@dataclass(frozen=True)
class BadImage:
    """A file that no command may use.

    Attributes:
        suffix: ending of its name.
        make: makes its content.
        says: words of the refusal, behind the name of the file.
        beside: further files, by ending.
        training: whether training refuses it as well; False where it is the network that it does not fit.
    """

    suffix: str
    make: Callable[[], bytes]
    says: str
    beside: dict[str, bytes] = field(default_factory=dict)
    training: bool = True


@dataclass(frozen=True)
class OddImage:
    """A file that must be read.

    Attributes:
        suffix: ending of its name.
        make: makes its content.
        turn: takes the labels predicted for the plain image to those expected here; None where the voxels are others.
        beside: further files, by ending.
        constant: training refuses it, since nothing can be learned from it; prediction does not.
    """

    suffix: str
    make: Callable[[], bytes]
    turn: Turn | None = None
    beside: dict[str, bytes] = field(default_factory=dict)
    constant: bool = False


def same(labels: np.ndarray) -> np.ndarray:
    return labels


def gz(**options: object) -> bytes:
    return PACK(nifti(**options), mtime=0)  # type: ignore[arg-type]


def rows(matrix: list[list[float]]) -> dict[str, list[float]]:
    return {f"srow_{axis}": row for axis, row in zip("xyz", matrix, strict=True)}


def extended() -> bytes:
    image = nibabel.Nifti1Image.from_bytes(nifti())
    image.header.extensions.append(nibabel.nifti1.Nifti1Extension("comment", b"scanned on a Monday"))
    return image.to_bytes()


def two_pages() -> bytes:
    from PIL import Image

    content = io.BytesIO()
    pages = [Image.fromarray(voxels((16, 20), np.uint8))] * 2
    pages[0].save(content, format="TIFF", save_all=True, append_images=pages[1:])
    return content.getvalue()


GZ, NII = ".nii.gz", ".nii"
NAN, INF = float("nan"), float("inf")

REFUSED: dict[str, BadImage] = {
    # the stream
    "empty": BadImage(NII, lambda: b"", "the file is empty"),
    "empty_gz": BadImage(GZ, lambda: b"", "the file is empty"),
    "empty_stream": BadImage(GZ, lambda: PACK(b""), "truncated"),
    "text": BadImage(NII, lambda: b"no volume " * 60, "not a NIfTI file"),
    "zeros": BadImage(NII, lambda: bytes(3000), "not a NIfTI file"),
    "dicom": BadImage(NII, lambda: bytes(128) + b"DICM" + bytes(900), "not a NIfTI file"),
    "pickle": BadImage(GZ, lambda: PACK(b"\x80\x04\x95" + bytes(700)), "not a NIfTI file"),
    "plain_named_gz": BadImage(GZ, nifti, "not gzip"),
    "gz_named_plain": BadImage(NII, gz, "is gzip compressed; name it .nii.gz"),
    "half_header": BadImage(NII, lambda: nifti()[:200], "truncated: 200 bytes"),
    "header_alone": BadImage(NII, lambda: nifti()[:352], "truncated: the header announces"),
    "voxel_short": BadImage(NII, lambda: nifti()[:-2], "truncated: the header announces"),
    "cut_then_packed": BadImage(GZ, lambda: PACK(nifti()[:-2]), "truncated"),
    "gz_half": BadImage(GZ, lambda: gz()[: len(gz()) // 2], "truncated: the compressed stream ends early"),
    "gz_cut_trailer": BadImage(GZ, lambda: gz()[:-4], "truncated: the compressed stream ends early"),
    "gz_no_trailer": BadImage(GZ, lambda: gz()[:-8], "truncated: the compressed stream ends early"),
    "gz_header": BadImage(GZ, lambda: gz()[:10], "truncated: the compressed stream ends early"),
    "gz_checksum": BadImage(GZ, lambda: flipped(gz(), -7), "wrong checksum"),
    "gz_length": BadImage(GZ, lambda: flipped(gz(), -2), "wrong checksum"),
    "gz_bit": BadImage(GZ, lambda: flipped(gz(), -12, 3), "in the compressed stream"),
    "gz_method": BadImage(GZ, lambda: flipped(gz(), 2), "damaged data"),
    "gz_noise": BadImage(GZ, lambda: gz()[:10] + b"\xff" * 200, "damaged data"),
    "gz_garbage_behind": BadImage(GZ, lambda: gz() + b"garbage behind", "damaged data"),
    "gz_second_image": BadImage(GZ, lambda: gz() * 2, "longer than the"),
    "garbage_behind": BadImage(NII, lambda: nifti(tail=b"x"), "longer than the"),
    "long": BadImage(NII, lambda: nifti(tail=bytes(9000)), "longer than the"),
    "bomb": BadImage(GZ, lambda: PACK(nifti() + bytes(32 << 20), 1), "longer than the"),
    # the header
    "terabytes": BadImage(NII, lambda: nifti(dim=dims(30000, 30000, 30000)), "truncated: the header announces 54000000000352"),
    "terabytes_gz": BadImage(GZ, lambda: gz(dim=dims(30000, 30000, 30000)), "truncated: the header announces 54000000000352"),
    "rank_0": BadImage(NII, lambda: nifti(dim=[0] * 8), "number of dimensions is 0"),
    "rank_9": BadImage(NII, lambda: nifti(dim=[9, *SHAPE, 1, 1, 1, 1]), "number of dimensions is 9"),
    "axis_0": BadImage(NII, lambda: nifti(dim=dims(12, 0, 8)), "shape 12x0x8 has an axis without voxels"),
    "axis_negative": BadImage(NII, lambda: nifti(dim=dims(12, -10, 8)), "shape 12x-10x8 has an axis without voxels"),
    "magic": BadImage(NII, lambda: nifti(magic=b"n+7"), "wrong magic"),
    "analyze": BadImage(NII, lambda: nifti(magic=b""), "wrong magic"),
    "pair_in_one": BadImage(NII, lambda: nifti(magic=b"ni1"), "is the header of a .hdr/.img pair"),
    "flat": BadImage(NII, lambda: nifti(voxels((12, 10))), "2D image of shape 12x10"),
    "five_axes": BadImage(NII, lambda: nifti(voxels((4, 5, 6, 2, 3))), "5D image of shape 4x5x6x2x3"),
    "channels": BadImage(NII, lambda: nifti(voxels((*SHAPE, 2))), "2 channels", training=False),
    "rgb": BadImage(NII, lambda: nifti(datatype=128), "RGB colour voxels"),
    "rgba": BadImage(NII, lambda: nifti(datatype=2304), "RGB colour voxels"),
    "complex64": BadImage(NII, lambda: nifti(voxels(dtype=np.complex64)), "complex voxels (complex64)"),
    "complex128": BadImage(NII, lambda: nifti(voxels(dtype=np.complex128)), "complex voxels (complex128)"),
    "type_unknown": BadImage(NII, lambda: nifti(datatype=777), "voxel type code 777 is unknown"),
    "type_bits": BadImage(NII, lambda: nifti(datatype=1), "voxel type code 1 cannot be read"),
    "type_float128": BadImage(NII, lambda: nifti(datatype=1536), "voxel type code 1536"),
    "offset_in_header": BadImage(NII, lambda: nifti(vox_offset=100), "vox_offset is 100"),
    "offset_nan": BadImage(NII, lambda: nifti(vox_offset=NAN), "vox_offset is nan"),
    "offset_far": BadImage(GZ, lambda: gz(vox_offset=2.0**40), "truncated: the header announces"),
    # the voxels
    "nan": BadImage(GZ, lambda: gz(array=spoiled(NAN)), "1 voxels are NaN and 0 infinite"),
    "inf": BadImage(GZ, lambda: gz(array=spoiled(-INF)), "0 voxels are NaN and 1 infinite"),
    "beyond_float32": BadImage(GZ, lambda: gz(array=spoiled(1e300, np.float64)), "0 voxels are NaN and 1 infinite"),
    "slope_vast": BadImage(NII, lambda: nifti(scl_slope=1e38), "infinite"),
    "intercept_nan": BadImage(NII, lambda: nifti(scl_slope=2, scl_inter=NAN), "scl_inter is nan"),
    # the geometry
    "spacing_0": BadImage(NII, lambda: nifti(**pixdims(1, 0, 1)), "spacing 1x0x1 mm is zero"),
    "spacing_nan": BadImage(NII, lambda: nifti(**pixdims(1, NAN, 1)), "not numbers or too large"),
    "spacing_tiny": BadImage(NII, lambda: nifti(**pixdims(1, 1, 1e-4)), "spacing 1x1x0.0001 mm is zero or too small"),
    "spacing_vast": BadImage(NII, lambda: nifti(**pixdims(1, 5000, 1)), "spacing 1x5000x1 mm is too large"),
    "quaternion": BadImage(NII, lambda: nifti(sform_code=0, quatern_b=2), "is no rotation"),
    "sform_nan": BadImage(NII, lambda: nifti(srow_x=[1, 0, 0, NAN]), "not numbers or too large"),
    "sform_zero": BadImage(NII, lambda: nifti(**rows([[0] * 4] * 3)), "spacing 0x0x0 mm is zero"),
    "sform_flat": BadImage(NII, lambda: nifti(**rows([[1, 1, 0, 0], [1, 1, 0, 0], [0, 0, 1, 0]])), "affine is singular"),
    "micrometres": BadImage(NII, lambda: nifti(affine=AFFINE / 2, xyzt_units=3), "mm is zero or too small"),
    # other formats
    "hdr_without_img": BadImage(".hdr", lambda: nifti(magic=b"ni1", vox_offset=0)[:348], "hdr_without_img.img: no such file"),
    "img_short": BadImage(
        ".hdr", lambda: nifti(magic=b"ni1", vox_offset=0)[:348], "img_short.img: truncated", {".img": bytes(100)}
    ),
    "nrrd_elsewhere": BadImage(".nrrd", lambda: nrrd(data_file="/etc/hostname"), "must lie beside the header"),
    "nrrd_above": BadImage(".nhdr", lambda: nrrd(data_file="../plain.raw"), "must lie beside the header"),
    "nrrd_checksum": BadImage(".nrrd", lambda: flipped(nrrd(packed=True), -7), "wrong checksum"),
    "nrrd_terabytes": BadImage(".nrrd", lambda: nrrd(sizes="40000 50000 60000"), "truncated: the header announces"),
    "nrrd_itself": BadImage(".nhdr", lambda: nrrd(data_file="nrrd_itself.nhdr"), "longer than the"),
    "mha_above": BadImage(".mhd", lambda: meta(ElementDataFile="../../etc/passwd"), "must lie beside the header"),
    "mha_short": BadImage(".mha", lambda: meta()[:-1], "truncated"),
    "mha_zlib": BadImage(".mha", lambda: meta(CompressedData="True"), "in the compressed stream"),
    "png_flat": BadImage(".png", lambda: picture("PNG"), "a 2D image; the network takes volumes", training=False),
    "png_half": BadImage(".png", lambda: picture("PNG")[:90], "not a whole PNG file"),
    "png_alpha": BadImage(".png", lambda: picture("PNG", np.zeros((16, 20, 4), np.uint8)), "has transparency"),
    "jpeg_text": BadImage(".jpg", lambda: b"no picture", "not a whole JPEG file"),
    "tiff_pages": BadImage(".tif", two_pages, "2 pages"),
}

TYPES = ("int8", "uint8", "int16", "uint16", "int32", "uint32", "int64", "uint64", "float32", "float64")
SHEAR = AFFINE + np.array([[0, 0.2, 0, 0], [0] * 4, [0] * 4, [0] * 4])

ACCEPTED: dict[str, OddImage] = {
    "plain": OddImage(GZ, gz, same),
    **{f"type_{name}": OddImage(NII, lambda name=name: nifti(voxels(dtype=np.dtype(name))), same) for name in TYPES},
    "big_endian": OddImage(NII, lambda: nifti(endianness=">"), same),
    "nifti2": OddImage(GZ, lambda: gz(kind=nibabel.Nifti2Header), same),
    "nifti2_big_endian": OddImage(NII, lambda: nifti(kind=nibabel.Nifti2Header, endianness=">"), same),
    "slope_0": OddImage(NII, lambda: nifti(scl_slope=0, scl_inter=7), same),
    "slope_nan": OddImage(NII, lambda: nifti(scl_slope=NAN, scl_inter=NAN), same),
    "slope_2": OddImage(NII, lambda: nifti(voxels() * 2 - 40, scl_slope=0.5, scl_inter=20), same),
    "padding": OddImage(NII, lambda: nifti(tail=bytes(160)), same),
    "gz_members": OddImage(GZ, lambda: PACK(nifti()[:100]) + PACK(nifti()[100:]) + bytes(64), same),
    "trailing_ones": OddImage(NII, lambda: nifti(voxels()[..., None, None]), same),
    "extension": OddImage(NII, extended, same),
    "bitpix": OddImage(NII, lambda: nifti(bitpix=3), same),
    "no_codes": OddImage(NII, lambda: nifti(sform_code=0, qform_code=0)),
    "no_qform": OddImage(NII, lambda: nifti(qform_code=0, quatern_b=0.3), same),
    "unknown_code": OddImage(NII, lambda: nifti(sform_code=77), same),
    "qfac_0": OddImage(NII, lambda: nifti(sform_code=0, pixdim=[0, 1, 1, 1, 0, 0, 0, 0]), same),
    "negative_pixdim": OddImage(NII, lambda: nifti(sform_code=0, pixdim=[1, 1, -1, 1, 0, 0, 0, 0]), same),
    "sform_against_qform": OddImage(NII, lambda: nifti(qoffset_x=50, quatern_d=0.5), same),
    "pixdim_against_sform": OddImage(NII, lambda: nifti(pixdim=[1, 3, 3, 3, 1, 1, 1, 1]), same),
    "left_handed": OddImage(
        NII, lambda: nifti(voxels()[::-1], np.array([[-1, 0, 0, 5], *AFFINE[1:]])), lambda labels: labels[::-1]
    ),
    "axes_turned": OddImage(
        NII,
        lambda: nifti(voxels().transpose(2, 0, 1), AFFINE[:, [2, 0, 1, 3]]),
        lambda labels: labels.transpose(2, 0, 1),
    ),
    "pair": OddImage(".hdr", lambda: nifti(magic=b"ni1", vox_offset=0)[:348], same, {".img": voxels().tobytes(order="F")}),
    "nrrd": OddImage(".nrrd", lambda: nrrd(packed=True), same),
    "mha": OddImage(".mha", meta, same),
    "sheared": OddImage(NII, lambda: nifti(affine=SHEAR)),
    "thick_slices": OddImage(NII, lambda: nifti(affine=AFFINE * [1, 1, 5, 1])),
    "thin_rod": OddImage(NII, lambda: nifti(voxels((1, 1, 40)))),
    "one_slice": OddImage(NII, lambda: nifti(voxels((12, 10, 1)))),
    "one_voxel": OddImage(NII, lambda: nifti(np.full((1, 1, 1), 7, np.int16)), constant=True),
    "constant": OddImage(GZ, lambda: gz(array=np.full(SHAPE, 9, np.int16)), constant=True),
    "zero": OddImage(GZ, lambda: gz(array=np.zeros(SHAPE, np.float32)), constant=True),
    "larger_than_patch": OddImage(GZ, lambda: gz(array=voxels((30, 21, 17)))),
    "denormal": OddImage(NII, lambda: nifti(voxels(dtype=np.float32) * np.float32(1e-40))),
    "vast_values": OddImage(NII, lambda: nifti(voxels(dtype=np.float32) * np.float32(1e30))),
    "both_ends_of_float32": OddImage(NII, lambda: nifti(np.where(voxels() > 60, 3e38, -3e38).astype(np.float32))),
}
