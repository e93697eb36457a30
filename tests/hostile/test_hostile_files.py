"""Odd files and names: links in circles, pipes, folders named like files, long and foreign names, markup, terminals."""

from __future__ import annotations

import csv
import json
import os
import shutil
import tempfile
from pathlib import Path

import pytest
from hostile.conftest import command, leftovers, write_good
from hostile_bytes import SHAPE, nifti, voxels
from hostile_labels import structures

GOOD = nifti(voxels())


@pytest.fixture
def predict(tiny_run, tmp_path):
    """Predict the folder `in` beside good images; returns the outcome and the table's rows by case."""
    (tmp_path / "in").mkdir()
    write_good(tmp_path / "in")

    def run(*inputs, output="out"):
        outcome = command("predict", tiny_run, *(inputs or [tmp_path / "in"]), "-o", tmp_path / output, "--threads", "1")
        table = tmp_path / output / "predictions.csv"
        if not table.exists():
            return outcome, {}
        assert leftovers(tmp_path / output) == []
        with table.open(newline="", encoding="utf-8") as file:
            rows = {row["case"]: row for row in csv.DictReader(file)}
        assert {rows["good_a"]["status"], rows["good_b"]["status"]} <= {"done", "skipped"}
        return outcome, rows

    return run


ODD = {  # made at a path that has the name of an image; words of the refusal
    "loop": (lambda path: path.symlink_to(path), "Too many levels of symbolic links"),
    "broken_link": (lambda path: path.symlink_to(path.parent / "nowhere.nii"), "no such file"),
    "pipe": (os.mkfifo, "is a pipe or device"),
    "device": (lambda path: path.symlink_to("/dev/zero"), "is a pipe or device"),
    "folder": (Path.mkdir, "is a folder, not an image file"),
    "link_to_folder": (lambda path: path.symlink_to(path.parent), "is a folder, not an image file"),
}


@pytest.mark.parametrize("name", ODD)
def test_what_only_has_the_name_of_an_image_fails_alone(predict, tmp_path, name):
    make, says = ODD[name]
    make(tmp_path / "in" / f"{name}.nii.gz")
    outcome, rows = predict()
    assert outcome.code == 1
    assert rows[name]["status"] == "failed"
    assert says in rows[name]["reason"]
    assert f"{name}.nii.gz" in rows[name]["reason"]
    assert not (tmp_path / "out" / f"{name}.nii.gz").exists()


@pytest.mark.parametrize("name", ODD)
def test_training_refuses_what_only_has_the_name_of_an_image(tmp_path, name):
    make, says = ODD[name]
    for part, content in (("images", GOOD), ("labels", nifti(structures()))):
        (tmp_path / "set" / part).mkdir(parents=True)
        for number in range(3):
            (tmp_path / "set" / part / f"c{number}.nii").write_bytes(content)
    (tmp_path / "set" / "labels" / f"{name}.nii").write_bytes(nifti(structures()))
    make(tmp_path / "set" / "images" / f"{name}.nii")
    (tmp_path / "run.yaml").write_text(f"data: {{root: {tmp_path / 'set'}, cache: {tmp_path / 'cache'}, folds: 2}}\n")
    outcome = command("train", tmp_path / "run.yaml", "--runs", tmp_path / "runs")
    assert outcome.code == 3
    lines = [line for line in outcome.err.splitlines() if f"{name}.nii" in line]
    assert len(lines) == 1
    assert says in lines[0]
    assert not (tmp_path / "runs" / "run").exists()


@pytest.mark.skipif(os.name != "posix", reason="rights of POSIX")
def test_an_unreadable_file_fails_alone(tiny_run):
    folder = Path(tempfile.mkdtemp(prefix="se-med-"))
    root = os.geteuid() == 0
    try:
        shutil.copytree(tiny_run, folder / "run")
        (folder / "in").mkdir()
        write_good(folder / "in")
        (folder / "in" / "locked.nii").write_bytes(GOOD)
        (folder / "closed").mkdir()
        (folder / "closed" / "c.nii").write_bytes(GOOD)
        (folder / "in" / "locked.nii").chmod(0)
        (folder / "closed").chmod(0)
        for path in (folder, folder / "run", folder / "in"):
            path.chmod(0o777)
        if root:
            os.seteuid(65534)
        outcome = command("predict", folder / "run", folder / "in", "-o", folder / "out", "--threads", "1")
        closed = command("predict", folder / "run", folder / "closed" / "c.nii", "-o", folder / "out", "--threads", "1")
        unwritable = command("predict", folder / "run", folder / "in", "-o", folder / "closed" / "out", "--threads", "1")
    finally:
        if root:
            os.seteuid(0)
        (folder / "closed").chmod(0o777)
        shutil.rmtree(folder)
    assert outcome.code == 1
    assert "2 segmented, 0 skipped (had a result), 1 failed" in outcome.out
    assert "Permission denied" in outcome.out
    for other in (closed, unwritable):
        assert other.code in (1, 2)
        assert "Permission denied" in other.err
        assert len(other.err.strip().splitlines()) == 1


