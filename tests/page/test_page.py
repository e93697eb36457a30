from __future__ import annotations

import base64
import html
import re
import sys
import tomllib
from pathlib import Path

import numpy as np
import pytest
from jinja2 import UndefinedError
from matplotlib.figure import Figure
from PIL import Image

from se_med.page import PALETTE, figure_uri, literal, picture_uri, write_page

ROOT = Path(__file__).parents[2]


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A package with one template of its own."""
    folder = tmp_path / "reporting"
    (folder / "templates").mkdir(parents=True)
    (folder / "__init__.py").touch()
    (folder / "templates" / "one.html").write_text(
        '{% extends "base.html" %}{% block title %}About {{ name }}{% endblock %}'
        '{% block content %}<p>{{ text }}</p><img alt="a" src="{{ picture }}">{% endblock %}'
    )
    monkeypatch.syspath_prepend(tmp_path)
    yield "reporting"
    sys.modules.pop("reporting", None)


def some_figure() -> Figure:
    figure = Figure(figsize=(2, 1))
    figure.subplots().plot([0, 1], [1, 0], color=PALETTE[0], label="<b>")
    return figure


def test_a_page_is_one_file_that_asks_for_nothing(tmp_path, package):
    path = tmp_path / "page.html"
    write_page(path, package, "one.html", name="it", text="é", picture=figure_uri(some_figure()))
    page = path.read_text(encoding="utf-8")
    assert page.startswith("<!DOCTYPE html>")
    assert "<title>About it</title>" in page
    assert "<h1>About it</h1>" in page
    assert re.findall(r'(?:src|href)="(?!data:)', page) == []
    assert re.findall(r"url\(|@import|https?://", page) == []
    assert "default-src 'none'" in page
    assert [entry.name for entry in tmp_path.iterdir() if entry.name.endswith(".tmp")] == []


def test_names_are_escaped(tmp_path, package):
    bad = "<script>alert('1')</script>\"&"
    write_page(tmp_path / "page.html", package, "one.html", name=bad, text=bad, picture="data:,")
    page = (tmp_path / "page.html").read_text()
    assert "<script>" not in page
    assert page.count("&lt;script&gt;") == 3  # title, heading, text
    assert bad in html.unescape(page)


def test_a_name_that_is_missing_is_an_error_and_leaves_the_old_page(tmp_path, package):
    path = tmp_path / "page.html"
    path.write_text("old")
    with pytest.raises(UndefinedError, match="text"):
        write_page(path, package, "one.html", name="it", picture="data:,")
    assert path.read_text() == "old"


def test_figures_are_the_same_bytes_each_time():
    assert figure_uri(some_figure()) == figure_uri(some_figure())
    content = base64.b64decode(figure_uri(some_figure()).removeprefix("data:image/svg+xml;base64,"))
    assert b"<svg" in content
    assert b"<text" not in content  # letters are outlines
    content = base64.b64decode(figure_uri(some_figure(), "png").removeprefix("data:image/png;base64,"))
    assert content.startswith(b"\x89PNG")


@pytest.mark.parametrize("shape", [(3, 4), (3, 4, 3)])
def test_pictures_keep_their_pixels(tmp_path, shape):
    pixels = np.arange(np.prod(shape), dtype=np.uint8).reshape(shape)
    (tmp_path / "a.png").write_bytes(base64.b64decode(picture_uri(pixels).removeprefix("data:image/png;base64,")))
    assert np.array_equal(np.asarray(Image.open(tmp_path / "a.png")), pixels)


@pytest.mark.parametrize("pixels", [np.zeros((2, 2)), np.zeros((2, 2, 4), np.uint8), np.zeros(4, np.uint8)])
def test_other_pictures_are_refused(pixels):
    with pytest.raises(ValueError, match="uint8"):
        picture_uri(pixels)


def test_templates_travel_with_the_package():
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]
    templates = [path.relative_to(ROOT) for path in (ROOT / "se_med").rglob("templates/*") if path.is_file()]
    assert Path("se_med/page/templates/base.html") in templates
    patterns = settings["package-data"]["*"]
    assert [path for path in templates if not any(Path("templates", path.name).match(pattern) for pattern in patterns)] == []


def test_names_in_figures_are_no_mathematics():
    figure = Figure(figsize=(2, 1))
    figure.suptitle(literal("$\\frac{$ costs 5$"))
    assert figure_uri(figure).startswith("data:image/svg+xml")  # as mathematics it could not be drawn
