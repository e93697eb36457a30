import errno
import json
import multiprocessing
import os
import signal
import stat
import time
from pathlib import Path

import pytest

from se_med.errors import RunError
from se_med.io import atomic


def names(folder: Path) -> list[str]:
    return sorted(entry.name for entry in folder.iterdir())


def test_the_file_appears_only_at_the_end(tmp_path):
    target = tmp_path / "weights.bin"
    target.write_bytes(b"old")
    with atomic.replacing(target) as temporary:
        temporary.write_bytes(b"new")
        assert temporary.parent == tmp_path
        assert target.read_bytes() == b"old"
        assert temporary.name.startswith(f".weights.bin.{os.getpid()}.")
        assert temporary.name.endswith(".tmp")
    assert target.read_bytes() == b"new"
    assert names(tmp_path) == ["weights.bin"]


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt])
def test_a_failed_block_leaves_the_old_file_and_nothing_else(tmp_path, error):
    target = tmp_path / "a.json"
    target.write_text("old")

    def write_half():
        with atomic.replacing(target) as temporary:
            temporary.write_text("half")
            raise error

    with pytest.raises(error):
        write_half()
    assert target.read_text() == "old"
    assert names(tmp_path) == ["a.json"]


def test_a_full_disk_is_named_and_leaves_the_old_file(tmp_path, monkeypatch):
    target = tmp_path / "a.txt"
    target.write_text("old")

    def full(descriptor):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(RunError, match=r"a\.txt: cannot be written: No space left"):
        atomic.write_text(target, "new")
    assert target.read_text() == "old"
    assert names(tmp_path) == ["a.txt"]


def test_a_missing_folder_is_named(tmp_path):
    with pytest.raises(RunError, match=r"none/a\.txt: cannot be written: No such file or directory; check"):
        atomic.write_text(tmp_path / "none" / "a.txt", "x")


def test_a_folder_of_that_name_is_not_replaced(tmp_path):
    (tmp_path / "a").mkdir()
    with pytest.raises(RunError, match="cannot be written"):
        atomic.write_text(tmp_path / "a", "x")
    assert names(tmp_path) == ["a"]


def test_text_is_utf8_and_json_keeps_its_order(tmp_path):
    atomic.write_text(tmp_path / "a.txt", "Größe\r\n")
    assert (tmp_path / "a.txt").read_bytes() == "Größe\r\n".encode()
    atomic.write_json(tmp_path / "a.json", {"b": 1, "a": [1.5, None, "é"]})
    text = (tmp_path / "a.json").read_text(encoding="utf-8")
    assert json.loads(text) == {"b": 1, "a": [1.5, None, "é"]}
    assert text.index('"b"') < text.index('"a"')
    assert "é" in text
    with pytest.raises(ValueError, match="Out of range float"):
        atomic.write_json(tmp_path / "nan.json", {"dice": float("nan")})
    assert not (tmp_path / "nan.json").exists()


def test_the_file_has_the_rights_of_any_new_file(tmp_path):
    (tmp_path / "plain").write_text("x")
    atomic.write_text(tmp_path / "a", "x")
    assert stat.S_IMODE((tmp_path / "a").stat().st_mode) == stat.S_IMODE((tmp_path / "plain").stat().st_mode)


def test_names_up_to_the_file_systems_limit(tmp_path):
    target = tmp_path / ("ü" * 125 + ".json")
    atomic.write_text(target, "x")
    assert names(tmp_path) == [target.name]


def _write_until_killed(target: Path) -> None:
    while True:
        atomic.write_bytes(target, os.urandom(1) * 2_000_000)


def test_killed_writers_leave_whole_files_and_temporaries_that_are_swept(tmp_path):
    target = tmp_path / "last.ckpt"
    context = multiprocessing.get_context("fork")
    for delay in (0.02, 0.03, 0.05, 0.08):
        writer = context.Process(target=_write_until_killed, args=(target,))
        writer.start()
        deadline = time.monotonic() + 10
        while not target.exists() and time.monotonic() < deadline:
            time.sleep(0.005)
        time.sleep(delay)
        os.kill(writer.pid, signal.SIGKILL)
        writer.join()
        content = target.read_bytes()
        assert len(content) == 2_000_000
        assert content == content[:1] * len(content)
    left = len(names(tmp_path)) - 1
    assert atomic.sweep_temporaries(tmp_path) == left
    assert names(tmp_path) == ["last.ckpt"]


def test_concurrent_writers_never_show_half_a_file(tmp_path):
    target = tmp_path / "shared.bin"
    context = multiprocessing.get_context("fork")
    writers = [context.Process(target=_write_until_killed, args=(target,)) for _ in range(2)]
    for writer in writers:
        writer.start()
    try:
        deadline = time.monotonic() + 10
        while not target.exists() and time.monotonic() < deadline:
            time.sleep(0.005)
        for _ in range(50):
            content = target.read_bytes()
            assert len(content) == 2_000_000
            assert content == content[:1] * len(content)
    finally:
        for writer in writers:
            writer.kill()
            writer.join()


def test_the_sweep_spares_running_writers_and_everything_else(tmp_path):
    keep = ["a.tmp", ".a.tmp", ".a.txt.12.tmp", "a.nii.gz"]
    for name in keep:
        (tmp_path / name).write_text("x")
    running = atomic.temporary_path(tmp_path / "a.txt")
    running.write_text("being written by this process")
    elsewhere = running.with_name(".a.txt.999999999.0000000012345678.tmp")
    elsewhere.write_text("written by another machine")
    dead = running.with_name(running.name.replace(f".{os.getpid()}.", ".999999999."))
    dead.write_text("left by a process that was killed")
    assert atomic.sweep_temporaries(tmp_path) == 1
    assert names(tmp_path) == sorted([*keep, running.name, elsewhere.name])
    os.utime(elsewhere, (0, 0))
    assert atomic.sweep_temporaries(tmp_path) == 1
    assert atomic.sweep_temporaries(tmp_path / "none") == 0


def test_the_sweep_leaves_what_it_may_not_remove(tmp_path, monkeypatch):
    """A cache that may only be read, with what a killed process left there, still serves."""
    dead = tmp_path / atomic.temporary_path(tmp_path / "a.txt").name.replace(f".{os.getpid()}.", ".999999999.")
    dead.write_text("left by a process that was killed")

    def refuse(self, missing_ok=False):
        raise PermissionError(errno.EACCES, "Permission denied", str(self))

    monkeypatch.setattr(Path, "unlink", refuse)
    assert atomic.sweep_temporaries(tmp_path) == 0
    assert names(tmp_path) == [dead.name]
