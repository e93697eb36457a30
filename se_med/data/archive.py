"""Unpacking tar and zip archives from elsewhere: regular files below one folder, up to a limit, and nothing else."""

from __future__ import annotations

import stat
import tarfile
import zipfile
import zlib
from collections.abc import Iterator
from gzip import BadGzipFile
from lzma import LZMAError
from pathlib import Path, PurePosixPath
from typing import IO

from se_med.errors import RunError

_MOST_ENTRIES = 200_000
_CHUNK = 1 << 20
_DAMAGE = (tarfile.TarError, zipfile.BadZipFile, BadGzipFile, zlib.error, LZMAError, EOFError, NotImplementedError)


def unpack(archive: Path, folder: Path, limit: int) -> None:
    """Unpack a tar (plain or compressed) or zip archive into an existing, empty folder.

    What macOS adds (`._*`, `.DS_Store`, `__MACOSX`) is left out. Rights, owners and times in the archive are ignored.

    Args:
        archive: the file; its kind is told by its first bytes.
        folder: where to unpack.
        limit: bytes that all files together may have.

    Raises:
        RunError: the archive is damaged, larger than `limit`, or holds a link, a device, a doubled name or a path that
            would lead out of `folder`. What was unpacked until then stays.
        OSError: the disk is full or cannot be written.
    """
    with archive.open("rb") as file:
        packed = file.read(4)
    entries = _zip_entries(archive) if packed == b"PK\x03\x04" else _tar_entries(archive)
    left = limit
    try:
        for number, (name, content) in enumerate(entries):
            if number >= _MOST_ENTRIES:
                raise RunError(f"{archive.name}: more than {_MOST_ENTRIES} entries; refused")
            relative = _safe_path(name, archive)
            if _from_macos(relative):
                continue
            target = folder / relative
            if content is None:
                target.mkdir(parents=True, exist_ok=True)
                continue
            target.parent.mkdir(parents=True, exist_ok=True)
            left -= _copy(content, target, left, archive)
    except _DAMAGE as error:
        reason = " ".join(str(error).split())
        raise RunError(f"{archive.name}: the archive is damaged ({reason}); download it again") from None
    except (FileExistsError, NotADirectoryError) as error:
        raise RunError(f"{archive.name}: two entries have the name {error.filename}; refused") from None


def _tar_entries(archive: Path) -> Iterator[tuple[str, IO[bytes] | None]]:
    with tarfile.open(archive, "r:*") as tar:
        for member in tar:
            if member.isdir():
                yield member.name, None
            elif member.isreg():
                content = tar.extractfile(member)
                if content is not None:
                    yield member.name, content
            else:
                kind = "link" if member.issym() or member.islnk() else "device or other special file"
                raise RunError(f"{archive.name}: {member.name!r} is a {kind}; refused")


def _zip_entries(archive: Path) -> Iterator[tuple[str, IO[bytes] | None]]:
    with zipfile.ZipFile(archive) as packed:
        for info in packed.infolist():
            if not info.filename:
                raise zipfile.BadZipFile("an entry without a name")
            mode = info.external_attr >> 16
            if info.flag_bits & 0x1:
                raise RunError(f"{archive.name}: {info.filename!r} is encrypted; refused")
            if stat.S_IFMT(mode) not in (0, stat.S_IFREG, stat.S_IFDIR):
                kind = "link" if stat.S_ISLNK(mode) else "device or other special file"
                raise RunError(f"{archive.name}: {info.filename!r} is a {kind}; refused")
            if info.is_dir():
                yield info.filename, None
            else:
                try:
                    content = packed.open(info)
                except (OSError, ValueError) as error:  # an entry that is said to lie before the beginning
                    raise zipfile.BadZipFile(str(error)) from None
                with content:
                    yield info.filename, content


def _safe_path(name: str, archive: Path) -> PurePosixPath:
    """Refuse names that could lead out of the folder, on any system: these never occur in an honest archive."""
    path = PurePosixPath(name)
    if path.is_absolute() or ".." in path.parts or any(mark in name for mark in ("\\", ":", "\0")):
        raise RunError(f"{archive.name}: {name!r} leads out of the folder; refused")
    return path


def _from_macos(path: PurePosixPath) -> bool:
    return path.name.startswith("._") or path.name == ".DS_Store" or "__MACOSX" in path.parts


def _copy(content: IO[bytes], target: Path, left: int, archive: Path) -> int:
    """Write one file; sizes are counted as they arrive, because those that an archive announces may lie."""
    written = 0
    with target.open("xb") as file:
        while chunk := content.read(_CHUNK):
            written += len(chunk)
            if written > left:
                raise RunError(f"{archive.name}: unpacks to more than the card's limit; refused at {target.name!r}")
            file.write(chunk)
    return written
