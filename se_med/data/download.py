"""Fetching a public data set by its card: download, verify, unpack, and only then let the folder appear."""

from __future__ import annotations

import hashlib
import http.client
import json
import shutil
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from se_med.data.archive import unpack
from se_med.data.cards import Archive, Card
from se_med.errors import RunError, UsageError
from se_med.io.atomic import flush_folder, sweep_temporaries, temporary_path, write_json

Progress = Callable[[int, int | None], None]
"""Called with the bytes received and the bytes expected (None when the server does not say)."""

_RECEIPT = ".card.json"
_ATTEMPTS = 3
_PAUSE_SECONDS = 2.0
_TIMEOUT_SECONDS = 60.0
_CHUNK = 1 << 18
_PASSING = (408, 425, 429, 500, 502, 503, 504)


class _PassingError(Exception):
    """A fault of the network that may be gone at the next attempt."""


def get_dataset(card: Card, folder: Path, progress: Progress | None = None) -> Path:
    """Download a data set to `folder / card.name`, unless a complete copy is there.

    The archive is verified before it is unpacked, and the folder appears by one rename at the end: whatever interrupts, there is
    either a complete data set or none. A broken download starts again from its first byte.

    Args:
        card: the data set.
        folder: where the data set's own folder is made.
        progress: called during the download.

    Returns:
        The data set's folder.

    Raises:
        UsageError: something else is at that place, or `folder` is a file.
        RunError: no network, no such file on the server, wrong checksum, damaged or hostile archive, disk full.
    """
    target = Path(folder) / card.name
    if target.exists() or target.is_symlink():
        return _existing(card, target)
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        sweep_temporaries(target.parent)
        temporary = temporary_path(target)
        temporary.mkdir()
    except OSError as error:
        raise UsageError(f"{folder}: cannot be used as a folder: {error.strerror or error}; choose another") from None
    try:
        archive = temporary / f"{card.name}.archive"
        _download(card, archive, progress)
        content = temporary / "content"
        content.mkdir()
        unpack(archive, content, card.archive.unpacked_limit)
        _publish(card, content / card.archive.folder, target)
    except OSError as error:
        raise RunError(f"{target}: cannot be written: {error.strerror or error}; check the free space and rights") from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    return target


def _existing(card: Card, target: Path) -> Path:
    """Accept a copy that this module made of the same archive and that still has all its files."""
    advice = "remove it to download the data set again, or choose another folder"
    try:
        receipt = json.loads((target / _RECEIPT).read_text(encoding="utf-8"))
        expected = receipt["checksum"], receipt["files"], receipt["bytes"]
    except (OSError, ValueError, KeyError, TypeError):
        raise UsageError(f"{target}: exists and was not made by a download; {advice}") from None
    found = (card.archive.checksum, *_contents(target))
    if found != expected:
        raise UsageError(
            f"{target}: is no complete copy: {found[1]} files of {found[2]} bytes, expected {expected[1]} of {expected[2]}"
            f"{'' if found[0] == expected[0] else ', and of another archive'}; {advice}"
        )
    return target


def _contents(folder: Path) -> tuple[int, int]:
    """Number of files of a data set and their bytes, the receipt not counted."""
    sizes = [path.stat().st_size for path in folder.rglob("*") if path.is_file() and path.name != _RECEIPT]
    return len(sizes), sum(sizes)


def _publish(card: Card, made: Path, target: Path) -> None:
    if not made.is_dir():
        raise RunError(f"{card.name}: the archive has no folder {card.archive.folder!r}; the card needs an update")
    files, size = _contents(made)
    write_json(made / _RECEIPT, {"name": card.name, "checksum": card.archive.checksum, "files": files, "bytes": size})
    try:
        made.rename(target)
    except OSError:
        if not target.exists():
            raise
        _existing(card, target)  # another process was faster
        return
    flush_folder(target.parent)


