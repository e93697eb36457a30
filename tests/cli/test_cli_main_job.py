"""The main job through the command line: train, predict, evaluate."""

import csv
import json

import nibabel as nib
import numpy as np
import pytest
from small_data import SMALL_CONFIG

RUN_FILES = ["config.yaml", "plan.json", "split.json", "model.safetensors", "metrics.csv", "provenance.json", "log.txt"]


@pytest.fixture(scope="module")
def trained(tmp_path_factory, small_data, small_cache):
    """A finished run of eight steps."""
    from se_med.cli.app import main

    folder = tmp_path_factory.mktemp("trained")
    config = folder / "small.yaml"
    config.write_text(SMALL_CONFIG.format(root=small_data, cache=small_cache))
    assert main(["train", str(config), "--runs", str(folder / "runs")]) == 0
    return folder / "runs" / "small"


def test_run_folder_is_complete(trained):
    for name in RUN_FILES:
        assert (trained / name).stat().st_size > 0, name
    provenance = json.loads((trained / "provenance.json").read_text())
    assert provenance["steps"] == 8
    assert len(provenance["stream_digest"]) == 64
    assert provenance["environment"]["threads"] == 1
    assert len(provenance["cases"]["train"]) == 6
    rows = list(csv.DictReader((trained / "metrics.csv").open()))
    assert [int(row["step"]) for row in rows] == [4, 8]
    assert rows[0]["mean_dice"] != ""
    scores = list(csv.DictReader((trained / "validation" / "cases.csv").open()))
    assert {(row["case"], row["structure"]) for row in scores} == {
        (case, name) for case in provenance["cases"]["validation"] for name in ("ball", "box")
    }


def test_finished_run_is_not_overwritten(trained, se_med, small_config):
    before = (trained / "model.safetensors").read_bytes()
    for extra in ([], ["--resume"]):
        outcome = se_med("train", small_config, "--runs", trained.parent, *extra)
        assert outcome.code == 2
        assert "this run is finished" in outcome.err
    assert (trained / "model.safetensors").read_bytes() == before


def test_stored_configuration_trains_the_same_run_again(trained, se_med, tmp_path):
    outcome = se_med("train", trained / "config.yaml", "--runs", tmp_path)
    assert outcome.code == 0, outcome.err
    assert (tmp_path / "small" / "model.safetensors").read_bytes() == (trained / "model.safetensors").read_bytes()
    again, first = (json.loads((folder / "provenance.json").read_text()) for folder in (tmp_path / "small", trained))
    assert again["stream_digest"] == first["stream_digest"]


def test_predict_writes_labels_on_each_grid_and_skips_them_later(trained, se_med, small_data, tmp_path):
    outcome = se_med("predict", trained, small_data / "imagesTr", "-o", tmp_path / "out")
    assert outcome.code == 0, outcome.err
    assert "8 segmented, 0 skipped (had a result), 0 failed" in outcome.out
    for source in sorted((small_data / "imagesTr").iterdir()):
        given, made = nib.load(source), nib.load(tmp_path / "out" / source.name)
        assert made.shape == given.shape
        assert np.array_equal(made.affine, given.affine)
        assert made.get_data_dtype() == np.uint8
        sidecar = json.loads((tmp_path / "out" / source.name.replace(".nii.gz", ".json")).read_text())
        assert sidecar["volumes_ml"]["ball"] == pytest.approx(np.count_nonzero(np.asarray(made.dataobj) == 1) / 1000, abs=1e-3)
    outcome = se_med("predict", trained, small_data / "imagesTr", "-o", tmp_path / "out")
    assert (outcome.code, "0 segmented, 8 skipped" in outcome.out) == (0, True)


def test_reoriented_volume_gives_the_same_labels(trained, se_med, small_data, tmp_path):
    source = nib.load(small_data / "imagesTr" / "case_00.nii.gz")
    inputs = tmp_path / "in"
    inputs.mkdir()
    nib.save(source, inputs / "ras.nii.gz")
    for axes in ("LPS", "PIR", "ASL"):
        orientation = nib.orientations.ornt_transform(nib.orientations.axcodes2ornt("RAS"), nib.orientations.axcodes2ornt(axes))
        nib.save(source.as_reoriented(orientation), inputs / f"{axes.lower()}.nii.gz")
    assert se_med("predict", trained, inputs, "-o", tmp_path / "out").code == 0
    reference = nib.load(tmp_path / "out" / "ras.nii.gz")
    assert np.unique(np.asarray(reference.dataobj)).size > 1
    for axes in ("LPS", "PIR", "ASL"):
        made = nib.load(tmp_path / "out" / f"{axes.lower()}.nii.gz")
        assert "".join(nib.aff2axcodes(made.affine)) == axes
        assert np.array_equal(np.asarray(nib.as_closest_canonical(made).dataobj), np.asarray(reference.dataobj))


def test_bad_volume_among_good_ones(trained, se_med, small_data, tmp_path):
    inputs = tmp_path / "in"
    inputs.mkdir()
    for name in ("case_00.nii.gz", "case_01.nii.gz"):
        (inputs / name).write_bytes((small_data / "imagesTr" / name).read_bytes())
    (inputs / "broken.nii.gz").write_bytes((small_data / "imagesTr" / "case_02.nii.gz").read_bytes()[:2000])
    outcome = se_med("predict", trained, inputs, "-o", tmp_path / "out")
    assert outcome.code == 1
    assert "2 segmented, 0 skipped (had a result), 1 failed" in outcome.out
    assert "broken" in outcome.out
    assert "truncated" in outcome.out
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == [
        "case_00.json", "case_00.nii.gz", "case_01.json", "case_01.nii.gz", "predictions.csv",
    ]  # fmt: skip


def test_evaluate_tables_csv_and_json(trained, se_med, small_data, tmp_path):
    assert se_med("predict", trained, small_data / "imagesTr", "-o", tmp_path / "out").code == 0
    outcome = se_med("evaluate", tmp_path / "out", small_data / "labelsTr", "--csv", tmp_path / "scores.csv")
    assert outcome.code == 0, outcome.err
    assert "ball" in outcome.out
    rows = list(csv.DictReader((tmp_path / "scores.csv").open()))
    assert len(rows) == 16
    outcome = se_med("evaluate", tmp_path / "out", small_data / "labelsTr", "--json")
    document = json.loads(outcome.out)
    by_hand = np.mean([np.mean([float(row["dice"]) for row in rows if row["structure"] == name]) for name in ("ball", "box")])
    assert document["mean_dice"] == pytest.approx(by_hand)


def test_perfect_segmentation_scores_one(se_med, small_data):
    outcome = se_med("evaluate", small_data / "labelsTr", small_data / "labelsTr", "--json")
    document = json.loads(outcome.out)
    assert (document["mean_dice"], document["mean_hd95"], document["mean_nsd"]) == (1.0, 0.0, 1.0)


def test_picture_of_the_median_case(se_med, small_data, tmp_path):
    outcome = se_med(
        "evaluate", small_data / "labelsTr", small_data / "labelsTr", "--images", small_data / "imagesTr",
        "--picture", tmp_path / "case.png",
    )  # fmt: skip
    assert outcome.code == 0, outcome.err
    assert (tmp_path / "case.png").read_bytes().startswith(b"\x89PNG")
