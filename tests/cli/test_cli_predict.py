"""`se-med predict` on work lists, with several runs, in workers, and when it is interrupted."""

from __future__ import annotations

import csv
import json
import os
import shutil
import signal
import subprocess
import sys
import time

import nibabel as nib
import numpy as np
import pytest
from inference.tiny_model import make_config, make_network, make_plan, write_image

from se_med.config.experiment import Config
from se_med.inference.model import save_model
from se_med.inference.predictor import Predictor

AFFINE = np.diag([-0.9, 1.1, 2.0, 1.0])


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """Two networks of other weights, and a run that is not finished."""
    folder = tmp_path_factory.mktemp("trained") / "runs"
    plan = make_plan()
    for seed in (1, 2):
        config = Config.model_validate(make_config(plan).model_dump() | {"seed": seed, "name": f"fold-{seed}"})
        (folder / f"fold-{seed}").mkdir(parents=True)
        save_model(folder / f"fold-{seed}", make_network(config, plan).state_dict(), config, plan)
    shutil.copytree(folder / "fold-1", folder.parent / "unfinished", ignore=shutil.ignore_patterns("model.safetensors"))
    return folder


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    """Six small volumes in folders of their own."""
    folder = tmp_path_factory.mktemp("images")
    for index in range(6):
        coarse = np.random.default_rng(index).normal(size=(4, 5, 3)).astype(np.float32)
        (folder / f"s{index}").mkdir()
        write_image(folder / f"s{index}" / f"t1_{index}.nii.gz", np.kron(coarse, np.ones((4, 4, 4), np.float32)), AFFINE)
    return folder


def rows(folder):
    return {row["case"]: row for row in csv.DictReader((folder / "predictions.csv").read_text().splitlines())}


def test_a_pattern_of_runs_is_their_ensemble(runs, images, se_med, tmp_path):
    outcome = se_med("predict", runs / "*", images / "*" / "*.nii.gz", "-o", tmp_path / "out")
    assert outcome.code == 0, outcome.err
    assert "6 segmented" in outcome.out
    ensemble = Predictor.load([runs / "fold-1", runs / "fold-2"], "cpu")
    for index in range(6):
        source = images / f"s{index}" / f"t1_{index}.nii.gz"
        assert np.array_equal(nib.load(tmp_path / "out" / source.name).dataobj, ensemble.predict(source).labels)
    assert json.loads((tmp_path / "out" / "t1_0.json").read_text())["run"] == ["fold-1", "fold-2"]
    # One of them alone is another model.
    outcome = se_med("predict", runs / "fold-1", images / "s0", "-o", tmp_path / "out")
    assert "1 segmented, 0 skipped" in outcome.out
    outcome = se_med("predict", runs / "fold-1", runs / "fold-2", images / "s0", images / "s1", "-o", tmp_path / "out")
    assert "1 segmented, 1 skipped" in outcome.out


def test_shards_share_a_table_of_cases(runs, images, se_med, tmp_path):
    table = tmp_path / "list.csv"
    table.write_text("case,age,image\n" + "".join(f"p{index},30,{images}/s{index}/t1_{index}.nii.gz\n" for index in range(6)))
    with table.open("a") as file:
        file.write(f"gone,31,{images}/gone.nii.gz\n")
    first = se_med("predict", runs / "fold-1", table, "-o", tmp_path / "out", "--shard", "1/2")
    assert (first.code, "gone" in first.out) == (1, True)
    assert {name: row["status"] for name, row in rows(tmp_path / "out").items()} == {
        "gone": "failed", "p1": "done", "p3": "done", "p5": "done",
    }  # fmt: skip
    second = se_med("predict", runs / "fold-1", table, "-o", tmp_path / "out", "--shard", "2/2")
    assert second.code == 0
    assert [row["status"] for row in rows(tmp_path / "out").values()] == ["failed"] + 6 * ["done"]
    outcome = se_med("predict", runs / "fold-1", table, "-o", tmp_path / "out")
    assert "0 segmented, 6 skipped (had a result), 1 failed" in outcome.out


def test_workers_give_the_same_files_as_this_process(runs, images, se_med, tmp_path):
    inputs = tmp_path / "in"
    shutil.copytree(images / "s0", inputs)
    shutil.copytree(images / "s1", inputs, dirs_exist_ok=True)
    (inputs / "broken.nii.gz").write_bytes((inputs / "t1_0.nii.gz").read_bytes()[:500])
    here = se_med("predict", runs / "fold-1", inputs, "-o", tmp_path / "here")
    there = se_med("predict", runs / "fold-1", inputs, "-o", tmp_path / "there", "--workers", "1")
    assert here.code == there.code == 1
    assert "2 segmented, 0 skipped (had a result), 1 failed" in there.out
    assert rows(tmp_path / "here")["broken"]["reason"] == rows(tmp_path / "there")["broken"]["reason"] != ""
    for name in ("t1_0.nii.gz", "t1_1.nii.gz"):
        assert (tmp_path / "here" / name).read_bytes() == (tmp_path / "there" / name).read_bytes()


