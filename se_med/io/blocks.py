"""The voxels behind a header that is not compressed itself: NRRD, MetaImage, and the `.img` file of a NIfTI pair."""

from __future__ import annotations

import hashlib
import io
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from isal import igzip

from se_med.errors import ImageError
from se_med.io.filebytes import (
    AGAIN,
    MOST_PADDING,
    HashedFile,
    check_end,
    check_memory,
    check_size,
    fill,
    named_faults,
    read,
    regular_size,
)
from se_med.io.stored import Content, Packing, Stored

_CHUNK = 1 << 16  # bytes read at once from a zlib stream


class _ZlibStream(io.RawIOBase):
    """The unpacked bytes of a zlib stream; its checksum is verified where it ends."""

    def __init__(self, file: HashedFile) -> None:
        self._file = file
        self._inflate = zlib.decompressobj()
        self._packed = b""

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        while not self._inflate.eof:
            packed = self._packed or read(self._file, _CHUNK)
            unpacked = self._inflate.decompress(packed, len(buffer))
            self._packed = self._inflate.unconsumed_tail
            if not packed and not unpacked:
                raise EOFError
            if unpacked:
                buffer[: len(unpacked)] = unpacked
                return len(unpacked)
        return 0

    def rest(self) -> bytes:
        """What follows the stream in its file, up to a little more than what is tolerated."""
        return self._inflate.unused_data + read(self._file, MOST_PADDING + 1)


def read_start(path: Path, most: int) -> bytes:
    """Read the first `most` bytes of a file, or all of a shorter one.

    Raises:
        ImageError: the file is missing, no regular file, empty, or cannot be read.
    """
    with named_faults(path):
        regular_size(path)
        with path.open("rb", buffering=0) as raw:
            return read(raw, most)


def check_block(stored: Stored, path: Path) -> None:
    """Check, without reading it, that the file of the voxels is there and can hold what the header announces.

    Args:
        stored: the header.
        path: the file of the header.

    Raises:
        ImageError: it is missing, no regular file, too short, or longer than announced.
    """
    file = stored.data or path
    with named_faults(file):
        _check_block_size(stored, regular_size(file), file)


def read_block(stored: Stored, path: Path) -> Content:
    """Read the voxels behind a header that is not compressed itself, and verify their file to its last byte.

    Args:
        stored: the header; its voxels are in `stored.data` or, behind the header, in `path`.
        path: the file of the header.

    Raises:
        ImageError: the file of the voxels is missing, no regular file, truncated, longer than announced, or damaged.
    """
    file = stored.data or path
    with named_faults(file):
        size = regular_size(file)
        _check_block_size(stored, size, file)
        check_memory(stored, file)
        with file.open("rb", buffering=0) as raw:
            hashed = HashedFile(raw)
            read(hashed, stored.offset)
            with _unpacked(hashed, stored.packing) as stream:
                content = np.empty(stored.voxel_bytes, dtype=np.uint8)
                filled = fill(stream, content.data)
                if filled < stored.voxel_bytes:
                    raise ImageError(
                        f"{file}: truncated: {filled} bytes of voxels, the header announces {stored.voxel_bytes}; {AGAIN}"
                    )
                rest = read(stream, MOST_PADDING + 1)  # reaching the end verifies the checksum
                check_end(rest or (stream.rest() if isinstance(stream, _ZlibStream) else b""), stored.file_bytes, file)
    digest = hashed.digest.hexdigest()
    if stored.data is not None:
        digest = hashlib.sha256(f"{_digest_of(path)}{digest}".encode()).hexdigest()
    return Content(stored, stored.arranged(content), digest)


@contextmanager
def _unpacked(file: HashedFile, packing: Packing) -> Iterator[Any]:
    """Yield the stream of unpacked bytes from where a file is read to its end."""
    if packing == "gzip":
        with igzip.IGzipFile(fileobj=file, mode="rb") as stream:
            yield stream
    else:
        yield _ZlibStream(file) if packing == "zlib" else file


def _digest_of(path: Path) -> str:
    with named_faults(path), path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _check_block_size(stored: Stored, size: int, path: Path) -> None:
    check_size(stored.file_bytes, size, None if stored.packing == "none" else max(0, size - stored.offset), path)
