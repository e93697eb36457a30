"""Hostile and awkward images among good ones, through prediction, check and training."""

from __future__ import annotations

import csv
import json
from dataclasses import dataclass
from pathlib import Path

import nibabel
import numpy as np
import pytest
from hostile.conftest import Outcome, command, leftovers, write_good
from hostile_bytes import nifti, voxels
from hostile_images import ACCEPTED, REFUSED

from se_med.io.images import label_suffix, read_geometry


@dataclass(frozen=True)
class Predicted:
    """All images through one command."""

    inputs: Path
    output: Path
    outcome: Outcome
    rows: dict[str, dict[str, str]]


def write_images(folder: Path) -> None:
    folder.mkdir(parents=True)
    for name, entry in (*REFUSED.items(), *ACCEPTED.items()):
        (folder / f"{name}{entry.suffix}").write_bytes(entry.make())
        for suffix, content in entry.beside.items():
            (folder / f"{name}{suffix}").write_bytes(content)
    write_good(folder)


@pytest.fixture(scope="module")
def predicted(tiny_run, tmp_path_factory):
    folder = tmp_path_factory.mktemp("predicted")
    write_images(folder / "in")
    outcome = command("predict", tiny_run, folder / "in", "-o", folder / "out", "--threads", "1")
    with (folder / "out" / "predictions.csv").open(newline="") as file:
        rows = {row["case"]: row for row in csv.DictReader(file)}
    return Predicted(folder / "in", folder / "out", outcome, rows)


@pytest.mark.parametrize("name", REFUSED)
def test_a_bad_image_fails_alone(predicted, name):
    row, path = predicted.rows[name], predicted.inputs / f"{name}{REFUSED[name].suffix}"
    assert row["status"] == "failed"
    assert "\n" not in row["reason"]
    assert row["reason"].startswith(str(path.with_suffix("")).removesuffix(".nii"))
    assert REFUSED[name].says in row["reason"]
    assert not list(predicted.output.rglob(f"{name}.*"))


@pytest.mark.parametrize("name", ACCEPTED)
def test_an_awkward_image_is_segmented(predicted, name):
    entry, row = ACCEPTED[name], predicted.rows[name]
    assert (row["status"], row["reason"]) == ("done", "")
    source, result = (predicted.inputs / f"{name}{entry.suffix}", predicted.output / row["file"])
    wanted, found = read_geometry(source), read_geometry(result)
    assert found.shape == wanted.shape
    np.testing.assert_array_equal(found.affine, wanted.affine)
    if entry.turn is not None and label_suffix(source) in (".nii", ".nii.gz"):
        plain = np.asarray(nibabel.load(predicted.output / "plain.nii.gz").dataobj)
        assert len(np.unique(plain)) > 1
        np.testing.assert_array_equal(np.asarray(nibabel.load(result).dataobj), entry.turn(plain))


def test_the_other_cases_are_as_without_them(predicted, tiny_run, tmp_path):
    (tmp_path / "in").mkdir()
    write_good(tmp_path / "in")
    assert command("predict", tiny_run, tmp_path / "in", "-o", tmp_path / "out", "--threads", "1").code == 0
    for name in ("good_a.nii", "good_b.nii"):
        assert (tmp_path / "out" / name).read_bytes() == (predicted.output / name).read_bytes()


def test_a_prediction_with_bad_images_ends_in_order(predicted):
    assert predicted.outcome.code == 1
    assert f"{len(REFUSED)} failed" in predicted.outcome.out
    assert leftovers(predicted.output) == []
    expected = {f"{name}.json" for name in (*ACCEPTED, "good_a", "good_b")} | {"predictions.csv"}
    expected |= {row["file"] for row in predicted.rows.values() if row["status"] == "done"}
    assert {path.name for path in predicted.output.iterdir()} == expected


# Training and check meet the same images as cases with labels.


def write_dataset(root: Path, names: list[str]) -> None:
    (root / "imagesTr").mkdir(parents=True)
    (root / "labelsTr").mkdir()
    entries = []
    for name in names:
        entry = REFUSED.get(name) or ACCEPTED[name]
        (root / "imagesTr" / f"{name}{entry.suffix}").write_bytes(entry.make())
        for suffix, content in entry.beside.items():
            (root / "imagesTr" / f"{name}{suffix}").write_bytes(content)
        (root / "labelsTr" / f"{name}.nii").write_bytes(label_of(root / "imagesTr" / f"{name}{entry.suffix}"))
        entries.append({"image": f"imagesTr/{name}{entry.suffix}", "label": f"labelsTr/{name}.nii"})
    labels = {"background": 0, "half": 1}
    (root / "dataset.json").write_text(json.dumps({"modality": {"0": "MRI"}, "labels": labels, "training": entries}))


