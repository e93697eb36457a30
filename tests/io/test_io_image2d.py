"""2D images: what is read as it is stored, what is refused and why, and the PNG that comes out."""

from __future__ import annotations

import hashlib
import io
import os
import struct
import time
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from scipy.ndimage import binary_dilation

from se_med.errors import ImageError, UsageError
from se_med.io.images import read_image, read_images, read_label, write_label
from se_med.io.volume import Volume

COLOURS = np.random.default_rng(0).integers(0, 256, (20, 30, 3)).astype(np.uint8)
GREY = COLOURS[..., 0].copy()
DEEP = np.random.default_rng(1).integers(0, 65536, (20, 30)).astype(np.uint16)
LABELS = np.random.default_rng(2).integers(0, 4, (20, 30)).astype(np.uint8)


def encoded(pixels: np.ndarray | Image.Image, kind: str, **options) -> bytes:
    content = io.BytesIO()
    image = pixels if isinstance(pixels, Image.Image) else Image.fromarray(pixels)
    image.save(content, kind, **options)
    return content.getvalue()


@pytest.fixture
def write(tmp_path):
    def write(content: bytes, name: str) -> Path:
        path = tmp_path / name
        path.write_bytes(content)
        return path

    return write


def png(width: int, height: int, depth: int, colour: int, rows: bytes) -> bytes:
    """A PNG chunk by chunk, for kinds that Pillow does not write."""

    def chunk(name: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    header = struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")


@pytest.mark.parametrize("name", ["a.png", "a.tif", "a.TIFF"])
def test_colours_become_channels_and_columns_come_first(write, name):
    path = write(encoded(COLOURS, "PNG" if name == "a.png" else "TIFF"), name)
    volume = read_image(path)
    assert volume.array.dtype == np.float32
    assert volume.array.shape == (3, 30, 20, 1)
    np.testing.assert_array_equal(volume.array[..., 0].transpose(2, 1, 0), COLOURS)
    assert (volume.spacing, volume.flat, volume.path) == ((1.0, 1.0, 1.0), True, path)
    assert volume.digest == hashlib.sha256(path.read_bytes()).hexdigest()


def test_a_jpeg_is_read_as_pillow_decodes_it(write):
    smooth = np.tile(np.arange(48, dtype=np.uint8)[:, None, None] * 4, (1, 40, 3))
    path = write(encoded(smooth, "JPEG", quality=95), "a.JPG")
    np.testing.assert_array_equal(read_image(path).array[..., 0].transpose(2, 1, 0), np.asarray(Image.open(path)))


@pytest.mark.parametrize("kind", ["PNG", "TIFF"])
@pytest.mark.parametrize("pixels", [GREY, DEEP, GREY > 100], ids=["8 bits", "16 bits", "1 bit"])
def test_grey_values_are_kept(write, kind, pixels):
    volume = read_image(write(encoded(pixels, kind), f"a.{kind.lower()}"))
    np.testing.assert_array_equal(volume.array[0, ..., 0].T, pixels)


def test_channels_may_be_files_of_their_own(write):
    paths = [write(encoded(COLOURS[..., channel].copy(), "PNG"), f"a_000{channel}.png") for channel in range(3)]
    joined = read_images(paths)
    np.testing.assert_array_equal(joined.array, read_image(write(encoded(COLOURS, "PNG"), "b.png")).array)
    assert joined.flat


def test_labels_are_the_stored_numbers(write):
    paletted = Image.fromarray(LABELS, mode="P")
    paletted.putpalette([0, 0, 0, 255, 0, 0, 0, 255, 0, 0, 0, 255])
    for number, content in enumerate((encoded(LABELS, "PNG"), encoded(paletted, "PNG"))):
        label = read_label(write(content, f"{number}.png"))
        assert label.array.dtype == np.uint8
        np.testing.assert_array_equal(label.array[..., 0].T, LABELS)
    np.testing.assert_array_equal(read_label(write(encoded(DEEP, "TIFF"), "d.tif")).array[..., 0].T, DEEP)
    mask = (LABELS > 1).astype(np.uint8) * 255
    assert set(np.unique(read_label(write(encoded(mask, "PNG"), "m.png")).array)) == {0, 255}
    assert set(np.unique(read_label(write(encoded(LABELS > 1, "PNG"), "b.png")).array)) == {0, 1}


@pytest.mark.parametrize("values", [(0, 1, 255), (0, 7, 60000)])
def test_a_written_label_has_the_size_and_values_of_the_image(write, tmp_path, values):
    image = read_image(write(encoded(COLOURS, "JPEG"), "a.jpg"))
    labels = np.random.default_rng(3).choice(np.array(values), image.shape)
    write_label(tmp_path / "out.png", labels, image)
    stored = np.asarray(Image.open(tmp_path / "out.png"))
    assert stored.dtype == (np.uint8 if max(values) < 256 else np.uint16)
    np.testing.assert_array_equal(stored, labels[..., 0].T)
    np.testing.assert_array_equal(read_label(tmp_path / "out.png").array, labels)
    first = (tmp_path / "out.png").read_bytes()
    write_label(tmp_path / "out.png", labels, image)
    assert (tmp_path / "out.png").read_bytes() == first


def test_what_cannot_be_written_as_png_is_refused(write, tmp_path):
    image = read_image(write(encoded(GREY, "PNG"), "a.png"))
    with pytest.raises(UsageError, match=r"out\.jpg: 2D label maps are written as PNG"):
        write_label(tmp_path / "out.jpg", np.zeros(image.shape, np.uint8), image)
    with pytest.raises(UsageError, match="label value 70000 does not fit"):
        write_label(tmp_path / "out.png", np.full(image.shape, 70000), image)
    with pytest.raises(ValueError, match="shape"):
        write_label(tmp_path / "out.png", np.zeros((3, 3, 1), np.uint8), image)
    deep = Volume(np.zeros((1, 4, 4, 2), np.float32), np.eye(4))
    with pytest.raises(ValueError, match="one slice"):
        write_label(tmp_path / "out.png", np.zeros(deep.shape, np.uint8), deep)


def with_exif(orientation: int) -> bytes:
    exif = Image.Exif()
    exif[0x0112] = orientation
    return encoded(COLOURS, "JPEG", exif=exif)


def stack() -> bytes:
    pages = [Image.fromarray(GREY), Image.fromarray(GREY)]
    content = io.BytesIO()
    pages[0].save(content, "TIFF", save_all=True, append_images=pages[1:])
    return content.getvalue()


def animation() -> bytes:
    frames = [Image.fromarray(GREY), Image.fromarray(255 - GREY)]
    content = io.BytesIO()
    frames[0].save(content, "PNG", save_all=True, append_images=frames[1:])
    return content.getvalue()


def bomb() -> bytes:
    return png(60_000, 60_000, 8, 0, b"\0" * 1000)


TRANSPARENT = np.dstack([COLOURS, GREY])
REFUSED = {
    "a.png: has transparency": encoded(TRANSPARENT, "PNG"),
    "b.png: has transparency": encoded(TRANSPARENT[..., 2:], "PNG"),
    "c.png: has transparency": encoded(COLOURS, "PNG", transparency=(0, 0, 0)),
    "d.tif: has transparency": encoded(TRANSPARENT, "TIFF"),
    "e.png: colours from a palette": encoded(Image.fromarray(COLOURS).quantize(8), "PNG"),
    "f.jpg: colours are stored as CMYK": encoded(Image.fromarray(COLOURS).convert("CMYK"), "JPEG"),
    "g.png: 16 bits per colour": png(2, 2, 16, 2, (b"\0" + b"\1\2" * 6) * 2),
    "h.png: 4 bits per pixel": png(2, 2, 4, 0, b"\0\x12" * 2),
    "i.jpg: EXIF orientation 6": with_exif(6),
    "j.tif: 2 pages or frames": stack(),
    "k.png: 2 pages or frames": animation(),
    "l.png: 60000x60000 pixels in .* bytes; at most 100 million": bomb(),
    "m.png: not a whole PNG file": encoded(COLOURS, "JPEG"),
    "n.jpg: not a whole JPEG file": encoded(COLOURS, "PNG"),
    "o.png: not a whole PNG file": b"GIF89a not an image at all",
    "p.png: the file is empty": b"",
    "q.tif: holds NaN": encoded(np.full((3, 3), np.nan, np.float32), "TIFF"),
    "r.tif: white is stored as zero": encoded(GREY, "TIFF", tiffinfo={262: 0}),
}


@pytest.mark.parametrize(("words", "content"), REFUSED.items(), ids=REFUSED)
def test_what_is_not_plain_grey_or_rgb_is_refused(write, words, content):
    path = write(content, words.split(":")[0])
    with pytest.raises(ImageError, match=words) as error:
        read_image(path)
    assert "\n" not in error.value.message


def test_an_upright_exif_orientation_is_no_reason_to_refuse(write):
    assert read_image(write(with_exif(1), "a.jpg")).shape == (30, 20, 1)


@pytest.mark.parametrize(
    ("words", "content"),
    [
        ("a.jpg: a JPEG does not keep label values", encoded(LABELS, "JPEG")),
        ("a.png: 3 channels; a label map has one", encoded(COLOURS, "PNG")),
        ("a.png: has transparency", encoded(TRANSPARENT, "PNG")),
        ("b.png: 2 bits per pixel", png(4, 2, 2, 0, b"\0\x1b" * 2)),
        ("a.tif: values from 0 to 1.5 are no whole numbers", encoded(np.array([[0, 1.5]], np.float32), "TIFF")),
        ("b.tif: label value -2 is negative", encoded(np.array([[0, -2]], np.int32), "TIFF")),
    ],
)
def test_what_is_no_label_map_is_refused(write, words, content):
    with pytest.raises(ImageError, match=words):
        read_label(write(content, words.split(":")[0]))


ENCODINGS = [
    ("PNG", {}),
    ("JPEG", {}),
    ("JPEG", {"progressive": True}),
    ("TIFF", {}),
    ("TIFF", {"compression": "tiff_lzw"}),
    ("TIFF", {"compression": "tiff_deflate"}),
]


@pytest.mark.filterwarnings("ignore::UserWarning")  # Pillow's, on damaged metadata
@pytest.mark.parametrize(("kind", "options"), ENCODINGS)
def test_no_truncated_file_is_read(write, kind, options):
    content = encoded(COLOURS, kind, **options)
    name = f"a.{kind.lower()}"
    read_image(write(content, name))
    lengths = {*range(0, len(content), 17), *range(len(content) - 12, len(content))}
    for length in sorted(lengths):
        with pytest.raises(ImageError, match=name):
            read_image(write(content[:length], name))


@pytest.mark.filterwarnings("ignore::UserWarning")  # Pillow's, on damaged metadata
@pytest.mark.parametrize(("kind", "options"), ENCODINGS)
def test_damaged_bytes_are_read_or_refused_and_nothing_else(write, kind, options):
    content = encoded(COLOURS, kind, **options)
    draw = np.random.default_rng(4)
    refused = 0
    for _ in range(150):
        damaged = bytearray(content)
        for position in draw.integers(0, len(content), 3):
            damaged[position] ^= 1 << int(draw.integers(8))
        try:
            assert read_image(write(bytes(damaged), f"a.{kind.lower()}")).array.dtype == np.float32
        except ImageError:
            refused += 1
    assert refused > (140 if kind == "PNG" else 5)  # every chunk of a PNG has a sum


def test_a_pipe_and_a_missing_file_are_refused(tmp_path):
    os.mkfifo(tmp_path / "pipe.png")
    with pytest.raises(ImageError, match=r"pipe\.png: is a pipe"):
        read_image(tmp_path / "pipe.png")
    with pytest.raises(ImageError, match=r"none\.png: no such file"):
        read_label(tmp_path / "none.png")


def test_a_mask_is_the_same_image_as_its_nifti_twin(write, tmp_path):
    """ITK gives a PNG the affine that is used here, so the same picture written as NIfTI by ITK is on the same grid."""
    image = read_image(write(encoded(GREY, "PNG"), "a.png"))
    np.testing.assert_array_equal(image.affine, np.diag([-1, -1, 1, 1]))
    write_label(tmp_path / "a.nii.gz", image.array[0].astype(np.uint8), image)
    twin = read_image(tmp_path / "a.nii.gz")
    np.testing.assert_array_equal(twin.array, image.array)
    np.testing.assert_array_equal(twin.affine, image.affine)


def test_real_photographs_and_their_masks(real_data):
    image = read_image(real_data / "chase_db1/images/chase_01L.jpg")
    mask = read_label(real_data / "chase_db1/labels/chase_01L.png")
    assert image.array.shape == (3, 999, 960, 1)
    assert mask.array.shape == (999, 960, 1)
    assert np.unique(mask.array).tolist() == [0, 1]
    # Vessels are darker in green than the retina beside them; in a mask that was turned or mirrored they are not.
    green, vessels = image.array[1, ..., 0], mask.array[..., 0] == 1
    contrasts = []
    for turned in (vessels, vessels[::-1], vessels[:, ::-1]):
        beside = binary_dilation(turned, iterations=4) & ~turned
        contrasts.append(green[beside].mean() - green[turned].mean())
    assert contrasts[0] > 5
    assert max(contrasts[1:]) < 0


def png(header: bytes, *packed: bytes) -> bytes:
    """A PNG of right sums whose image data are in any number of chunks."""
    chunks = [(b"IHDR", header), *((b"IDAT", part) for part in packed), (b"IEND", b"")]
    body = b"".join(
        len(data).to_bytes(4, "big") + kind + data + zlib.crc32(kind + data).to_bytes(4, "big") for kind, data in chunks
    )
    return b"\x89PNG\r\n\x1a\n" + body


def header(columns: int, rows: int, colour: int = 0, interlaced: int = 0, depth: int = 8) -> bytes:
    return columns.to_bytes(4, "big") + rows.to_bytes(4, "big") + bytes([depth, colour, 0, 0, interlaced])


@pytest.mark.parametrize(
    ("ihdr", "needed"),
    [
        (header(7, 5), 40),
        (header(7, 5, colour=2), 110),
        (header(7, 5, depth=16), 75),
        (header(7, 5, depth=1), 10),
        (header(7, 5, interlaced=1), 46),
        (header(1, 1, interlaced=1), 2),
    ],
)
def test_a_png_whose_pixels_end_too_early_is_refused(write, ihdr, needed):
    whole = zlib.compress(bytes(needed))
    assert read_image(write(png(ihdr, whole), "a.png")).array.shape[1:] == (ihdr[3], ihdr[7], 1)
    read_image(write(png(ihdr, whole[:4], b"", whole[4:]), "a.png"))
    read_image(write(png(ihdr, zlib.compress(bytes(needed + 9))), "a.png"))  # more than needed is no loss
    with pytest.raises(ImageError, match=rf"a\.png: truncated: .* {needed} bytes unpacked, and there are {needed - 1};"):
        read_image(write(png(ihdr, zlib.compress(bytes(needed - 1))), "a.png"))


@pytest.mark.parametrize("read", [read_image, read_label])
def test_a_header_of_vast_size_on_few_bytes_is_refused_at_once(write, read):
    start = time.process_time()
    with pytest.raises(ImageError, match="truncated: the header announces 16x4194324 pixels"):
        read(write(png(header(16, 4194324), zlib.compress(bytes(340))), "a.png"))
    jpeg = bytearray(encoded(COLOURS, "JPEG"))
    at = jpeg.index(b"\xff\xc0") + 5
    jpeg[at : at + 4] = (60000).to_bytes(2, "big") + (1600).to_bytes(2, "big")
    with pytest.raises(ImageError, match="truncated: the header announces 1600x60000 pixels, in"):
        read_image(write(bytes(jpeg), "a.jpg"))
    assert time.process_time() - start < 0.5
