"""The command line in this process, a small trained network, and folders of hostile files that all commands meet."""

from __future__ import annotations

import contextlib
import io
from collections.abc import Callable, Generator
from dataclasses import dataclass
from pathlib import Path

import pytest
from hostile_bytes import nifti, voxels
from inference.tiny_model import make_config, make_network, make_plan

from se_med.cli.app import main
from se_med.inference.model import save_model


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport() -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Show names that are no text as escapes: a report with them cannot be sent to the process that collects reports."""
    report = yield
    report.sections = [(title, text.encode("utf-8", "backslashreplace").decode()) for title, text in report.sections]
    return report


@dataclass(frozen=True)
class Outcome:
    """What a command did, and what it wrote to the terminal."""

    code: int
    out: str
    err: str


def command(*arguments: object) -> Outcome:
    """Run a command in this process."""
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            code = main([str(argument) for argument in arguments])
        except SystemExit as end:
            code = end.code if isinstance(end.code, int) else 1
    assert "Traceback" not in out.getvalue() + err.getvalue()
    return Outcome(code, out.getvalue(), err.getvalue())


@pytest.fixture(scope="session")
def se_med_here() -> Callable[..., Outcome]:
    """`command`."""
    return command


@pytest.fixture(scope="session")
def tiny_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run folder of a tiny network. Read only."""
    folder = tmp_path_factory.mktemp("run") / "tiny"
    folder.mkdir()
    plan = make_plan()
    config = make_config(plan)
    save_model(folder, make_network(config, plan).state_dict(), config, plan)
    return folder


def leftovers(folder: Path) -> list[Path]:
    """Hidden files below a folder: every temporary is one."""
    return [path for path in folder.rglob(".*") if path.name != ".lock"]


def write_good(folder: Path, names: tuple[str, ...] = ("good_a", "good_b")) -> None:
    """Write images that nothing is wrong with."""
    for number, name in enumerate(names):
        (folder / f"{name}.nii").write_bytes(nifti(voxels() + number))
