"""`se-med explain` from the command line, on a network that was trained for a few steps."""

import csv
import json
import re
import shutil

import nibabel as nib
import numpy as np
import pytest
from small_data import make_small_data

CONFIG = """\
name: small
data: {{root: {root}, folds: 4, cache: {cache}}}
network: {{features: [4, 8], strides: [[2, 2, 2]], stem: [1, 1, 1], encoder_units: 1, decoder_units: 1}}
attention: {attention}
training: {{steps: 8, batch_size: 2, patch: [16, 16, 16], epoch_steps: 4, validations: 1, precision: fp32, threads: 1}}
"""


def train(tmp, attention):
    from se_med.cli.app import main

    data = tmp / "data"
    if not data.exists():
        make_small_data(data, 10)
    config = tmp / f"{attention}.yaml"
    config.write_text(CONFIG.format(root=data, cache=tmp / "cache", attention=attention))
    assert main(["train", str(config), "--runs", str(tmp / attention)]) == 0
    return next((tmp / attention).glob("*/model.safetensors")).parent


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A run with scSE, its images and labels."""
    tmp = tmp_path_factory.mktemp("trained")
    return train(tmp, "scse"), tmp / "data"


def rows(path):
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def test_everything_at_once(trained, se_med, tmp_path):
    run, data = trained
    table = tmp_path / "cases.csv"
    table.write_text("case;site;age\n" + "".join(f"case_{n:02d};{'ab'[n % 2]};{30 + n}\n" for n in range(10)))
    out = tmp_path / "out"
    found = se_med("explain", run, data / "imagesTr", "--labels", data / "labelsTr", "--covariates", table, "-o", out,
                   "--maps", 1, "--context", "--prune", tmp_path / "pruned", "--allowed", 1)  # fmt: skip
    assert found.code == 0, found.err
    assert "2 gates" in found.out

    gates = rows(out / "gates.csv")
    wanted = [(site, "0", "scse", part) for site in ("encoder", "decoder") for part in ("", "channel", "spatial")]
    assert [(row["site"], row["stage"], row["block"], row["part"]) for row in gates] == wanted
    for row in gates:
        shares = sum(float(row[name]) for name in ("share_channels", "share_cases", "share_positions"))
        assert shares == pytest.approx(1, abs=1e-4)
        assert (row["cases"], row["channels"]) == ("10", "1" if row["part"] == "spatial" else "4")
    cases = rows(out / "cases.csv")
    assert [row["case"] for row in cases] == [f"case_{number:02d}" for number in range(10)]
    label = nib.load(data / "labelsTr" / "case_00.nii.gz").get_fdata()
    assert float(cases[0]["volume_ml:box"]) == pytest.approx((label == 2).sum() / 1000, rel=1e-4)
    profiles = rows(out / "profiles.csv")
    assert {row["class"] for row in profiles if row["view"] == "regions"} == {"background", "ball", "box"}
    covariates = rows(out / "covariates.csv")
    assert {row["covariate"] for row in covariates} >= {"site", "age", "volume of ball", "Dice of ball"}
    assert all(float(row["p"]) <= float(row["q"]) <= 1 for row in covariates)

    summary = json.loads((out / "summary.json").read_text())
    assert summary["cases"] == [row["case"] for row in cases]
    assert {row["replacement"] for row in summary["knockout"]["rows"]} == {"mean", "one", "shuffled"}
    assert summary["context"]["cases"]
    assert summary["pruned"]["model"]
    assert (tmp_path / "pruned" / "pruned" / "model.safetensors").is_file()
    assert any("trained on" in note for note in summary["notes"])

    image = nib.load(data / "imagesTr" / "case_00.nii.gz")
    for place in ("encoder_0", "decoder_0"):
        one = nib.load(out / "maps" / f"case_00_{place}.nii.gz")
        assert one.shape == image.shape
        np.testing.assert_array_equal(one.affine, image.affine)
        assert 0 < one.get_fdata().min() < one.get_fdata().max() < 1
    assert (out / "maps" / "case_00.png").is_file()
    assert not (out / "maps" / "case_01.png").exists()

    page = (out / "explain.html").read_text()
    assert not re.findall(r"""(?:src|href)=["'](?!data:)""", page)
    for heading in (
        "In short",
        "Do gates tell classes apart?",
        "Where they look",
        "Which gates could go?",
        "Does the window matter?",
    ):
        assert heading in page
    assert not list(out.rglob("*.tmp"))


