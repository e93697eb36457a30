"""2D images and label maps: PNG, JPEG and TIFF in, PNG out, through Pillow.

A 2D image is a volume of one slice with a spacing of one pixel, so that everything behind the reader treats both alike. Its
affine is the one that ITK gives such files: columns run to the left of the patient and rows to the back, which a radiological
viewer shows upright. Pillow mends, scales and converts where it can; here a file that does not hold plain values is refused.
"""

from __future__ import annotations

import hashlib
import io
import struct
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from PIL.ImageFile import ImageFile
from PIL.JpegImagePlugin import JpegImageFile
from PIL.PngImagePlugin import PngImageFile
from PIL.TiffImagePlugin import TiffImageFile

from se_med.errors import ImageError, UsageError
from se_med.io.atomic import PathLike, write_bytes
from se_med.io.filebytes import read_small_file, regular_size
from se_med.io.png import check_png_pixels
from se_med.io.volume import Volume

FLAT_SUFFIXES = (".png", ".jpg", ".jpeg", ".tif", ".tiff")
"""File name endings of the 2D images that can be read."""
LABEL_SUFFIX = ".png"
"""File name ending of the 2D label maps that are written."""

MOST_PIXELS = 100_000_000
"""10,000 x 10,000; larger images come from slide scanners and are cut into tiles, or are decompression bombs."""
MOST_BYTES = 2**30
JPEG_PIXELS_A_BYTE = 512
"""Every block of 8x8 pixels takes a bit at least. Libjpeg fills what is missing with grey, without an error."""

_ORIENTATION = 0x0112  # EXIF and TIFF tag: how viewers turn the image
_BITS, _PHOTOMETRIC, _SAMPLES = 258, 262, 277  # TIFF tags
_WHITE_IS_ZERO = 0
_PALETTE = 3  # colour type of a PNG
_PNG_END = b"IEND\xae\x42\x60\x82"  # the last chunk and its sum
_GREY_MODES = ("1", "L", "I;16", "I;16L", "I;16B", "I", "F")
# What Pillow raises on damaged files. Its decoders check what they need, not what they are given.
_DAMAGE = (OSError, SyntaxError, ValueError, TypeError, KeyError, IndexError, ArithmeticError, struct.error, zlib.error)
_AGAIN = "copy or export the file again"
_OPENERS: dict[str, tuple[str, Callable[[IO[bytes]], ImageFile]]] = {
    ".png": ("PNG", PngImageFile),
    ".jpg": ("JPEG", JpegImageFile),
    ".jpeg": ("JPEG", JpegImageFile),
    ".tif": ("TIFF", TiffImageFile),
    ".tiff": ("TIFF", TiffImageFile),
}


def is_flat(path: PathLike) -> bool:
    """Tell from its name whether a file is a 2D image."""
    return Path(path).name.lower().endswith(FLAT_SUFFIXES)


def read_flat_image(path: PathLike) -> Volume:
    """Read a 2D image strictly: grey gives one channel, RGB three.

    Returns:
        `array` (C, columns, rows, 1) float32 with the values as stored, spacing 1, `flat` set.

    Raises:
        ImageError: the file is missing, damaged, truncated or too large, or is not a single image of plain grey or RGB values:
            alpha, palette, CMYK, 16 bits per colour, several pages, an EXIF orientation, NaN.
    """
    path = Path(path)
    pixels, digest = _read(path, label=False)
    array = np.ascontiguousarray(np.atleast_3d(pixels).transpose(2, 1, 0)[..., np.newaxis], dtype=np.float32)
    if not np.isfinite(array.sum(dtype=np.float64)):
        raise ImageError(f"{path}: holds NaN or infinite values; mask them out or export the image again")
    return Volume(array, _affine(), None, path, digest, flat=True)


