"""The bytes of image files: plain or compressed, read to the end, checked, and never more than the header announces.

A compressed stream holds its checksum behind the last voxel, so it is drained to its end: readers that stop after the last voxel
accept damaged files.
"""

from __future__ import annotations

import hashlib
import io
import os
import stat
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from gzip import BadGzipFile
from pathlib import Path
from typing import IO, Any

import numpy as np
from isal import igzip, igzip_lib

from se_med.errors import ImageError
from se_med.io.header import HEADER_BYTES, parse_header
from se_med.io.stored import Content, Stored

MOST_PADDING = 4096  # zero bytes tolerated behind the last voxel
_DEFLATE_RATIO = 1032  # deflate cannot compress better than this
AGAIN = "copy or export the file again"


class HashedFile(io.RawIOBase):
    """A file that feeds everything read from it to a sha256 digest."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file = file
        self.digest = hashlib.sha256()

    def readable(self) -> bool:
        """Always true."""
        return True

    def readinto(self, buffer: Any) -> int:
        """Fill a buffer; returns the number of bytes, 0 at the end."""
        count: int = self._file.readinto(buffer)  # type: ignore[attr-defined]  # every unbuffered binary file has it
        self.digest.update(memoryview(buffer)[:count])
        return count


@dataclass(frozen=True)
class _Opened:
    file: HashedFile
    content: Any  # the file itself, or the gzip stream in it
    size: int  # bytes on disk
    packed: bool


def read_header(path: Path) -> Stored:
    """Read and check the header of a NIfTI file, and that the file can hold what the header announces.

    Raises:
        ImageError: the file is missing, no regular file, truncated, or its header is not usable. Damage behind the header is
            not looked for.
    """
    with _opened(path) as opened:
        stored = parse_header(read(opened.content, HEADER_BYTES), path)
        check_size(stored.file_bytes, opened.size, opened.size if opened.packed else None, path)
        return stored


def read_voxels(path: Path) -> Content:
    """Read a whole NIfTI file, header and voxels in one stream, and verify it to its last byte.

    Raises:
        ImageError: the file is missing, no regular file, truncated, longer than its header says, damaged, or not usable.
    """
    with _opened(path) as opened:
        start = read(opened.content, HEADER_BYTES)
        stored = parse_header(start, path)
        check_size(stored.file_bytes, opened.size, opened.size if opened.packed else None, path)
        check_memory(stored, path)
        content = np.empty(stored.file_bytes, dtype=np.uint8)
        filled = min(len(start), stored.file_bytes)
        content[:filled] = np.frombuffer(start, dtype=np.uint8, count=filled)
        filled += fill(opened.content, content.data[filled:])
        if filled < stored.file_bytes:
            raise ImageError(f"{path}: truncated: {filled} bytes, but the header announces {stored.file_bytes}; {AGAIN}")
        rest = start[stored.file_bytes :]
        rest += read(opened.content, MOST_PADDING + 1 - len(rest))  # reaching the end verifies the checksum
        check_end(rest, stored.file_bytes, path)
        return Content(stored, stored.arranged(content[stored.offset :]), opened.file.digest.hexdigest())


def read_small_file(path: Path, most: int) -> bytes:
    """Read a file whole.

    Args:
        path: a regular file.
        most: largest size in bytes.

    Raises:
        ImageError: the file is missing, no regular file, empty, larger, or cannot be read.
    """
    try:
        size = regular_size(path)
        if size > most:
            raise ImageError(f"{path}: {size / 1e9:.1f} GB, at most {most / 1e9:.1f} are read; cut the image into tiles")
        return path.read_bytes()
    except OSError as error:
        raise ImageError(f"{path}: cannot be read: {error.strerror or error}; check the path and its rights") from None


@contextmanager
def named_faults(path: Path) -> Iterator[None]:
    """Turn every way in which the bytes of a file can be bad into an `ImageError`."""
    try:
        yield
    except EOFError:
        raise ImageError(f"{path}: truncated: the compressed stream ends early; {AGAIN}") from None
    except BadGzipFile as error:
        fault = "wrong checksum" if "CRC" in str(error) or "length" in str(error) else "damaged data"
        raise ImageError(f"{path}: {fault} in the compressed stream ({error}); {AGAIN}") from None
    except (igzip_lib.IsalError, zlib.error) as error:  # type: ignore[misc]  # isal's stub declares the class as an instance
        raise ImageError(f"{path}: damaged data in the compressed stream ({error}); {AGAIN}") from None
    except MemoryError:
        raise ImageError(f"{path}: does not fit into memory; crop or resample the image") from None
    except OSError as error:
        raise ImageError(f"{path}: cannot be read: {error.strerror or error}; check the path and its rights") from None


@contextmanager
def _opened(path: Path) -> Iterator[_Opened]:
    """Open a NIfTI file."""
    packed = path.name.lower().endswith(".gz")
    with named_faults(path):
        size = regular_size(path)
        with path.open("rb", buffering=0) as raw:
            magic = raw.read(2)
            raw.seek(0)
            if packed and magic != b"\x1f\x8b":
                raise ImageError(f"{path}: not gzip: it starts with {magic!r}; if it is a plain NIfTI file, name it .nii")
            if not packed and magic == b"\x1f\x8b":
                raise ImageError(f"{path}: is gzip compressed; name it .nii.gz")
            file = HashedFile(raw)
            if not packed:
                yield _Opened(file, file, size, packed)
                return
            with igzip.IGzipFile(fileobj=file, mode="rb") as content:
                yield _Opened(file, content, size, packed)


def regular_size(path: Path) -> int:
    """Size of a regular file; asks before opening, because opening a pipe would wait for a writer forever."""
    try:
        found = path.stat()
    except FileNotFoundError:
        raise ImageError(f"{path}: no such file; check the path") from None
    except ValueError:
        raise ImageError(f"{str(path)!r}: not a path; check the name") from None
    if stat.S_ISDIR(found.st_mode):
        raise ImageError(f"{path}: is a folder, not an image file; name a file in it")
    if not stat.S_ISREG(found.st_mode):
        raise ImageError(f"{path}: is a pipe or device, not a file; copy the image to a file")
    if found.st_size == 0:
        raise ImageError(f"{path}: the file is empty; {AGAIN}")
    return found.st_size


def check_size(announced: int, size: int, packed: int | None, path: Path) -> None:
    """Refuse sizes that cannot be true, before anything of that size is allocated.

    Args:
        announced: bytes of the unpacked content.
        size: bytes of the file.
        packed: bytes of its compressed part; None where nothing is compressed.
        path: the file.
    """
    most = size if packed is None else size - packed + packed * _DEFLATE_RATIO
    if announced > most:
        raise ImageError(
            f"{path}: truncated: the header announces {announced} bytes, the file of {size} bytes cannot hold more than {most}; "
            f"{AGAIN}"
        )
    if packed is None and size > announced + MOST_PADDING:
        raise ImageError(f"{path}: {size} bytes, longer than the {announced} its header announces; {AGAIN}")


def check_end(rest: bytes, announced: int, path: Path) -> None:
    """Refuse a file that goes on behind its voxels with more than a few zeros."""
    if len(rest) > MOST_PADDING or any(rest):
        raise ImageError(f"{path}: longer than the {announced} bytes its header announces; {AGAIN}")


def check_memory(stored: Stored, path: Path) -> None:
    """Refuse an image that fits the file but not the machine: a small file can unpack to a thousand times its size."""
    if not hasattr(os, "sysconf"):
        return
    needed = stored.needed_bytes
    present = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    if needed > present:
        raise ImageError(f"{path}: needs {needed / 1e9:.1f} GB of memory, the machine has {present / 1e9:.1f}; crop the image")


def read(stream: Any, count: int) -> bytes:
    """Read `count` bytes, or as many as there are."""
    buffer = bytearray(count)
    return bytes(buffer[: fill(stream, memoryview(buffer))])


def fill(stream: Any, target: memoryview) -> int:
    """Fill `target` from a stream; returns the bytes filled, fewer at the stream's end."""
    filled = 0
    while filled < len(target):
        count = stream.readinto(target[filled:])
        if not count:
            break
        filled += count
    return filled
