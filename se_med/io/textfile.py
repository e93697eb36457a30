"""Reading a text file that comes from elsewhere: a regular file, of a size that it can have, in UTF-8."""

from __future__ import annotations

import errno
import stat
from pathlib import Path

from se_med.io.atomic import PathLike

MOST_TEXT = 50_000_000
"""Bytes of the largest table or JSON file that is read."""


def read_text(path: PathLike, most: int = MOST_TEXT, encoding: str = "utf-8") -> str:
    """Read a text file whole.

    Args:
        path: the file.
        most: largest size in bytes.
        encoding: `utf-8`, or `utf-8-sig` where a mark may stand at its beginning.

    Raises:
        OSError: it is missing, cannot be read, is larger, or is no regular file: opening a pipe would wait for ever.
        UnicodeDecodeError: it is no text.
    """
    path = Path(path)
    found = path.stat()
    if not stat.S_ISREG(found.st_mode):
        kind = "is a folder" if stat.S_ISDIR(found.st_mode) else "is a pipe or device"
        raise OSError(errno.EINVAL, f"{kind}, not a file", str(path))
    if found.st_size > most:
        raise OSError(errno.EFBIG, f"larger than {most // 1_000_000} MB", str(path))
    return path.read_text(encoding=encoding)