def read_flat_label(path: PathLike) -> Volume:
    """Read a 2D label map: one whole number per pixel, as it is stored. The number of a palette's colour is the label.

    Returns:
        `array` (columns, rows, 1) in the smallest unsigned integer type, spacing 1, `flat` set.

    Raises:
        ImageError: as for `read_flat_image`, or a JPEG (whose values are not kept), colours, or negative or fractional values.
    """
    path = Path(path)
    if _OPENERS[path.suffix.lower()][0] == "JPEG":
        raise ImageError(f"{path}: a JPEG does not keep label values; store label maps as PNG")
    pixels, digest = _read(path, label=True)
    lowest, highest = pixels.min(), pixels.max()
    if pixels.dtype.kind == "f":
        raise ImageError(f"{path}: values from {lowest:g} to {highest:g} are no whole numbers; store labels as integers")
    if lowest < 0:
        raise ImageError(f"{path}: label value {lowest} is negative; use whole numbers from 0 (background)")
    kind = np.min_scalar_type(int(highest))
    return Volume(np.ascontiguousarray(pixels.T[..., np.newaxis], dtype=kind), _affine(), None, path, digest, flat=True)


def read_flat_size(path: PathLike) -> tuple[int, int, int]:
    """Read columns, rows and number of channels of a 2D image from its header; nothing is decoded.

    Raises:
        ImageError: the file is missing, no image of its kind, or too large.
    """
    path = Path(path)
    kind, open_image = _OPENERS[path.suffix.lower()]
    with _named_damage(path, kind):
        size = regular_size(path)
        with path.open("rb") as file:
            image = open_image(file)
            _check_size(image, size, path)
            return (*image.size, len(image.getbands()))


def write_flat_label(path: PathLike, labels: NDArray[Any]) -> None:
    """Write a label map of one slice as a PNG of 8 or 16 bits, atomically. Equal labels give equal bytes.

    Args:
        path: ends in `.png`.
        labels: (columns, rows, 1) whole numbers from 0.

    Raises:
        UsageError: the name has another ending, or a value is above 65535, the highest of a PNG.
        ValueError: `labels` is not one slice.
        RunError: the file cannot be written.
    """
    path = Path(path)
    if path.suffix.lower() != LABEL_SUFFIX:
        raise UsageError(f"{path}: 2D label maps are written as PNG; name it {LABEL_SUFFIX}")
    if labels.ndim != 3 or labels.shape[2] != 1:
        raise ValueError(f"labels have shape {labels.shape}, a PNG holds one slice (X, Y, 1)")
    highest = int(labels.max())
    if highest > np.iinfo(np.uint16).max:
        raise UsageError(f"{path}: label value {highest} does not fit into a PNG; use values up to 65535")
    kind = np.uint8 if highest <= np.iinfo(np.uint8).max else np.uint16
    content = io.BytesIO()
    Image.fromarray(np.ascontiguousarray(labels[..., 0].T, dtype=kind)).save(content, format="PNG")
    write_bytes(path, content.getvalue())


def _affine() -> NDArray[np.float64]:
    return np.diag([-1.0, -1.0, 1.0, 1.0])


def _read(path: Path, *, label: bool) -> tuple[NDArray[Any], str]:
    """Return the pixels as stored, (rows, columns) or (rows, columns, 3), and the sha256 of the file's bytes."""
    content = read_small_file(path, MOST_BYTES)
    kind, open_image = _OPENERS[path.suffix.lower()]
    with _named_damage(path, kind):
        if kind == "PNG":
            PngImageFile(io.BytesIO(content)).verify()  # the sums of its chunks, which decoding leaves out
            if _PNG_END not in content:
                raise ImageError(f"{path}: truncated: the PNG has no end; {_AGAIN}")
        image = open_image(io.BytesIO(content))
        _check_size(image, len(content), path)
        if kind == "PNG":
            check_png_pixels(content, path)  # before anything decodes it
        _check_kind(image, content, kind, path, label=label)
        pixels = np.asarray(image)
    if pixels.dtype == np.bool_:
        pixels = pixels.astype(np.uint8)
    return pixels, hashlib.sha256(content).hexdigest()


