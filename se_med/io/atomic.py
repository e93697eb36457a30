"""Files that appear whole or not at all.

Every file is written under a temporary name in its own folder, flushed to the disk and then renamed, so that a reader, a
full disk, a crash or a second writer never leaves half a file under the final name. A process that was killed leaves only its
temporary, which `sweep_temporaries` removes later.
"""

from __future__ import annotations

import json
import os
import re
import secrets
import shutil
import socket
import time
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from se_med.errors import RunError

PathLike = str | os.PathLike[str]

_TEMPORARY = re.compile(r"^\..+\.(?P<pid>\d+)\.(?P<host>[0-9a-f]{8})[0-9a-f]{8}\.tmp$")
_STALE_SECONDS = 24 * 3600.0
_LONGEST_NAME = 200  # file systems allow 255 bytes; the temporary's suffix needs the rest


@contextmanager
def replacing(path: PathLike) -> Iterator[Path]:
    """Yield a temporary path in the folder of `path` and rename it to `path` when the block ends well.

    The file is flushed to the disk before the rename and the folder after it. When the block raises, the temporary is removed
    and whatever was at `path` before stays as it was.

    Args:
        path: the final name. Its folder must exist.

    Yields:
        The temporary path. The block must create a file there.

    Raises:
        RunError: the file cannot be written: no space, no permission, no such folder, ...
    """
    target = Path(path)
    temporary = temporary_path(target)
    try:
        yield temporary
        _flush(temporary, os.O_RDWR)
        temporary.replace(target)
        flush_folder(target.parent)
    except OSError as error:
        raise RunError(
            f"{target}: cannot be written: {error.strerror or error}; check the folder, its free space and rights"
        ) from error
    finally:
        temporary.unlink(missing_ok=True)


def write_bytes(path: PathLike, data: bytes) -> None:
    """Write `data` to `path` atomically.

    Raises:
        RunError: the file cannot be written.
    """
    with replacing(path) as temporary:
        temporary.write_bytes(data)


def write_text(path: PathLike, text: str) -> None:
    """Write `text` to `path` atomically, as UTF-8 with the line ends it has.

    What is no text, as it may be in the name of a file, is written out.


    Raises:
        RunError: the file cannot be written.
    """
    write_bytes(path, text.encode("utf-8", errors="backslashreplace"))


def write_json(path: PathLike, data: Any) -> None:
    """Write `data` to `path` atomically, as indented JSON with the key order it has.

    Raises:
        RunError: the file cannot be written.
        ValueError: `data` holds NaN or infinity, which JSON does not have; write null instead.
        TypeError: `data` holds something that is not JSON.
    """
    write_text(path, json.dumps(data, indent=2, ensure_ascii=False, allow_nan=False) + "\n")


def sweep_temporaries(folder: PathLike) -> int:
    """Remove the temporary files and folders that killed processes left in `folder` (not in its subfolders).

    A temporary goes when its process on this machine has ended, or when nobody wrote to it for a day. Those of running
    processes and of other machines that share the folder stay.

    Returns:
        Number of files and folders removed; 0 when there is no such folder.
    """
    removed = 0
    try:
        entries = list(Path(folder).iterdir())
    except (FileNotFoundError, NotADirectoryError):
        return 0
    for entry in entries:
        found = _TEMPORARY.match(entry.name)
        if found is None:
            continue
        try:
            old = time.time() - entry.lstat().st_mtime > _STALE_SECONDS
            if old or (found["host"] == _host() and not _runs(int(found["pid"]))):
                _remove(entry)
                removed += 1
        except OSError:  # another sweep, or its own writer, was faster; or the folder may only be read
            continue
    return removed


def _remove(entry: Path) -> None:
    if entry.is_dir() and not entry.is_symlink():
        shutil.rmtree(entry, ignore_errors=True)
    else:
        entry.unlink()


def temporary_path(target: Path) -> Path:
    """A fresh temporary name beside `target`: `.{name}.{pid}.{random}.tmp`. Nothing is created."""
    name = os.fsdecode(os.fsencode(target.name)[:_LONGEST_NAME])
    # The first half of the random part names the machine, so that a sweep on a shared disk can tell whose process id it is.
    return target.with_name(f".{name}.{os.getpid()}.{_host()}{secrets.token_hex(4)}.tmp")


def flush_folder(folder: Path) -> None:
    """Flush a folder's entries to the disk, so that a rename in it survives a power cut."""
    if os.name == "posix":  # other systems cannot open a folder
        _flush(folder, os.O_RDONLY)


def _flush(path: Path, mode: int) -> None:
    descriptor = os.open(path, mode)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _host() -> str:
    return f"{zlib.crc32(socket.gethostname().encode()):08x}"


def _runs(pid: int) -> bool:
    if os.name != "posix":  # there, os.kill would end the process instead of asking
        return True
    try:
        os.kill(pid, 0)
    except (ProcessLookupError, OverflowError):
        return False
    except PermissionError:
        return True
    return True
