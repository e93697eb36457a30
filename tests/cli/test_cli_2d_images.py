"""2D images through the command line: trained on by themselves, predicted as PNG, evaluated against PNG, mixed with volumes."""

from __future__ import annotations

import json

import nibabel as nib
import numpy as np
import pytest
from flat_data import picture, write_pictures
from PIL import Image

CONFIG = """\
name: pictures
data: {{root: {root}, folds: 4, cache: {cache}}}
network: {{features: [4, 8], strides: [[2, 2]], stem: [1, 1], encoder_units: 1, decoder_units: 1}}
attention: scse
training: {{steps: 30, batch_size: 2, patch: [32, 32], validations: 1, precision: fp32, threads: 1}}
"""


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """The run of a network that learnt thirty steps from JPEGs and PNG labels of the values 50 and 100, and its data."""
    from se_med.cli.app import main

    folder = tmp_path_factory.mktemp("pictures")
    root = write_pictures(folder / "data", image=".jpg", scale=50)
    (folder / "pictures.yaml").write_text(CONFIG.format(root=root, cache=folder / "cache"))
    assert main(["train", str(folder / "pictures.yaml"), "--runs", str(folder / "runs")]) == 0
    return folder / "runs" / "pictures", root


def test_a_run_plans_a_2d_network_and_scores_in_pixels(trained):
    run, _ = trained
    plan = json.loads((run / "plan.json").read_text())
    assert (plan["spatial_dims"], plan["slice_axis"], plan["flat"]) == (2, 2, True)
    assert "spatial_dims: 2" in (run / "config.yaml").read_text()
    lines = (run / "validation" / "cases.csv").read_text().splitlines()
    assert len(lines) == 3  # one case of two structures


def test_a_folder_of_jpegs_gives_pngs_that_can_be_evaluated(trained, se_med, tmp_path):
    run, root = trained
    assert se_med("predict", run, root / "images", "-o", tmp_path / "out").code == 0
    written = sorted(path.name for path in (tmp_path / "out").iterdir())
    assert written == [*(f"{n}.{s}" for n in "abcd" for s in ("json", "png")), "predictions.csv"]
    assert "disc_pixels" in (tmp_path / "out" / "predictions.csv").read_text()
    for name in "abcd":
        stored = np.asarray(Image.open(tmp_path / "out" / f"{name}.png"))
        assert stored.shape == (36, 44)
        assert set(np.unique(stored)) <= {0, 50, 100}
        sidecar = json.loads((tmp_path / "out" / f"{name}.json").read_text())
        assert sidecar["spacing_mm"] is None
        assert sidecar["areas_pixels"] == {"disc": int((stored == 50).sum()), "bar": int((stored == 100).sum())}
        assert "volumes_ml" not in sidecar
    outcome = se_med("evaluate", tmp_path / "out", root / "labels", "--json")
    assert outcome.code == 0
    result = json.loads(outcome.out)
    assert result["cases"] == 4
    assert any("4 cases are 2D images" in line and "read pixels for mm" in line for line in result["warnings"])
    # Equal to a plain computation on the PNG files themselves.
    dice = []
    for seed, name in enumerate("abcd"):
        found = np.asarray(Image.open(tmp_path / "out" / f"{name}.png")) == 100
        true = picture(seed)[1] == 2
        dice.append(2 * (found & true).sum() / (found.sum() + true.sum()))
    assert result["structures"][1]["dice"] == pytest.approx(np.mean(dice))


def test_a_picture_of_the_median_case_is_drawn(trained, se_med, tmp_path):
    _, root = trained
    labels, picture_file = root / "labels", tmp_path / "median.png"
    outcome = se_med("evaluate", labels, labels, "--images", root / "images", "--picture", picture_file)
    assert outcome.code == 0
    assert Image.open(picture_file).size[0] > 200


def test_volumes_and_2d_images_may_lie_in_one_folder(trained, se_med, tmp_path):
    run, root = trained
    mixed = tmp_path / "mixed"
    mixed.mkdir()
    (mixed / "photo.jpg").write_bytes((root / "images/a.jpg").read_bytes())
    pixels = np.asarray(Image.open(root / "images/b.jpg")).astype(np.float32)
    stack = np.stack([pixels.transpose(1, 0, 2)] * 2, axis=2)  # two equal slices, channels last
    nib.save(nib.Nifti1Image(stack, np.diag([-1.0, -1.0, 1.0, 1.0])), mixed / "stack.nii.gz")
    Image.fromarray(np.dstack([pixels, pixels[..., 0]]).astype(np.uint8)).save(mixed / "clear.png")
    outcome = se_med("predict", run, mixed, "-o", tmp_path / "out")
    assert outcome.code == 1
    assert "transparency" in outcome.out
    labels = sorted(path.name for path in (tmp_path / "out").iterdir() if path.suffix not in (".json", ".csv"))
    assert labels == ["photo.png", "stack.nii.gz"]
    # Slice by slice, a volume gets the labels of the image that it holds.
    se_med("predict", run, root / "images/b.jpg", "-o", tmp_path / "alone")
    alone = np.asarray(Image.open(tmp_path / "alone/b.png")).T
    in_volume = np.asarray(nib.load(tmp_path / "out/stack.nii.gz").dataobj)
    for index in range(2):
        assert (in_volume[..., index] == alone).mean() > 0.99  # the volume is normalised as a whole
    assert se_med("evaluate", tmp_path / "out", tmp_path / "out").code == 0


def test_frame_numbers_are_no_channels(trained, tmp_path):
    from se_med.inference.cases import find_cases

    _, root = trained
    frames = tmp_path / "frames"
    frames.mkdir()
    for number in (0, 1, 2, 3):
        (frames / f"eye_{number:04d}.jpg").write_bytes((root / "images/a.jpg").read_bytes())
    assert [case.name for case in find_cases([frames], tmp_path / "out", 3)] == [f"eye_{n:04d}" for n in range(4)]
    (frames / "eye_0003.jpg").unlink()
    (case,) = find_cases([frames], tmp_path / "out", 3)  # one file per channel
    assert (case.name, case.channels, case.output.name) == ("eye", (0, 1, 2), "eye.png")


def test_a_run_on_2d_images_can_be_resumed_without_saying_so(trained):
    from se_med.config.load import load_config
    from se_med.training.run_data import stored_config
    from se_med.training.run_folder import RunFolder

    run, _ = trained
    given = load_config(run.parent.parent / "pictures.yaml")
    assert given.network.spatial_dims is None
    assert stored_config(given, RunFolder(run)).network.spatial_dims == 2