def test_a_bad_file_is_named_and_the_others_are_explained(trained, se_med, tmp_path):
    run, data = trained
    images = tmp_path / "images"
    shutil.copytree(data / "imagesTr", images)
    (images / "case_02.nii.gz").write_bytes(b"no image")
    found = se_med("explain", run, images, "-o", tmp_path / "out", "--maps", 0)
    assert found.code == 1
    assert "case_02" in found.err
    assert len(rows(tmp_path / "out" / "cases.csv")) == 9
    summary = json.loads((tmp_path / "out" / "summary.json").read_text())
    assert [failure["case"] for failure in summary["failures"]] == ["case_02"]
    assert summary["knockout"] is None
    assert not (tmp_path / "out" / "maps").exists()
    assert "case_02" in (tmp_path / "out" / "explain.html").read_text()


def test_a_plain_network_has_nothing_to_explain(trained, se_med, tmp_path):
    run, data = trained
    plain = train(run.parent.parent, "null")
    found = se_med("explain", plain, data / "imagesTr", "-o", tmp_path / "out")
    assert found.code == 2
    assert "no attention blocks" in found.err
    assert found.err.count("\n") == 1
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--knockout"], "--labels"),
        (["--prune", "somewhere"], "--labels"),
        (["--against", "somewhere"], "--context"),
        (["--covariates", "missing.csv"], "missing.csv"),
        (["--labels", "missing"], "missing"),
        (["--cases", "0"], "cases 0"),
    ],
)
def test_wrong_options_are_refused_before_anything_is_computed(trained, se_med, tmp_path, arguments, said):
    run, data = trained
    found = se_med("explain", run, data / "imagesTr", "-o", tmp_path / "out", *arguments)
    assert found.code == 2, found.err
    assert said in found.err
    assert not (tmp_path / "out").exists()


def test_without_images_the_held_out_cases_are_explained(trained, se_med, tmp_path):
    run, _ = trained
    found = se_med("explain", run, "-o", tmp_path / "out", "--maps", 0)
    assert found.code == 0, found.err
    (fold,) = json.loads((run / "split.json").read_text())
    assert [row["case"] for row in rows(tmp_path / "out" / "cases.csv")] == fold["validation"]
    summary = json.loads((tmp_path / "out" / "summary.json").read_text())
    assert summary["knockout"]
    assert not any("trained on" in note for note in summary["notes"])
    found = se_med("explain", run, "-o", tmp_path / "other", "--labels", tmp_path)
    assert found.code == 2


def test_cases_are_drawn_and_labels_must_fit(trained, se_med, tmp_path):
    run, data = trained
    found = se_med("explain", run, data / "imagesTr", "--labels", data / "labelsTr", "--no-knockout", "--cases", 2, "--maps", 0,
                   "-o", tmp_path / "out")  # fmt: skip
    assert found.code == 0, found.err
    assert len(rows(tmp_path / "out" / "cases.csv")) == 2
    assert not (tmp_path / "out" / "knockout.csv").exists()
    other = tmp_path / "labels"
    other.mkdir()
    shutil.copy(data / "labelsTr" / "case_00.nii.gz", other / "else.nii.gz")
    found = se_med("explain", run, data / "imagesTr", "--labels", other, "-o", tmp_path / "none")
    assert found.code == 2
    assert "no label file has the name of a case" in found.err
