"""Hostile and awkward label maps through training, check and evaluation."""

from __future__ import annotations

import json

import pytest
from hostile.conftest import command
from hostile_bytes import nifti, voxels
from hostile_labels import ACCEPTED, REFUSED, structures

LABELS = {"background": 0, "one": 1, "two": 2}


def write_dataset(root, labels):
    """A data set in which every image is another one, and every label map one of those given."""
    for part in ("imagesTr", "labelsTr"):
        (root / part).mkdir(parents=True)
    entries = []
    for number, (name, content) in enumerate(labels.items()):
        image = voxels()
        image[0, 0, 0] = -number
        (root / "imagesTr" / f"{name}.nii").write_bytes(nifti(image))
        (root / "labelsTr" / f"{name}.nii").write_bytes(content)
        entries.append({"image": f"imagesTr/{name}.nii", "label": f"labelsTr/{name}.nii"})
    content = {"modality": {"0": "MRI"}, "labels": LABELS, "training": entries}
    (root / "dataset.json").write_text(json.dumps(content))


@pytest.fixture(scope="module")
def bad(tmp_path_factory):
    root = tmp_path_factory.mktemp("labels") / "set"
    good = {f"good_{number}": nifti(structures()) for number in range(2)}
    write_dataset(root, {name: make() for name, (make, _) in REFUSED.items()} | good)
    return root


@pytest.fixture(scope="module")
def trained(bad):
    config = bad.parent / "run.yaml"
    config.write_text(f"name: bad\ndata: {{root: {bad}, cache: {bad.parent / 'cache'}}}\ntraining: {{steps: 2}}\n")
    return command("train", config, "--runs", bad.parent / "runs")


@pytest.fixture(scope="module")
def checked(bad):
    outcome = command("check", bad, "-o", bad.parent / "report")
    assert outcome.code == 3
    return json.loads((bad.parent / "report" / "check.json").read_text())["findings"]


@pytest.fixture(scope="module")
def evaluated(bad):
    reference = bad.parent / "reference"
    reference.mkdir()
    for path in (bad / "labelsTr").iterdir():
        (reference / path.name).write_bytes(nifti(structures()))
    (reference / "dataset.json").write_text(json.dumps({"labels": LABELS}))
    outcome = command("evaluate", bad / "labelsTr", reference, "--json")
    assert outcome.code == 1
    return json.loads(outcome.out)


@pytest.mark.parametrize("name", REFUSED)
def test_training_names_every_bad_label_map(trained, bad, name):
    assert trained.code == 3
    lines = [line for line in trained.err.splitlines() if str(bad / "labelsTr" / f"{name}.nii") in line]
    assert len(lines) == 1
    assert REFUSED[name][1] in lines[0]
    assert not (bad.parent / "runs" / "bad").exists()


@pytest.mark.parametrize("name", REFUSED)
def test_check_finds_every_bad_label_map(checked, name):
    found = [finding for finding in checked if finding["case"] == name and finding["severity"] == "error"]
    assert len(found) == 1
    assert REFUSED[name][1] in found[0]["message"]


@pytest.mark.parametrize("name", REFUSED)
def test_evaluation_leaves_every_bad_label_map_out(evaluated, name):
    failures = [entry["message"] for entry in evaluated["failures"] if entry["case"] == name]
    assert len(failures) == 1
    assert f"{name}.nii: " in failures[0]
    assert REFUSED[name][1] in failures[0] or "undeclared" in REFUSED[name][1]


def test_evaluation_goes_on_with_the_good_ones(evaluated):
    assert {entry["case"] for entry in evaluated["failures"]} == set(REFUSED)
    assert evaluated["mean_dice"] == 1.0


def test_awkward_label_maps_are_scored_and_trained_on(tmp_path):
    write_dataset(tmp_path / "set", {name: make() for name, make in ACCEPTED.items()})
    (tmp_path / "reference").mkdir()
    for name in ACCEPTED:
        (tmp_path / "reference" / f"{name}.nii").write_bytes(nifti(structures()))
    outcome = command("evaluate", tmp_path / "set" / "labelsTr", tmp_path / "reference", "--json")
    assert outcome.code == 0, outcome.err
    scores = {row["case"]: row["dice"] for row in json.loads(outcome.out)["scores"]}
    assert {name for name, dice in scores.items() if dice != 1.0} == {"empty"}
    config = tmp_path / "run.yaml"
    config.write_text(
        f"name: odd\ndata: {{root: {tmp_path / 'set'}, cache: {tmp_path / 'cache'}, folds: 2}}\n"
        "network: {features: [4, 8], strides: [[2, 2, 2]], stem: [1, 1, 1], encoder_units: 1, decoder_units: 1}\n"
        "training: {steps: 2, batch_size: 2, patch: [16, 16, 16], precision: fp32, threads: 1}\n"
    )
    outcome = command("train", config, "--runs", tmp_path / "runs")
    assert outcome.code == 0, outcome.err