def label_of(image: Path) -> bytes:
    """A label map of an image: its upper half; of one that cannot be read, of the plain one."""
    try:
        grid = read_geometry(image)
    except Exception:  # noqa: BLE001 - whatever is wrong with it is what the tests are about
        return nifti((voxels() > 60).astype(np.uint8))
    label = np.zeros(grid.shape, np.uint8)
    label.reshape(-1)[label.size // 2 :] = 1
    return nifti(label, grid.affine)


IN_TRAINING = [name for name, entry in REFUSED.items() if entry.training]
GOOD = ["plain", "larger_than_patch"]
CONSTANT = [name for name, entry in ACCEPTED.items() if entry.constant]


@pytest.fixture(scope="module")
def bad_dataset(tmp_path_factory):
    root = tmp_path_factory.mktemp("bad") / "set"
    write_dataset(root, [*IN_TRAINING, *CONSTANT, *GOOD])
    return root


@pytest.fixture(scope="module")
def trained(bad_dataset, tmp_path_factory):
    folder = tmp_path_factory.mktemp("trained")
    (folder / "run.yaml").write_text(
        f"name: bad\ndata: {{root: {bad_dataset}, cache: {folder / 'cache'}, folds: 2}}\ntraining: {{steps: 2}}\n"
    )
    return folder, command("train", folder / "run.yaml", "--runs", folder / "runs")


@pytest.fixture(scope="module")
def checked(bad_dataset, tmp_path_factory):
    folder = tmp_path_factory.mktemp("checked")
    outcome = command("check", bad_dataset, "-o", folder / "report")
    return json.loads((folder / "report" / "check.json").read_text()), outcome, folder / "report"


@pytest.mark.parametrize("name", [*IN_TRAINING, *CONSTANT])
def test_training_names_every_bad_image_on_one_line(trained, bad_dataset, name):
    entry = REFUSED.get(name)
    says = "every voxel is" if entry is None else entry.says
    stem = str(bad_dataset / "imagesTr" / name)
    lines = [line for line in trained[1].err.splitlines() if f"{stem}." in line]
    assert len(lines) == 1
    assert says in lines[0]


def test_training_on_bad_images_does_not_start(trained):
    folder, outcome = trained
    assert outcome.code == 3
    assert not (folder / "runs" / "bad").exists()
    assert not (folder / "cache").exists() or not list((folder / "cache").iterdir())
    assert not any(f"/imagesTr/{name}." in line for name in GOOD for line in outcome.err.splitlines())


@pytest.mark.parametrize("name", [*IN_TRAINING, *CONSTANT])
def test_check_finds_every_bad_image(checked, name):
    found = [finding for finding in checked[0]["findings"] if finding["case"] == name and finding["severity"] == "error"]
    assert len(found) == 1
    entry = REFUSED.get(name)
    assert ("every voxel is" if entry is None else entry.says.partition(": ")[2] or entry.says) in found[0]["message"]
    assert "\n" not in found[0]["message"]


def test_check_reports_bad_images_and_good_ones(checked):
    document, outcome, folder = checked
    assert outcome.code == 3
    assert document["cases_found"] == len(IN_TRAINING) + len(CONSTANT) + len(GOOD)
    errors = {finding["case"] for finding in document["findings"] if finding["severity"] == "error"}
    assert not errors & set(GOOD)
    assert sorted(path.name for path in folder.iterdir()) == ["check.html", "check.json"]


def test_training_runs_on_awkward_images(tmp_path):
    names = [name for name, entry in ACCEPTED.items() if not entry.constant]
    write_dataset(tmp_path / "set", names)
    # Most hold the same voxels. What is held out must be another image than those that are trained on.
    (tmp_path / "run.yaml").write_text(
        f"name: odd\ndata: {{root: {tmp_path / 'set'}, cache: {tmp_path / 'cache'}, split: {tmp_path / 'split.json'}}}\n"
        "network: {features: [4, 8], strides: [[2, 2, 2]], stem: [1, 1, 1], encoder_units: 1, decoder_units: 1}\n"
        "training: {steps: 2, batch_size: 2, patch: [16, 16, 16], precision: fp32, threads: 1}\n"
    )
    held_out = ["thin_rod", "one_slice", "larger_than_patch"]
    train = [name for name in names if name not in held_out]
    (tmp_path / "split.json").write_text(json.dumps([{"train": train, "validation": held_out}]))
    outcome = command("train", tmp_path / "run.yaml", "--runs", tmp_path / "runs")
    assert outcome.code == 0, outcome.err
    assert (tmp_path / "runs" / "odd" / "model.safetensors").exists()
