"""Scores of structures with several values, and of structures that share values."""

import json

import nibabel as nib
import numpy as np
import pytest

from se_med.data.structures import label_record, structures_of
from se_med.errors import ImageError, UsageError
from se_med.evaluation.folders import evaluate_folder
from se_med.evaluation.metrics import score_case
from se_med.evaluation.picture import PALETTE, draw_case
from se_med.io.volume import Volume

BRATS = {"whole": [1, 2, 3], "core": [1, 3], "enhancing": 3}


def random_labels(seed, values=(0, 1, 2, 3), shape=(9, 8, 7)):
    return np.random.default_rng(seed).choice(values, shape).astype(np.uint8)


def save(path, array):
    path.parent.mkdir(parents=True, exist_ok=True)
    nib.save(nib.Nifti1Image(array, np.eye(4)), path)


def test_each_region_is_scored_as_a_mask_of_its_own():
    prediction, reference = random_labels(0), random_labels(1)
    found = score_case("a", prediction, reference, (1, 2, 1.5), BRATS, 1.0)
    for score, (name, values) in zip(found, BRATS.items(), strict=True):
        masks = [np.isin(array, values).astype(np.uint8) for array in (prediction, reference)]
        assert [score] == score_case("a", *masks, (1, 2, 1.5), {name: 1}, 1.0)
    assert found[0].dice > found[2].dice


def test_raw_values_of_a_reference_are_merged():
    raw = random_labels(0, (0, 1, 3, 4))
    written = np.where(raw == 4, 3, raw)  # a prediction has the first value only
    for score in score_case("a", written, raw, (1, 1, 1), {"liver": 1, "tumour": (3, 4)}, 1.0):
        assert (score.dice, score.hd95, score.nsd) == (1, 0, 1)


def test_background_values_count_as_background():
    raw = random_labels(0, (0, 1, 5))
    plain = np.where(raw == 5, 0, raw)
    labels = {"liver": 1}
    assert score_case("a", plain, raw, (1, 1, 1), labels, 1.0, background_values=(5,)) == score_case(
        "a", plain, plain, (1, 1, 1), labels, 1.0
    )
    with pytest.raises(ImageError, match=r"undeclared label values 5 \(\d+ voxels\); declared are 1 \(liver\)"):
        score_case("a", plain, raw, (1, 1, 1), labels, 1.0)


@pytest.fixture
def folders(tmp_path):
    """Predictions that write 2 for `rest`, references with 2 and 4, and 5 which is no structure."""
    for seed, case in enumerate("ab"):
        raw = random_labels(seed, (0, 1, 2, 4, 5))
        save(tmp_path / "ref" / f"{case}.nii.gz", raw)
        save(tmp_path / "pred" / f"{case}.nii.gz", np.where(raw == 4, 2, np.where(raw == 5, 0, raw)).astype(np.uint8))
    return tmp_path / "pred", tmp_path / "ref"


STRUCTURES = structures_of({"first": 1, "rest": [2, 4]})


def test_meaning_is_read_from_the_sidecars(folders):
    prediction, reference = folders
    for case in "ab":
        (prediction / f"{case}.json").write_text(json.dumps(label_record(STRUCTURES, [5])))
    evaluation = evaluate_folder(prediction, reference)
    assert evaluation.summary.dice == {"first": 1, "rest": 1}
    assert evaluation.labels == {"first": 1, "rest": (2, 4)}
    assert json.loads(json.dumps(evaluation.to_dict()))["labels"] == {"first": 1, "rest": [2, 4]}
    (prediction / "b.json").write_text(json.dumps(label_record(STRUCTURES, [5, 6])))
    with pytest.raises(UsageError, match="two models are mixed"):
        evaluate_folder(prediction, reference)
    (prediction / "b.json").write_text(json.dumps({"labels": {"a": 1}, "background_values": "5"}))
    with pytest.raises(UsageError, match="background_values '5' are not a list"):
        evaluate_folder(prediction, reference)


def test_meaning_is_given(folders):
    assert evaluate_folder(*folders, {"first": 1, "rest": [2, 4]}, background_values=[5]).summary.dice == {"first": 1, "rest": 1}
    regions = evaluate_folder(*folders, {"all": [1, 2, 4], "rest": [2, 4]}, background_values=[5]).summary
    assert regions.dice == {"all": 1, "rest": 1}
    evaluation = evaluate_folder(*folders, {"first": 1, "rest": [2, 4]})
    assert len(evaluation.failures) == 2
    assert "undeclared label values 5" in evaluation.failures[0].message
    with pytest.raises(UsageError, match="background_values: 2 is the value of structure rest"):
        evaluate_folder(*folders, {"first": 1, "rest": [2, 4]}, background_values=[2])
    with pytest.raises(UsageError, match="two labels have the same value"):
        evaluate_folder(*folders, {"a": [2, 4], "b": [4, 2]})
    with pytest.raises(UsageError, match="label 'a' has the value"):
        evaluate_folder(*folders, {"a": [0, 4]})


def test_regions_of_nnunet_beside_the_references(folders):
    labels = {"background": 0, "all": [1, 2, 4], "rest": [2, 4]}
    (folders[1] / "dataset.json").write_text(json.dumps({"labels": labels, "regions_class_order": [1, 2]}))
    evaluation = evaluate_folder(*folders, background_values=[5])
    assert evaluation.summary.dice == {"all": 1, "rest": 1}
    assert evaluation.labels_from.endswith("dataset.json")


def test_command_takes_the_meaning_from_a_configuration(folders, se_med, tmp_path):
    config = tmp_path / "config.yaml"
    config.write_text("data: {labels: {first: 1, rest: [2, 4]}, background_values: [5]}")
    for given in (config, tmp_path):
        outcome = se_med("evaluate", *folders, "--config", given, "--json")
        assert outcome.code == 0, outcome.err
        assert json.loads(outcome.out)["mean_dice"] == 1
    config.write_text("data: {labels: {first: 1}, background_values: [5], ignore_label: 2}")
    assert json.loads(se_med("evaluate", *folders, "--config", config, "--json").out)["failures"][0]["message"].count("values 4")
    config.write_text("name: nothing")
    outcome = se_med("evaluate", *folders, "--config", config)
    assert outcome.code == 2
    assert "says nothing of labels" in outcome.err


def test_regions_are_drawn_each_in_its_colour(tmp_path):
    import matplotlib.image

    label = np.zeros((40, 40, 5), np.uint8)
    label[5:35, 5:35, 2], label[10:30, 10:30, 2], label[15:25, 15:25, 2] = 2, 1, 3
    draw_case(Volume(np.zeros((1, *label.shape), np.float32), np.eye(4)), label, None, tmp_path / "a.png", BRATS)
    picture = matplotlib.image.imread(tmp_path / "a.png")[..., :3]
    widths = []
    for colour in PALETTE[:3]:
        tone = np.array([int(colour[start : start + 2], 16) for start in (1, 3, 5)]) / 255
        columns = np.argwhere(np.abs(picture[: int(0.85 * len(picture))] - tone).max(-1) < 0.02)[:, 1]
        widths.append(np.ptp(columns))
    assert widths[0] > 1.3 * widths[1] > 1.7 * widths[2] > 0
