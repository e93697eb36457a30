"""The report of a real, tiny study: what stands in it, and that it needs nothing but itself."""

from __future__ import annotations

import base64
import gzip
import io
import json
import re
import shutil
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from PIL import Image

from se_med.study.report import write_report
from se_med.study.report.cases import choose_cases
from se_med.study.report.curves import read_curves
from se_med.study.statistics import compute_statistics
from se_med.study.tables import read_tables

CHROMIUM = next((found for name in ("chromium", "chromium-browser", "google-chrome") if (found := shutil.which(name))), None)

FLAGS = ["--no-sandbox", "--use-angle=swiftshader", "--enable-unsafe-swiftshader"]


@pytest.fixture
def study(write_study, run_study) -> Path:
    """The folder of a study of four runs of four steps."""
    path = write_study("folds: [0, 1]")
    return run_study(path, "training.steps=4").folder


def page(folder: Path) -> str:
    return (folder / "report.html").read_text(encoding="utf-8")


def viewer_data(text: str) -> dict:
    return json.loads(re.search(r'id="viewer-data">(.*?)</script>', text, re.DOTALL)[1])


@pytest.mark.slow
def test_report_of_a_real_study(study):
    statistics = write_report(study)
    text = page(study)
    for verdict in statistics.verdicts:
        assert verdict.word == "inconclusive"
        assert "4 are the least" in text
    assert "cse" in text
    assert "attention.encoder.block" in text
    assert "Holm" in text
    provenance = json.loads(next((study.parent / "runs").glob("*/provenance.json")).read_text())
    assert f"torch {provenance['software']['torch']}" in text
    # Nothing is fetched from anywhere: no address but those that are written out for readers.
    outside = re.sub(r'<script type="(?:text/plain|application/json)".*?</script>', "", text, flags=re.DOTALL)
    assert not re.findall(r"""(?:src|href)=["'](?!data:)""", outside)

    data = viewer_data(text)
    tables = read_tables(study)
    chosen = choose_cases(tables, compute_statistics(tables, "mean_dice", 0.005))
    assert [case["name"] for case in data["cases"]] == [case.name for case in chosen]
    volumes = {
        name: nib.Nifti1Image.from_bytes(gzip.decompress(base64.b64decode(packed)))
        for name, packed in data["cases"][0]["volumes"]
    }
    assert list(volumes) == ["image", "reference", "plain", "cse"]
    assert len({volume.shape for volume in volumes.values()}) == 1
    # The reference in the viewer is the label file of the case.
    label = nib.load(next(Path(_root(study)).glob(f"labelsTr/{chosen[0].name}.nii.gz")))
    assert np.array_equal(np.asarray(volumes["reference"].dataobj), np.asarray(label.dataobj))

    assert len(text) < 4_000_000
    if CHROMIUM is None:
        pytest.skip("everything else passed; the viewer needs a Chromium: install chromium to see it draw")
    _open_in_chromium(study / "report.html")


def _root(study: Path) -> str:
    config = next((study.parent / "runs").glob("*/config.yaml")).read_text()
    return re.search(r"root: (\S+)", config)[1]


def _open_in_chromium(report: Path) -> None:
    """Open the viewer in a headless browser without a network; look at what it draws and at what it asks for."""
    playwright = pytest.importorskip(
        "playwright.sync_api", reason="everything else passed; install playwright to see the viewer draw"
    )
    asked, said = [], []
    with playwright.sync_playwright() as started:
        browser = started.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        page = browser.new_page(viewport={"width": 1100, "height": 900})
        page.context.set_offline(True)
        page.on("request", lambda request: asked.append(request.url))
        page.on("console", lambda message: said.append(message.text))
        page.on("pageerror", lambda error: said.append(str(error)))
        page.goto(report.as_uri())
        page.click("#viewer-start")
        page.wait_for_selector("body[data-viewer=ready], body[data-viewer=failed]", timeout=120_000)
        assert page.get_attribute("body", "data-viewer") == "ready", said
        page.wait_for_timeout(300)
        pixels = _canvas(page)
        spread = pixels.max(-1).astype(int) - pixels.min(-1)
        assert ((spread < 20) & (pixels[..., 0] > 40)).sum() > 2000  # the image
        assert (spread > 60).sum() > 50  # the outlines
        page.click("#viewer-maps button:last-child")
        page.wait_for_timeout(300)
        assert (_canvas(page) != pixels).any()  # another arm, another outline
        browser.close()
    assert [url for url in asked if not url.startswith(("file:", "data:", "blob:"))] == []
    assert [text for text in said if "Content Security Policy" in text] == []


def _canvas(page):
    return np.array(Image.open(io.BytesIO(page.locator("#viewer-canvas").screenshot())).convert("RGB"))


def test_report_without_pictures_needs_neither_data_nor_weights(tmp_path):
    from study_tables import drawn_cases, make_tables

    from se_med.study.tables import write_tables

    folder = tmp_path / "study"
    folder.mkdir()
    write_tables(folder, make_tables(drawn_cases({"plain": 0.0, "cse": 0.01, "<b>sse</b>": 0.0}, folds=3, seeds=2)))
    (folder / "study.yaml").write_text(
        "base: base.yaml\nreference: plain\narms: {plain: null, cse: {attention: cse}}\nname: drawn\n"
    )
    write_report(folder, pictures=False)
    text = page(folder)
    assert "<b>sse" not in text
    assert text.count("data:image/svg+xml") == 4
    assert "viewer-start" not in text
    assert "metrics.csv were not found" in text
    assert text.index("A/A") < text.index('class="verdict"')


def test_curves_average_folds_and_reach_over_seeds(tmp_path):
    from study_tables import drawn_cases, make_tables

    tables = make_tables(drawn_cases({"plain": 0.0}, folds=2, seeds=2, cases=2))
    for run in tables.runs:
        place = tmp_path / "study" / run.folder
        place.mkdir(parents=True)
        values = [(20, 0.5 + 0.1 * run.fold + 0.02 * run.seed), (40, 0.9)]
        lines = [f"{step},{2 - value},{value if step == 20 else ''}" for step, value in values]
        (place / "metrics.csv").write_text("\n".join(["step,loss,mean_dice", *lines]) + "\n")
    last = {"plain": {fold: dict.fromkeys((0, 1), 0.8) for fold in (0, 1)}}
    curves = {curve.quantity: curve for curve in read_curves(tmp_path / "study", tables.runs, last)["plain"]}
    dice = curves["dice"]
    assert dice.steps == (20, 40)
    assert (dice.low[0], dice.mean[0], dice.high[0]) == pytest.approx((0.55, 0.56, 0.57))
    assert dice.mean[1] == pytest.approx(0.8)
    assert curves["loss"].steps == (20, 40)


def test_chosen_cases_are_best_median_worst_and_most_different():
    from study_tables import make_tables, row

    scores = {"a": (0.5, 0.5), "b": (0.7, 0.9), "c": (0.8, 0.8), "d": (0.9, 0.85), "e": (0.95, 0.95)}
    rows = [row(arm, case=case, dice=pair[place]) for case, pair in scores.items() for place, arm in enumerate(("plain", "cse"))]
    tables = make_tables(rows)
    chosen = {case.name: case.reason for case in choose_cases(tables, compute_statistics(tables, "mean_dice", 0.005))}
    assert chosen["e"] == "best"
    assert chosen["a"] == "worst"
    assert chosen["b"] == "most different: cse gains 0.2000"
    assert "cse loses 0.0500" in chosen["d"]
    assert "median" in chosen["c"]
