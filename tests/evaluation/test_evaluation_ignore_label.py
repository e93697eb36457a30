"""Voxels of the reference without a truth are in no score."""

import nibabel as nib
import numpy as np
import pytest

from se_med.errors import ImageError, UsageError
from se_med.evaluation.folders import evaluate_folder
from se_med.evaluation.metrics import score_case

LABELS = {"one": 1, "two": 2}


def maps(seed: int) -> tuple[np.ndarray, np.ndarray]:
    generator = np.random.default_rng(seed)
    return tuple(generator.integers(0, 3, (9, 8, 7)).astype(np.uint8) for _ in range(2))


def test_scores_are_those_of_maps_that_are_background_there():
    prediction, reference = maps(0)
    unknown = np.zeros(reference.shape, bool)
    unknown[3:6, 2:] = True
    marked = np.where(unknown, 255, reference)
    found = score_case("a", prediction, marked, (1, 2, 1.5), LABELS, 1.0, ignore_label=255)
    blanked = [np.where(unknown, 0, array) for array in (prediction, reference)]
    assert found == score_case("a", *blanked, (1, 2, 1.5), LABELS, 1.0)
    for score, value in zip(found, LABELS.values(), strict=True):
        known = ~unknown
        both = np.count_nonzero((prediction == value) & (reference == value) & known)
        either = np.count_nonzero((prediction == value) & known) + np.count_nonzero((reference == value) & known)
        assert score.dice == pytest.approx(2 * both / either)
        assert score.reference_ml == pytest.approx(np.count_nonzero((reference == value) & known) * 3 / 1000)


def test_what_the_prediction_says_there_changes_nothing():
    prediction, reference = maps(1)
    reference[4:] = 9
    other = prediction.copy()
    other[4:] = 2 - prediction[4:]
    assert score_case("a", prediction, reference, (1, 1, 1), LABELS, 1.0, ignore_label=9) == score_case(
        "a", other, reference, (1, 1, 1), LABELS, 1.0, ignore_label=9
    )


def test_value_is_undeclared_without_the_setting_and_in_predictions():
    prediction, reference = maps(2)
    marked = np.where(reference == 2, 9, reference)
    with pytest.raises(ImageError, match="reference: undeclared label values 9"):
        score_case("a", prediction, marked, (1, 1, 1), LABELS, 1.0)
    outside = prediction.copy()
    outside[reference == 1] = 9
    with pytest.raises(ImageError, match="prediction: undeclared label values 9"):
        score_case("a", outside, marked, (1, 1, 1), LABELS, 1.0, ignore_label=9)


@pytest.fixture
def folders(tmp_path):
    prediction, reference = maps(3)
    reference[:4] = 9
    for folder, array in (("pred", prediction), ("ref", reference)):
        (tmp_path / folder).mkdir()
        nib.save(nib.Nifti1Image(array, np.eye(4)), tmp_path / folder / "a.nii.gz")
    return tmp_path / "pred", tmp_path / "ref"


def test_folders(folders):
    prediction, reference = folders
    evaluation = evaluate_folder(prediction, reference, ignore_label=9)
    assert evaluation.labels == {"1": 1, "2": 2}
    assert not evaluation.failures
    arrays = [np.asarray(nib.load(path / "a.nii.gz").dataobj) for path in folders]
    expected = score_case("a", *arrays, (1, 1, 1), {"1": 1, "2": 2}, 1.0, ignore_label=9)
    assert list(evaluation.summary.scores) == expected
    assert evaluate_folder(prediction, reference, {"one": 1, "two": 2}).failures[0].message.count("undeclared label values 9")
    with pytest.raises(UsageError, match="ignore label 2: is the value of a structure"):
        evaluate_folder(prediction, reference, {"one": 1, "two": 2}, ignore_label=2)


def test_missing_prediction_is_missed_outside_of_them_alone(folders):
    prediction, reference = folders
    nib.save(nib.load(reference / "a.nii.gz"), reference / "b.nii.gz")
    scores = evaluate_folder(prediction, reference, LABELS, ignore_label=9).summary.scores
    missing = [score for score in scores if score.case == "b"]
    assert [score.status for score in missing] == ["missed", "missed"]
    assert missing[0].reference_ml == next(score.reference_ml for score in scores if score.case == "a")


def test_command(folders, se_med):
    outcome = se_med("evaluate", *folders, "--ignore-label", 9, "--json")
    assert outcome.code == 0, outcome.err
    assert '"mean_dice"' in outcome.out