NAMES = {
    "not_ascii": "größe-脳-🧠",
    "blanks": " a  b ",
    "markup": "[bold]x[/bold] [/nothing]",
    "emoji": "a:brain:b",
    "terminal": "a\x1b[31mred\x1b]0;title\x07",
    "line_end": "a\nb",
    "html": "<script>alert(1)</script>&amp;\"'",
    "formula": "=1+1",
    "mathematics": "$\\frac{$",
    "dashes": "-o",
    "dots": "a..b...",
    "percent": "%s%d{0}{name}",
    "long": "x" * 240,
    "long_not_ascii": "é" * 120,
    "bytes": os.fsdecode(b"caf\xe9"),
    "pattern": "a[1]*?",
}


@pytest.mark.parametrize("kind", NAMES)
def test_any_name_of_a_file_is_the_name_of_its_result(predict, tmp_path, kind):
    name = NAMES[kind].replace("/", "|")
    (tmp_path / "in" / f"{name}.nii").write_bytes(GOOD)
    (tmp_path / "in" / f"{name[:200]}_bad.nii").write_bytes(GOOD[:-9])
    outcome, rows = predict()
    assert outcome.code == 1
    assert (tmp_path / "out" / f"{name}.nii").is_file()
    assert json.loads((tmp_path / "out" / f"{name}.json").read_text())["label"] == f"{name}.nii"
    assert [row["status"] for row in rows.values()].count("done") == 3
    assert [row["status"] for row in rows.values()].count("failed") == 1
    assert "3 segmented, 0 skipped (had a result), 1 failed" in outcome.out
    shown = outcome.out + outcome.err
    assert "\x1b" not in shown
    assert "\x07" not in shown
    shown.encode()  # a terminal can show it
    again, _ = predict()
    assert "0 segmented, 3 skipped (had a result), 1 failed" in again.out


def test_a_name_too_long_for_its_sidecar_fails_alone(predict, tmp_path):
    (tmp_path / "in" / f"{'x' * 251}.nii").write_bytes(GOOD)  # its sidecar would have one letter more than there may be
    outcome, rows = predict()
    assert outcome.code == 1
    assert rows["x" * 251]["status"] == "failed"
    assert "File name too long" in rows["x" * 251]["reason"]
    assert not (tmp_path / "out" / f"{'x' * 251}.nii").exists()


@pytest.mark.parametrize("others", [("a.nii", "a.nii.gz"), ("a.nii", "a.mha"), ("a.nii", "a.png"), ("a.nii.gz", "a.NII")])
def test_two_files_of_one_name_are_refused(predict, tmp_path, others):
    for name in others:
        (tmp_path / "in" / name).write_bytes(GOOD)
    outcome, rows = predict()
    assert (outcome.code, rows) == (2, {})
    assert "are all case 'a' and would have one result" in outcome.err
    assert not (tmp_path / "out").exists()


PATHS = {
    "nowhere": ("nowhere", "does not exist"),
    "long": ("x" * 300, "File name too long"),
    "long_path": ("x/" * 3000, "File name too long"),
    "empty_folder": ("empty", "no images"),
    "text": ("note.txt", "not an image"),
    "pattern": ("in/*.mgz", "no image matches this pattern"),
    "pipe_table": ("pipe.csv", "not an image"),
}


@pytest.mark.parametrize("name", PATHS)
def test_an_input_that_is_none_is_refused(predict, tmp_path, name):
    (tmp_path / "empty").mkdir()
    (tmp_path / "note.txt").write_text("x")
    os.mkfifo(tmp_path / "pipe.csv")
    path, says = PATHS[name]
    outcome, rows = predict(tmp_path / path)
    assert outcome.code in (1, 2)
    assert rows == {}
    assert says in outcome.err
    assert len(outcome.err.strip().splitlines()) == 1
    assert not (tmp_path / "out").exists()


TABLES = {
    "above": ("case,image\n../../up,in/good_a.nii\n", "cannot be the name of a file"),
    "absolute": ("case,image\n/tmp/up,in/good_a.nii\n", "cannot be the name of a file"),
    "hidden": ("case,image\n.up,in/good_a.nii\n", "cannot be the name of a file"),
    "twice": ("case,image\nx,in/good_a.nii\nx,in/good_b.nii\n", "again"),
    "null": ("case,image\na\0b,in/good_a.nii\n", "null character"),
    "no_lines": ("case,image\n", "lists no case"),
    "no_column": ("case,file\nx,y\n", "no column of images"),
    "many_digits": (f"case,image_{'0' * 5000}\nx,y\n", "no column of images"),
    "no_text": ("\udcff\udcfe", "cannot be read"),
}