@pytest.mark.slow
def test_dask_gives_the_same_files_too(runs, images, se_med, tmp_path):
    pytest.importorskip("distributed", reason="needs the extra `dask`: pip install 'se-med[dask]'")
    assert se_med("predict", runs / "fold-1", images / "s0", "-o", tmp_path / "here").code == 0
    outcome = se_med("predict", runs / "fold-1", images / "s0", "-o", tmp_path / "there", "--engine", "dask")
    assert outcome.code == 0, outcome.err
    assert (tmp_path / "here" / "t1_0.nii.gz").read_bytes() == (tmp_path / "there" / "t1_0.nii.gz").read_bytes()


def test_maps_and_pictures_lie_beside_the_labels(runs, images, se_med, tmp_path):
    source, out = images / "s2" / "t1_2.nii.gz", tmp_path / "out"
    assert se_med("predict", runs / "fold-1", source, "-o", out).code == 0
    extras = ("--probabilities", "--uncertainty", "--preview", "--intensities")
    outcome = se_med("predict", runs / "fold-1", runs / "fold-2", source, "-o", out, *extras)
    assert outcome.code == 0, outcome.err
    labels = nib.load(out / "t1_2.nii.gz")
    chances = nib.load(out / "probabilities" / "t1_2.nii.gz")
    assert chances.shape == (*labels.shape, 3)
    assert chances.get_data_dtype() == np.uint8
    values = chances.get_fdata()
    assert np.allclose(values.sum(-1), 1, atol=2 / 255)
    best = np.array([0, 3, 7])[values.argmax(-1)]
    sure = np.sort(values, -1)[..., -1] - np.sort(values, -1)[..., -2] > 1.5 / 255
    assert np.array_equal(best[sure], np.asarray(labels.dataobj)[sure])
    for name in ("entropy", "disagreement"):
        uncertainty = nib.load(out / "uncertainty" / f"t1_2_{name}.nii.gz")
        assert np.array_equal(uncertainty.affine, labels.affine)
        assert 0 <= uncertainty.get_fdata().min() <= uncertainty.get_fdata().max() <= 1
    assert np.array_equal(chances.affine, nib.load(source).affine)
    assert (out / "previews" / "t1_2.png").read_bytes().startswith(b"\x89PNG")
    row, image = rows(out)["t1_2"], nib.load(source).get_fdata()
    inside = image[np.asarray(labels.dataobj) == 3]
    assert float(row["front_mean"]) == pytest.approx(inside.mean(), rel=1e-4)
    assert float(row["front_sd"]) == pytest.approx(inside.std(), rel=1e-4)
    assert sorted(path.name for path in out.iterdir()) == [
        "predictions.csv", "previews", "probabilities", "t1_2.json", "t1_2.nii.gz", "uncertainty",
    ]  # fmt: skip
    # Fewer outputs are there already; a missing one is made again.
    assert "1 skipped" in se_med("predict", runs / "*", source, "-o", out).out
    (out / "previews" / "t1_2.png").unlink()
    assert "1 segmented" in se_med("predict", runs / "*", source, "-o", out, "--preview").out


def test_what_cannot_be_is_refused_before_anything_is_written(runs, images, se_med, tmp_path):
    source, out = images / "s0", tmp_path / "out"
    unfinished = runs.parent / "unfinished"
    for arguments, message in {
        (): "no run given",
        (source, source): "model.safetensors",
        (unfinished, source): "finish its training",
        (runs / "fold-1", unfinished, source): "is a run without weights",
        (runs / "fold-1", source, "--shard", "3/2"): "shard 3/2",
        (runs / "fold-1", source, "--address", "tcp://host:1"): "only the engine dask",
        (runs / "fold-1", source, "--workers", "-1"): "cannot be negative",
        (runs / "fold-1", source / "*.mha"): "no image matches",
    }.items():
        outcome = se_med("predict", *arguments, "-o", out)
        assert outcome.code == 2
        assert message in outcome.err
        assert "Traceback" not in outcome.err
    assert not out.exists()


@pytest.mark.parametrize("workers", ["0", pytest.param("1", marks=pytest.mark.slow)])
def test_an_interrupted_batch_goes_on_where_it_was(runs, se_med, tmp_path, workers):
    inputs, out = tmp_path / "in", tmp_path / "out"
    inputs.mkdir()
    for index in range(40):
        noise = np.random.default_rng(index).normal(size=(24, 24, 24)).astype(np.float32)
        write_image(inputs / f"c{index:02}.nii", noise)
    command = [sys.executable, "-m", "se_med", "predict", runs / "fold-1", inputs, "-o", out, "--workers", workers]
    process = subprocess.Popen(command, env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}, stderr=subprocess.PIPE)
    end = time.monotonic() + 120
    while not list(out.glob("*.nii")):
        assert time.monotonic() < end
        assert process.poll() is None, process.stderr.read()
        time.sleep(0.02)
    process.send_signal(signal.SIGINT)
    assert process.wait(60) == 130
    assert b"Traceback" not in process.stderr.read()
    made = len(list(out.glob("*.nii")))
    assert 0 < made < 40
    assert len(rows(out)) >= made - 1
    outcome = se_med("predict", runs / "fold-1", inputs, "-o", out)
    assert outcome.code == 0
    assert f"{40 - made} segmented, {made} skipped" in outcome.out
    assert not list(out.glob(".*"))
