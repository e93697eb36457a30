"""What can happen to a command: signals, a full disk, a limit on files, read-only folders, a helper process that dies."""

from __future__ import annotations

import contextlib
import os
import random
import resource
import signal
import subprocess
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from benchmarks._launch import Command, children_of
from benchmarks._tasks import Place

FILLER = "filler.txt"
SMALL_DISK = "64m"


def _nothing(place: Place) -> None:
    """Nothing has to be undone."""


@dataclass(frozen=True)
class Harm:
    """One kind of interruption.

    Attributes:
        name: what the table calls it.
        do: does it; returns whether there was anything to do it to.
        codes: exit codes that a command may have then.
        weight: how often it is drawn.
        undo: makes the place usable again.
        signal: whether the command ends by it at once, or after a checkpoint.
        graceful: whether no finished work may be lost.
        helper: whether it hits a process that the command has started.
        small_disk: whether it needs a disk of its own.
    """

    name: str
    do: Callable[[Command, Place, random.Random], bool]
    codes: frozenset[int | None]
    weight: float
    undo: Callable[[Place], None] = _nothing
    signal: bool = False
    graceful: bool = False
    helper: bool = False
    small_disk: bool = False


def _send(number: int) -> Callable[[Command, Place, random.Random], bool]:
    def send(command: Command, place: Place, draw: random.Random) -> bool:
        command.kill(number)
        return True

    return send


def _kill(command: Command, place: Place, draw: random.Random) -> bool:
    """Kill the command, and in half of the cases all that it has started."""
    helpers = children_of(command.pid) if draw.random() < 0.5 else []
    command.kill(signal.SIGKILL)
    for helper in helpers:
        with contextlib.suppress(ProcessLookupError):
            os.kill(helper, signal.SIGKILL)
    return True


def _kill_helper(command: Command, place: Place, draw: random.Random) -> bool:
    helpers = children_of(command.pid)
    if not helpers:
        return False
    with contextlib.suppress(ProcessLookupError):
        os.kill(draw.choice(helpers), signal.SIGKILL)
    return True


def _fill_disk(command: Command, place: Place, draw: random.Random) -> bool:
    """Leave a few kB at most."""
    disk = place.home.parent
    state = os.statvfs(disk)
    free = state.f_bavail * state.f_frsize - draw.choice((0, 4096, 16384, 65536))
    descriptor = os.open(disk / FILLER, os.O_WRONLY | os.O_CREAT)
    try:
        os.posix_fallocate(descriptor, 0, max(1, free))
    except OSError:  # the command has used some of it by now
        _write_until_full(descriptor)
    finally:
        os.close(descriptor)
    return True


def _write_until_full(descriptor: int) -> None:
    with contextlib.suppress(OSError):
        while os.write(descriptor, b"\0" * 65536):
            pass


def _empty_disk(place: Place) -> None:
    (place.home.parent / FILLER).unlink()


def _limit_files(command: Command, place: Place, draw: random.Random) -> bool:
    """Limit the size of every file that the command, and what it starts from now on, writes."""
    size = int(10 ** draw.uniform(1, 5))
    try:
        resource.prlimit(command.pid, resource.RLIMIT_FSIZE, (size, size))
    except ProcessLookupError:
        return False
    return True


def _set_rights(place: Place, rights: int) -> None:
    for base in place.folders:
        for folder, _, _ in os.walk(base):
            with contextlib.suppress(FileNotFoundError):
                os.chmod(folder, rights)  # noqa: PTH101  (a folder from os.walk)


def _forbid(command: Command, place: Place, draw: random.Random) -> bool:
    _set_rights(place, 0o555)
    return True


HARMS = {
    harm.name: harm
    for harm in (
        Harm("SIGKILL", _kill, frozenset({-9}), 0.36, signal=True),
        Harm("SIGTERM", _send(signal.SIGTERM), frozenset({143, -15}), 0.2, signal=True, graceful=True),
        Harm("SIGINT", _send(signal.SIGINT), frozenset({130, -2}), 0.16, signal=True, graceful=True),
        Harm("read-only folders", _forbid, frozenset({1, 2}), 0.14, undo=lambda place: _set_rights(place, 0o755)),
        Harm("limit on files", _limit_files, frozenset({1, 2}), 0.14),
        Harm("full disk", _fill_disk, frozenset({1, 2}), 1.2, undo=_empty_disk, small_disk=True),
        Harm("SIGKILL of a helper", _kill_helper, frozenset({0}), 0.3, helper=True),
    )
}


def possible(second: Path | None) -> dict[str, float]:
    """Return where trials may work on this machine, with the share of each."""
    places = {"one device": 0.5}
    if second is not None:
        places["two devices"] = 0.25
    if os.geteuid() == 0 and _may_mount():
        places["small disk"] = 0.25
    return places


def other_device(folder: Path) -> Path | None:
    """Return a new folder on another device; None where none is found."""
    for base in (Path("/dev/shm"), Path("/tmp"), Path.cwd(), Path.home()):  # noqa: S108  (only to find another device)
        with contextlib.suppress(OSError):
            if base.stat().st_dev != folder.stat().st_dev:
                return Path(tempfile.mkdtemp(prefix="interruptions-", dir=base))
    return None


def make_small_disk(folder: Path) -> None:
    """Mount a small disk of its own at a folder."""
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={SMALL_DISK},mode=755", "tmpfs", str(folder)], check=True)  # noqa: S603, S607


def remove_small_disk(folder: Path) -> None:
    """Unmount it again, if there is one."""
    if folder.is_mount():
        subprocess.run(["umount", "--lazy", str(folder)], check=True)  # noqa: S603, S607


_MAY_MOUNT: list[bool] = []


def _may_mount() -> bool:
    if not _MAY_MOUNT:
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name) / "disk"
            folder.mkdir()
            try:
                make_small_disk(folder)
            except (OSError, subprocess.CalledProcessError):
                _MAY_MOUNT.append(False)
            else:
                remove_small_disk(folder)
                _MAY_MOUNT.append(True)
    return _MAY_MOUNT[0]
