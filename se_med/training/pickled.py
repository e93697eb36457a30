"""What a checkpoint file may hold, checked before torch opens it: tensors and plain values, stored as they are.

`torch.load(weights_only=True)` runs no code, but it allocates what a file of a few bytes asks for, and takes a tensor's word for
how long its storage is (CVE-2026-24747 was of this kind). So the archive's entries must be stored uncompressed with the right
checksums, and its pickle may use only what our own checkpoints use; it is read here as a list of instructions, never carried out.
"""

from __future__ import annotations

import pickletools
import zipfile
from pathlib import Path
from typing import IO

MOST_PICKLE = 50_000_000
"""Bytes of the longest list of instructions; those of the largest network take less than one."""

_INSTRUCTIONS = frozenset(
    (
        *("PROTO", "STOP", "MARK", "GLOBAL", "REDUCE", "BUILD", "BINPERSID", "BINPUT"),
        *("LONG_BINPUT", "BINGET", "LONG_BINGET", "BINUNICODE", "BININT", "BININT1", "BININT2", "LONG1"),
        *("BINFLOAT", "NONE", "NEWTRUE", "NEWFALSE", "EMPTY_DICT", "EMPTY_LIST", "EMPTY_TUPLE", "TUPLE"),
        *("TUPLE1", "TUPLE2", "TUPLE3", "APPEND", "APPENDS", "SETITEM", "SETITEMS"),
    )
)
_BYTES = {  # of one number of each kind of storage
    **dict.fromkeys(("torch BoolStorage", "torch ByteStorage", "torch CharStorage"), 1),
    **dict.fromkeys(("torch HalfStorage", "torch BFloat16Storage", "torch ShortStorage"), 2),
    **dict.fromkeys(("torch FloatStorage", "torch IntStorage"), 4),
    **dict.fromkeys(("torch DoubleStorage", "torch LongStorage"), 8),
}
_GLOBALS = frozenset({"torch._utils _rebuild_tensor_v2", "collections OrderedDict", *_BYTES})
_PUT, _GET = ("BINPUT", "LONG_BINPUT"), ("BINGET", "LONG_BINGET")


def fault_of(path: Path | IO[bytes]) -> str | None:
    """Return what is wrong with a file that `torch.save` should have written, in a few words; None where nothing is.

    Raises:
        OSError: it cannot be read.
        zipfile.BadZipFile, NotImplementedError: it is no zip archive, or one of a strange kind.
        ValueError: its pickle is no pickle.
    """
    with zipfile.ZipFile(path) as archive:
        entries = {entry.filename: entry for entry in archive.infolist()}
        if len(entries) < len(archive.infolist()):
            return "two entries have one name"
        for entry in entries.values():
            if entry.compress_type != zipfile.ZIP_STORED or entry.compress_size != entry.file_size:
                return f"entry {entry.filename!r} is compressed"
        damaged = archive.testzip()
        if damaged is not None:
            return f"checksum of {damaged!r} is wrong"
        pickles = [name for name in entries if name.endswith("data.pkl")]
        if len(pickles) != 1 or pickles[0].count("/") != 1:
            return "it has no data.pkl"
        if entries[pickles[0]].file_size > MOST_PICKLE:
            return "its data.pkl is too large"
        folder = pickles[0].removesuffix("data.pkl")
        sizes = {name.removeprefix(f"{folder}data/"): entry.file_size for name, entry in entries.items()}
        return _fault_of_pickle(archive.read(pickles[0]), sizes)


def _fault_of_pickle(content: bytes, sizes: dict[str, int]) -> str | None:
    """Return what is wrong with a pickle whose tensors lie in entries of these sizes."""
    memo: dict[object, object] = {}
    last: list[tuple[str, object]] = []  # the instructions that made a storage, those that only remember left out
    for instruction, argument, _ in pickletools.genops(content):
        name = instruction.name
        if name not in _INSTRUCTIONS:
            return f"it holds more than tensors and plain values ({name})"
        if name == "GLOBAL" and argument not in _GLOBALS:
            return f"it holds more than tensors and plain values ({argument})"
        if name in _PUT:
            memo[argument] = last[-1][1] if last else None
            continue
        if name == "BINPERSID" and (fault := _fault_of_storage(last[-7:], sizes)) is not None:
            return fault
        value = memo.get(argument) if name in _GET else argument
        last = [*last[-7:], (name, value)]
    return None


def _fault_of_storage(last: list[tuple[str, object]], sizes: dict[str, int]) -> str | None:
    """Return what is wrong with a storage that is as long as the instructions say, given the entries there are."""
    if len(last) < 7 or (last[0][0], last[1][1], last[6][0]) != ("MARK", "storage", "TUPLE"):
        return "a tensor has no storage"
    kind, key, count = last[2][1], last[3][1], last[5][1]
    if kind not in _BYTES or not isinstance(key, str) or type(count) is not int or key not in sizes:
        return "a tensor has no storage"
    if count * _BYTES[str(kind)] != sizes[key]:
        return f"storage {key!r} has {sizes[key]} bytes, its tensor {count * _BYTES[str(kind)]}"
    return None