def _download(card: Card, archive: Path, progress: Progress | None) -> None:
    """Try every source, the unsteady ones again, until one delivers the right bytes."""
    faults: list[str] = []
    for url in map(str, card.archive.urls):
        for attempt in range(_ATTEMPTS):
            if attempt:
                time.sleep(_PAUSE_SECONDS * attempt)
            try:
                digest = _receive(url, archive, card.archive, progress)
            except _PassingError as error:
                fault = str(error)
                continue
            except RunError as error:
                fault = error.message
                break
            if digest == card.archive.checksum:
                return
            fault = f"{url}: wrong checksum {digest}, expected {card.archive.checksum}"
            break
        faults.append(fault)
    raise RunError(f"{'; '.join(faults)}; check the network and try again, or get the data set from {card.homepage}")


def _receive(url: str, archive: Path, wanted: Archive, progress: Progress | None) -> str:
    """Download one file and return its digest, written as the card's checksum is."""
    method = wanted.checksum.partition(":")[0]
    digest = hashlib.new(method, usedforsecurity=False)
    received = 0
    with _network(url), _opener().open(url, timeout=_TIMEOUT_SECONDS) as response, archive.open("wb") as file:
        announced = response.headers.get("Content-Length", "")
        expected = int(announced) if announced.isdigit() else None
        _check_room(url, archive, expected, wanted)
        while chunk := response.read(_CHUNK):
            received += len(chunk)
            if received > wanted.unpacked_limit:
                raise RunError(f"{url}: larger than the card's limit of {wanted.unpacked_limit} bytes")
            digest.update(chunk)
            _write(file, chunk, archive)
            if progress is not None:
                progress(received, expected)
        if expected is not None and received < expected:
            raise _PassingError(f"{url}: the connection ended after {received} of {expected} bytes")
    return f"{method}:{digest.hexdigest()}"


@contextmanager
def _network(url: str) -> Iterator[None]:
    """Sort the faults of a transfer into those worth another attempt and those that stay."""
    try:
        yield
    except urllib.error.HTTPError as error:
        fault = f"{url}: the server answers {error.code} {error.reason}"
        error.close()
        if error.code in _PASSING:
            raise _PassingError(fault) from None
        raise RunError(fault) from None
    except urllib.error.URLError as error:
        raise _PassingError(f"{url}: cannot be reached ({error.reason})") from None
    except (OSError, http.client.HTTPException) as error:
        raise _PassingError(f"{url}: the connection broke ({error or type(error).__name__})") from None


def _opener() -> urllib.request.OpenerDirector:
    """An opener for http and https alone; the default one would follow a redirect to ftp."""
    opener = urllib.request.OpenerDirector()
    for handler in (
        urllib.request.ProxyHandler,
        urllib.request.HTTPHandler,
        urllib.request.HTTPSHandler,
        urllib.request.HTTPRedirectHandler,
        urllib.request.HTTPErrorProcessor,
        urllib.request.HTTPDefaultErrorHandler,
        urllib.request.UnknownHandler,
    ):
        opener.add_handler(handler())
    opener.addheaders = [("User-Agent", "se-med")]
    return opener


def _check_room(url: str, archive: Path, expected: int | None, wanted: Archive) -> None:
    if expected is None:
        return
    if expected > wanted.unpacked_limit:
        raise RunError(f"{url}: {expected} bytes are more than the card's limit of {wanted.unpacked_limit}")
    free = shutil.disk_usage(archive.parent).free
    if 2 * expected > free:  # the archive and what comes out of it
        raise RunError(f"{archive.parent.parent}: no space: {2 * expected} bytes needed, {free} free")


def _write(file: IO[bytes], chunk: bytes, archive: Path) -> None:
    try:
        file.write(chunk)
        file.flush()  # so that a full disk shows here, and not as a fault of the network
    except OSError as error:
        raise RunError(f"{archive.parent.parent}: cannot be written: {error.strerror or error}") from None
