"""What commands do to the machine, told by Python's audit events: no network, no other program, nothing written elsewhere."""

from __future__ import annotations

import os
import pickle
import shutil
import socket
import sys
import tempfile
from pathlib import Path

import matplotlib
import pytest
from hostile.conftest import command, write_good
from small_data import SMALL_CONFIG

_WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_TRUNC
_NETWORK = (
    "socket.connect",
    "socket.bind",
    "socket.sendto",
    "socket.getaddrinfo",
    "socket.gethostbyname",
    "urllib.Request",
    "http.client.connect",
)
_PROGRAMS = ("subprocess.Popen", "os.system", "os.exec", "os.posix_spawn", "os.spawn", "os.fork", "webbrowser.open", "pty.spawn")
_UNPICKLING = ("pickle.find_class", "marshal.loads", "marshal.load")
_CHANGES = ("os.rename", "os.remove", "os.rmdir", "os.mkdir", "os.link", "os.symlink", "os.truncate", "shutil.rmtree", "os.chmod")
_seen: list[tuple[str, str]] | None = None


def _hook(event: str, arguments: tuple[object, ...]) -> None:
    if _seen is None:
        return
    if event in _NETWORK or event in _PROGRAMS or event in _UNPICKLING:
        # Python unmarshals its own modules when it imports them, and urllib3 binds once, to see whether there is IPv6.
        importing = event.startswith("marshal") and "importlib" in sys._getframe(1).f_code.co_filename
        probing = event == "socket.bind" and arguments[1] == ("::1", 0)
        naming = event == "subprocess.Popen" and arguments[1] == ["uname", "-p"]  # `platform.processor`, as torch asks it
        if not importing and not probing and not naming:
            _seen.append((event, str(arguments)[:200]))
    elif event == "open" and isinstance(arguments[2], int) and arguments[2] & _WRITING:
        _seen.append(("write", _path(arguments[0])))
    elif event in _CHANGES:
        named = arguments[1] if event in ("os.rename", "os.link", "os.symlink") else arguments[0]
        _seen.append(("write", _path(named, arguments[-1])))


def _path(entry: object, folder: object = -1) -> str:
    """The absolute path; one that is relative to an open folder is told with that folder's descriptor."""
    if not isinstance(entry, str | bytes | os.PathLike):
        return ""
    above = Path(f"/proc/self/fd/{folder}").readlink() if isinstance(folder, int) and folder >= 0 else Path.cwd()
    return str(above / os.fsdecode(entry))


sys.addaudithook(_hook)  # cannot be taken away again, so it does nothing outside of `watched`


@pytest.fixture
def watched(tmp_path):
    """Run a command and return what it did beside reading, and what it wrote outside of the test's folder."""

    def run(*arguments):
        global _seen  # the hook of a process can only be a function of the module
        _seen = []
        try:
            outcome = command(*arguments)
        finally:
            seen, _seen = _seen, None
        fonts = (matplotlib.get_configdir(), matplotlib.get_cachedir())  # its list of the machine's fonts
        compiler = str(Path(tempfile.gettempdir()) / "torchinductor_")  # torch makes its compiler's folder when that is imported
        inside = (str(tmp_path), "/dev/null", compiler, *fonts)
        odd = [(event, what) for event, what in seen if event != "write" or (what and not what.startswith(inside))]
        return outcome, odd

    return run


def test_the_hook_sees_what_it_should(tmp_path):
    global _seen
    _seen = []
    (tmp_path / "written").write_text("x")
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as away:
        away.connect(("127.0.0.1", 9))
    pickle.loads(pickle.dumps(os.getcwd))  # noqa: S301 - to see that it is seen
    seen, _seen = _seen, None
    assert ("write", str(tmp_path / "written")) in seen
    assert {"socket.connect", "pickle.find_class"} <= {event for event, _ in seen}


def test_commands_use_no_network_start_nothing_and_write_only_where_they_were_told(watched, tiny_run, small_data, tmp_path):
    data = shutil.copytree(small_data, tmp_path / "data")
    run = shutil.copytree(tiny_run, tmp_path / "tiny")
    (tmp_path / "in").mkdir()
    write_good(tmp_path / "in")
    config = tmp_path / "small.yaml"
    config.write_text(SMALL_CONFIG.format(root=data, cache=tmp_path / "cache").replace("steps: 8", "steps: 2"))
    for arguments in (
        ("predict", run, tmp_path / "in", "-o", tmp_path / "out", "--threads", "1", "--preview", "--probabilities"),
        ("evaluate", data / "labelsTr", data / "labelsTr", "--csv", tmp_path / "scores.csv"),
        ("check", data, "-o", tmp_path / "report"),
        ("plan", config, "-o", tmp_path / "plan.json"),
        ("info", config),
        ("train", config, "--runs", tmp_path / "runs"),
    ):
        outcome, odd = watched(*arguments)
        assert outcome.code == 0, outcome.err
        assert odd == [], arguments[0]
