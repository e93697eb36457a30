"""Fixtures of the configuration's tests."""

from __future__ import annotations

import pytest


@pytest.fixture
def write(tmp_path, monkeypatch):
    """Write a file into the current folder, so that its name is what messages call it."""
    monkeypatch.chdir(tmp_path)

    def _write(text: str | bytes, name: str = "config.yaml") -> str:
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(text.encode() if isinstance(text, str) else text)
        return name

    return _write