@contextmanager
def _named_damage(path: Path, kind: str) -> Iterator[None]:
    """Turn what Pillow raises on a bad file into an `ImageError`."""
    try:
        yield
    except MemoryError:
        raise ImageError(f"{path}: does not fit into memory; crop the image") from None
    except _DAMAGE as error:
        cause = " ".join(str(error).split()) or type(error).__name__
        raise ImageError(f"{path}: not a whole {kind} file ({cause}); {_AGAIN}") from None


def _check_size(image: ImageFile, size: int, path: Path) -> None:
    columns, rows = image.size
    if columns * rows > MOST_PIXELS:
        raise ImageError(
            f"{path}: {columns}x{rows} pixels in {size} bytes; at most {MOST_PIXELS // 1_000_000} million are read: cut the "
            "image into tiles"
        )
    if isinstance(image, JpegImageFile) and columns * rows > JPEG_PIXELS_A_BYTE * size:
        raise ImageError(f"{path}: truncated: the header announces {columns}x{rows} pixels, in {size} bytes; {_AGAIN}")
    if getattr(image, "n_frames", 1) > 1:
        raise ImageError(
            f"{path}: {getattr(image, 'n_frames', 1)} pages or frames; store each as a file, or all as a NIfTI volume"
        )


def _check_kind(image: ImageFile, content: bytes, kind: str, path: Path, *, label: bool) -> None:
    """Refuse what Pillow would turn, scale or convert, and what is not one value per pixel and channel."""
    mode, bits, palette = image.mode, _bits(image, content, kind), image.mode == "P"
    extra = mode in ("RGB", "P", *_GREY_MODES) and _samples(image) not in (None, 3 if mode == "RGB" else 1)
    if mode in ("LA", "La", "PA", "RGBA", "RGBa") or extra or ("transparency" in image.info and not label):
        raise ImageError(f"{path}: has transparency (alpha, mode {mode}); save it without, as grey or RGB")
    if palette and not label:
        raise ImageError(f"{path}: colours from a palette; save it as grey or RGB")
    if mode not in (*_GREY_MODES, "RGB", "P"):
        raise ImageError(f"{path}: colours are stored as {mode}; save it as grey or RGB")
    if label and mode == "RGB":
        raise ImageError(f"{path}: 3 channels; a label map has one whole number per pixel, save it as grey of 8 or 16 bits")
    if mode == "RGB" and bits != 8:
        raise ImageError(f"{path}: {bits} bits per colour; save it as RGB of 8 bits, or as one grey file of 16 bits per channel")
    if not palette and bits not in (1, 8, 16, 32):
        raise ImageError(f"{path}: {bits} bits per pixel; save it as grey of 8 or 16 bits")
    if isinstance(image, TiffImageFile) and image.tag_v2.get(_PHOTOMETRIC) == _WHITE_IS_ZERO:
        raise ImageError(f"{path}: white is stored as zero (photometric 0); save it with black as zero")
    orientation = image.getexif().get(_ORIENTATION, 1)
    if orientation != 1:
        raise ImageError(
            f"{path}: EXIF orientation {orientation}: viewers show it turned, and labels may be drawn either way; turn the "
            "pixels (mogrify -auto-orient) and check that the labels fit"
        )


def _bits(image: ImageFile, content: bytes, kind: str) -> int:
    """Return the bits of one sample. Pillow shortens 16-bit colours and stretches values of 2 and 4 bits without a word."""
    if kind == "PNG":
        depth, colour = content[24], content[25]  # IHDR comes first and has a fixed place
        return 8 if colour == _PALETTE else depth
    if isinstance(image, TiffImageFile):
        return int(max(image.tag_v2.get(_BITS, (1,))))
    return 8


def _samples(image: ImageFile) -> int | None:
    """Return the samples per pixel that a TIFF declares; Pillow drops some of those that have no mode of their own."""
    return int(image.tag_v2.get(_SAMPLES, 1)) if isinstance(image, TiffImageFile) else None