@pytest.mark.parametrize("name", TABLES)
def test_a_bad_work_list_is_refused(predict, tmp_path, name):
    text, says = TABLES[name]
    (tmp_path / "list.csv").write_bytes(text.encode("utf-8", "surrogateescape"))
    outcome, _ = predict(tmp_path / "list.csv")
    assert outcome.code in (1, 2)
    assert says in outcome.err
    assert not list(tmp_path.parent.glob("up*"))


def test_pipes_in_the_place_of_text_are_not_waited_for(tiny_run, tmp_path):
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "labels").mkdir()
    (tmp_path / "labels" / "a.nii").write_bytes(nifti(structures()))
    os.mkfifo(tmp_path / "labels" / "a.json")
    for arguments in (
        ("train", tmp_path / "pipe"),
        ("compare", tmp_path / "pipe"),
        ("check", tmp_path / "pipe"),
        ("evaluate", tmp_path / "labels", tmp_path / "labels"),
        ("evaluate", tmp_path / "labels", tmp_path / "labels", "--config", tmp_path / "pipe"),
    ):
        outcome = command(*arguments)
        assert outcome.code == 2
        assert "pipe or device" in outcome.err
        assert len(outcome.err.strip().splitlines()) == 1


@pytest.mark.parametrize("kind", ["html", "markup", "mathematics", "terminal", "bytes"])
def test_names_pass_through_check_evaluation_and_training(tmp_path, kind):
    name = NAMES[kind].replace("/", "|")
    root = tmp_path / "set"
    for part in ("images", "labels", "prediction"):
        (root / part).mkdir(parents=True)
    for number, case in enumerate((name, "b", "c")):
        image = voxels()
        image[0, 0, 0] = number
        (root / "images" / f"{case}.nii").write_bytes(nifti(image))
        for part in ("labels", "prediction"):
            (root / part / f"{case}.nii").write_bytes(nifti(structures()))
    structure = name.encode("utf-8", "replace").decode()
    (root / "dataset.json").write_text(json.dumps({"labels": {"background": 0, structure: 1, "two": 2}}))
    outcome = command("check", root, "-o", tmp_path / "report")
    assert outcome.code == 0, outcome.err
    page = (tmp_path / "report" / "check.html").read_text()
    assert "<script>alert" not in page
    outcome = command(
        "evaluate", root / "prediction", root / "labels", "--images", root / "images", "--picture", tmp_path / "picture.png",
        "--csv", tmp_path / "scores.csv",
    )  # fmt: skip
    assert outcome.code == 0, outcome.err
    assert "\x1b" not in outcome.out
    assert (tmp_path / "picture.png").stat().st_size > 1000
    (tmp_path / "run.yaml").write_text(
        f"data: {{root: {root}, cache: {tmp_path / 'cache'}, folds: 3, layout: folders}}\n"
        "network: {features: [4, 8], strides: [[2, 2, 2]], stem: [1, 1, 1], encoder_units: 1, decoder_units: 1}\n"
        "training: {steps: 1, batch_size: 2, patch: [16, 16, 16], precision: fp32, threads: 1}\n"
    )
    outcome = command("train", tmp_path / "run.yaml", "--runs", tmp_path / "runs")
    assert outcome.code == 0, outcome.err
    assert (tmp_path / "runs" / "run" / "curves.png").stat().st_size > 1000


def test_a_small_file_of_vast_voxels_is_refused_before_it_takes_memory(tiny_run, predict, tmp_path):
    """3 kB whose voxels of a metre make 8 x 10^15 voxels at the plan's spacing."""
    vast = nifti(voxels(), affine=nifti_affine(900.0))
    (tmp_path / "in" / "vast.nii").write_bytes(vast)
    outcome, rows = predict()
    assert outcome.code == 1
    assert "inference.max_memory" in rows["vast"]["reason"]
    root = tmp_path / "set"
    for part in ("images", "labels"):
        (root / part).mkdir(parents=True)
    for number in range(5):
        grid = nifti_affine(900.0 if number == 4 else 1.0)
        image = voxels()
        image[0, 0, 0] = number
        (root / "images" / f"c{number}.nii").write_bytes(nifti(image, grid))
        (root / "labels" / f"c{number}.nii").write_bytes(nifti(structures(), grid))
    (tmp_path / "run.yaml").write_text(f"data: {{root: {root}, cache: {tmp_path / 'cache'}, folds: 5}}\ntraining: {{steps: 1}}\n")
    outcome = command("train", tmp_path / "run.yaml", "--runs", tmp_path / "runs")
    assert outcome.code == 3
    assert len([line for line in outcome.err.splitlines() if "c4.nii: takes" in line and "are free" in line]) == 1
    assert SHAPE == (12, 10, 8)


def nifti_affine(spacing: float):
    import numpy as np

    return np.diag([spacing, spacing, spacing, 1.0])
