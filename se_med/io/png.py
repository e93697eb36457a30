"""Whether a PNG holds all the pixels that its header announces; decoders fill up what is missing with zeros, without a word."""

from __future__ import annotations

import zlib
from pathlib import Path

from se_med.errors import ImageError

BLOCK = 1 << 20
_FIRST_CHUNK = 8  # behind the signature
_SAMPLES = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}  # values of a pixel, by colour type
_PASSES = ((0, 0, 8, 8), (4, 0, 8, 8), (0, 4, 4, 8), (2, 0, 4, 4), (0, 2, 2, 4), (1, 0, 2, 2), (0, 1, 1, 2))
"""Adam7: first column, first row, and steps between columns and rows of every pass."""


def check_png_pixels(content: bytes, path: Path) -> None:
    """Refuse a PNG whose compressed data end before its last row. Nothing is kept of what is unpacked.

    Args:
        content: of the file; its header has been read without complaint.
        path: for the message.

    Raises:
        ImageError: there are fewer bytes of pixels than columns and rows need.
        zlib.error: the compressed data are damaged.
    """
    needed, found = _announced(content), 0
    unpacking = zlib.decompressobj()
    for packed in _image_data(content):
        while packed and found < needed and not unpacking.eof:
            found += len(unpacking.decompress(packed, BLOCK))
            packed = unpacking.unconsumed_tail
    if found < needed and not unpacking.eof:  # what it still holds, a few kilobytes
        found += len(unpacking.flush())
    if found < needed:
        columns, rows = _size(content)
        raise ImageError(
            f"{path}: truncated: the header announces {columns}x{rows} pixels, which are {needed} bytes unpacked, and there are "
            f"{found}; copy or export the file again"
        )


def _size(content: bytes) -> tuple[int, int]:
    return int.from_bytes(content[16:20], "big"), int.from_bytes(content[20:24], "big")


def _announced(content: bytes) -> int:
    """Return the bytes of all rows, unpacked; each has one more, that names its filter."""
    columns, rows = _size(content)
    bits = content[24] * _SAMPLES.get(content[25], 1)
    passes = _PASSES if content[28] else ((0, 0, 1, 1),)
    total = 0
    for column, row, across, down in passes:
        width, height = -(-(columns - column) // across), -(-(rows - row) // down)
        if width > 0 and height > 0:
            total += height * (1 + -(-width * bits // 8))
    return total


def _image_data(content: bytes) -> list[bytes]:
    """Return the bodies of the chunks that hold pixels."""
    found, at = [], _FIRST_CHUNK
    while at + 8 <= len(content):
        length = int.from_bytes(content[at : at + 4], "big")
        if content[at + 4 : at + 8] == b"IDAT":
            found.append(content[at + 8 : at + 8 + length])
        at += 12 + length
    return found
