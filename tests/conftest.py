"""Fixtures for all rooms: real data where they are, a small synthetic data set, and the command line in this process."""

from __future__ import annotations

import os
import signal

# Before torch is imported: several test processes with several threads each would wait for one another.
os.environ.setdefault("OMP_NUM_THREADS", "1")

from dataclasses import dataclass
from pathlib import Path

import pytest
from hypothesis import settings
from small_data import SMALL_CONFIG, make_small_data

# A shell that starts the tests in the background lets them ignore SIGINT, and every process that they start with them.
signal.signal(signal.SIGINT, signal.default_int_handler)

# Where a change is judged, the same examples every time; elsewhere new ones, which go on searching.
settings.register_profile("ci", derandomize=True)
if os.environ.get("CI"):
    settings.load_profile("ci")


@pytest.fixture(scope="session")
def real_data() -> Path:
    """The folder of real data sets."""
    folder = os.environ.get("SE_MED_DATA")
    if not folder:
        pytest.skip("needs real data: set SE_MED_DATA to the folder that holds hippocampus/, acdc/, ...")
    return Path(folder)


@pytest.fixture(scope="session")
def small_data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Eight synthetic cases with a ball and a box. Read only."""
    return make_small_data(tmp_path_factory.mktemp("data") / "small")


@pytest.fixture(scope="session")
def small_cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Cache of the prepared small cases, shared by all tests."""
    return tmp_path_factory.mktemp("cache")


@pytest.fixture
def small_config(tmp_path: Path, small_data: Path, small_cache: Path) -> Path:
    """A configuration that trains eight steps on the small data."""
    path = tmp_path / "small.yaml"
    path.write_text(SMALL_CONFIG.format(root=small_data, cache=small_cache))
    return path


@dataclass(frozen=True)
class Outcome:
    """What a command did."""

    code: int
    out: str
    err: str


@pytest.fixture
def se_med(capfd: pytest.CaptureFixture[str]):
    """Run a command in this process: ``se_med("train", config, "--runs", folder)``."""
    from se_med.cli.app import main

    def run(*arguments: object) -> Outcome:
        capfd.readouterr()
        try:
            code = main([str(argument) for argument in arguments])
        except SystemExit as end:
            code = end.code if isinstance(end.code, int) else 1
        captured = capfd.readouterr()
        return Outcome(code, captured.out, captured.err)

    return run
