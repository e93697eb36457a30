"""The generator of the pages, which is no part of the package."""

import importlib.util
from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def make_blocks():
    path = Path(__file__).parents[2] / "docs" / "make_blocks.py"
    spec = importlib.util.spec_from_file_location("make_blocks", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="session")
def pages(make_blocks):
    return make_blocks.make_pages()
