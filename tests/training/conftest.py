"""A way to train the small configuration with changes, in this process."""

from __future__ import annotations

import csv
import json
from dataclasses import dataclass
from pathlib import Path

import pytest

from se_med.config.load import load_config
from se_med.progress import silent
from se_med.training.fit import fit


@dataclass(frozen=True)
class Made:
    """What a run left behind."""

    folder: Path

    @property
    def weights(self) -> bytes:
        return (self.folder / "model.safetensors").read_bytes()

    @property
    def provenance(self) -> dict:
        return json.loads((self.folder / "provenance.json").read_text())

    @property
    def digest(self) -> str:
        return self.provenance["stream_digest"]

    @property
    def rows(self) -> list[dict[str, str]]:
        """The rows of metrics.csv without their times."""
        with (self.folder / "metrics.csv").open() as file:
            return [{key: value for key, value in row.items() if key != "seconds"} for row in csv.DictReader(file)]

    @property
    def cases(self) -> str:
        return (self.folder / "validation" / "cases.csv").read_text()


@pytest.fixture
def train(small_config, tmp_path):
    """``train("name", "key=value", ...)`` trains the small configuration and returns what was made."""

    def run(name: str, *overrides: str, resume: bool = False, progress=silent) -> Made:
        config = load_config(small_config, [f"name={name}", *overrides])
        return Made(fit(config, tmp_path / "runs" / name, resume=resume, progress=progress).folder)

    return run
