"""A small study, and a way to make it in this process: the same work as the study's own processes do."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from se_med.executor import Outcome
from se_med.study.arms import load_study
from se_med.study.child import do

STUDY = """\
name: tiny
base: small.yaml
arms: {plain: {attention: null}, cse: {attention: cse}}
reference: plain
folds: [0]
seeds: [0]
workers: 1
"""


SHORT = "training.validations=1"


@dataclass
class Here:
    """An executor that does everything in this process, and remembers what it was asked for."""

    asked: list[str] = field(default_factory=list)

    def run(self, function, tasks):
        for key, task in tasks.items():
            self.asked.append(f"{task.kind} {task.title}")
            yield Outcome(key, function(task))

    def close(self):
        pass

    def __enter__(self):
        return self

    def __exit__(self, *details):
        pass


@pytest.fixture
def here() -> Here:
    """An executor that does everything in this process."""
    return Here()


@dataclass(frozen=True)
class Made:
    """What a study left behind."""

    folder: Path
    result: object
    asked: list[str]

    def table(self, name: str) -> str:
        return (self.folder / name).read_text()


@pytest.fixture
def write_study(small_config: Path) -> Callable[..., Path]:
    """``write_study("folds: [0, 1]")`` writes the small study with lines replaced by key, or added."""

    def write(*lines: str, text: str = STUDY, name: str = "tiny.yaml") -> Path:
        keys = {line.split(":")[0] for line in lines}
        kept = [line for line in text.splitlines() if line.split(":")[0] not in keys]
        path = small_config.with_name(name)
        path.write_text("\n".join([*kept, *lines]) + "\n")
        return path

    return write


@pytest.fixture
def run_study(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Made]:
    """``run_study(path, "training.steps=4")`` makes a study in this process."""

    def run(path: Path, *overrides: str, work=do, studies: str = "studies") -> Made:
        from se_med.study.compare import compare

        here = Here()
        monkeypatch.setattr("se_med.study.work.TIMED_CASES", 1)
        result = compare(
            load_study(path, [SHORT, *overrides]), tmp_path / studies, maker=lambda workers, threads: here, work=work
        )
        return Made(result.folder, result, here.asked)

    return run
