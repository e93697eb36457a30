from __future__ import annotations

import json
from contextlib import contextmanager

import nibabel
import numpy as np
import pytest

from se_med.errors import DataError, UsageError
from se_med.evaluation.folders import evaluate_folder


def write(path, array, affine=None):
    path.parent.mkdir(parents=True, exist_ok=True)
    nibabel.save(nibabel.Nifti1Image(np.asarray(array, np.uint8), np.eye(4) if affine is None else affine), path)
    return path


def cube(low=2, high=6, value=1, size=8):
    label = np.zeros((size, size, size), np.uint8)
    label[low:high, low:high, low:high] = value
    return label


@pytest.fixture
def folders(tmp_path):
    for case in "abc":
        write(tmp_path / "ref" / f"{case}.nii.gz", cube() + cube(6, 8, 2))
        write(tmp_path / "pred" / f"{case}.nii.gz", cube() + cube(6, 8, 2))
    return tmp_path / "pred", tmp_path / "ref"


LABELS = {"core": 1, "rim": 2}


def test_equal_folders_are_perfect(folders):
    evaluation = evaluate_folder(*folders, LABELS)
    assert evaluation.summary.cases == 3
    assert evaluation.summary.dice == {"core": 1.0, "rim": 1.0}
    assert (evaluation.summary.mean_hd95, evaluation.summary.mean_nsd) == (0.0, 1.0)
    assert (evaluation.failures, evaluation.missing, evaluation.extra, evaluation.warnings) == ((), (), (), ())
    assert evaluation.labels_from == "given"


def test_names_pair_whatever_the_compression(folders):
    prediction, reference = folders
    (prediction / "a.nii.gz").unlink()
    write(prediction / "a.nii", cube())
    evaluation = evaluate_folder(prediction, reference, LABELS)
    assert evaluation.missing == ()
    assert evaluation.summary.structures[1].missed == 1


def test_a_missing_prediction_counts_as_missed_for_what_the_reference_has(folders):
    prediction, reference = folders
    write(reference / "b.nii.gz", cube())  # no rim
    (prediction / "b.nii.gz").unlink()
    evaluation = evaluate_folder(prediction, reference, LABELS)
    assert evaluation.missing == ("b",)
    core, rim = evaluation.summary.structures
    assert core.dice == pytest.approx(2 / 3)
    assert (core.counted, core.missed, core.missing) == (3, 1, 1)
    assert (rim.counted, rim.missed, rim.absent, rim.missing) == (2, 0, 1, 1)
    assert rim.dice == 1.0
    assert "1 references have no prediction and count as missed: b" in evaluation.warnings


def test_predictions_without_a_reference_are_listed_and_not_scored(folders):
    prediction, reference = folders
    write(prediction / "z.nii.gz", cube())
    evaluation = evaluate_folder(prediction, reference, LABELS)
    assert evaluation.extra == ("z",)
    assert evaluation.summary.cases == 3
    assert any("z" in line for line in evaluation.warnings)


def test_bad_pairs_are_reported_with_both_numbers_and_the_others_go_on(folders):
    prediction, reference = folders
    write(prediction / "a.nii.gz", cube(), np.diag([1.0, 1.0, 2.0, 1.0]))
    write(prediction / "b.nii.gz", cube(size=9))
    (prediction / "c.nii.gz").write_bytes((prediction / "c.nii.gz").read_bytes()[:-4])
    write(prediction / "d.nii.gz", cube(value=5))
    write(reference / "d.nii.gz", cube())
    write(prediction / "e.nii.gz", cube())
    write(reference / "e.nii.gz", cube())
    evaluation = evaluate_folder(prediction, reference, LABELS)
    messages = {failure.case: failure.message for failure in evaluation.failures}
    assert set(messages) == {"a", "b", "c", "d"}
    assert "1x1x2" in messages["a"]
    assert "1x1x1" in messages["a"]
    assert "9x9x9" in messages["b"]
    assert "8x8x8" in messages["b"]
    assert "undeclared label values 5 (64 voxels)" in messages["d"]
    assert all(str(prediction / f"{case}.nii.gz") in message and "\n" not in message for case, message in messages.items())
    assert {score.case for score in evaluation.summary.scores} == {"e"}
    assert any("4 cases could not be scored" in line for line in evaluation.warnings)


def test_an_empty_prediction_is_missed_and_an_empty_reference_spurious(folders):
    prediction, reference = folders
    write(prediction / "a.nii.gz", cube(value=0))
    write(reference / "b.nii.gz", cube(value=0))
    core = evaluate_folder(prediction, reference, LABELS).summary.structures[0]
    assert (core.counted, core.missed, core.spurious, core.missing) == (3, 1, 1, 0)
    assert core.dice == pytest.approx(1 / 3)


def test_labels_come_from_sidecars_then_dataset_json_then_the_references(folders):
    prediction, reference = folders
    evaluation = evaluate_folder(prediction, reference)
    assert evaluation.labels == {"1": 1, "2": 2}
    assert evaluation.labels_from == "values in the references"
    (reference.parent / "dataset.json").write_text(json.dumps({"labels": {"0": "background", "1": "one", "2": "two"}}))
    evaluation = evaluate_folder(prediction, reference)
    assert evaluation.labels == {"one": 1, "two": 2}
    assert evaluation.labels_from == str(reference.parent / "dataset.json")
    (reference / "dataset.json").write_text(json.dumps({"labels": {"background": 0, "uno": 1, "due": 2}}))
    assert evaluate_folder(prediction, reference).labels == {"uno": 1, "due": 2}
    (prediction / "a.json").write_text(json.dumps({"labels": LABELS}))
    evaluation = evaluate_folder(prediction, reference)
    assert evaluation.labels == LABELS
    assert evaluation.labels_from == "sidecars of the predictions"
    assert evaluate_folder(prediction, reference, {"both": 1, "other": 2}).labels == {"both": 1, "other": 2}


def test_sidecars_of_two_models_are_refused(folders):
    prediction, reference = folders
    (prediction / "a.json").write_text(json.dumps({"labels": LABELS}))
    (prediction / "b.json").write_text(json.dumps({"labels": {"core": 2, "rim": 1}}))
    with pytest.raises(UsageError, match="predictions of two models are mixed"):
        evaluate_folder(prediction, reference)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", "not readable as JSON"),
        ('{"labels": {"a": "1"}}', "label 'a' has the value '1'"),
        ('{"labels": {"a": 0}}', "use whole numbers from 1"),
        ('{"labels": {"a": 1, "b": 1}}', "two labels have the same value"),
        ('{"labels": []}', "not a mapping"),
    ],
)
def test_unusable_labels_of_a_sidecar_are_refused(folders, content, message):
    prediction, reference = folders
    (prediction / "a.json").write_text(content)
    with pytest.raises(UsageError, match=rf"a\.json: .*{message}"):
        evaluate_folder(prediction, reference)


def test_an_unusable_dataset_json_is_a_data_error(folders):
    prediction, reference = folders
    (reference / "dataset.json").write_text("[")
    with pytest.raises(DataError, match=r"dataset\.json"):
        evaluate_folder(prediction, reference)


def test_references_without_any_structure_need_labels(tmp_path):
    write(tmp_path / "pred" / "a.nii.gz", cube())
    write(tmp_path / "ref" / "a.nii.gz", cube(value=0))
    with pytest.raises(UsageError, match="no structure in any reference"):
        evaluate_folder(tmp_path / "pred", tmp_path / "ref")
    assert evaluate_folder(tmp_path / "pred", tmp_path / "ref", {"x": 1}).summary.structures[0].spurious == 1


def test_two_files_are_a_pair_whatever_their_names(tmp_path):
    first, second = write(tmp_path / "mine.nii.gz", cube()), write(tmp_path / "expert.nii", cube())
    evaluation = evaluate_folder(first, second, {"x": 1})
    assert [(score.case, score.dice) for score in evaluation.summary.scores] == [("expert", 1.0)]
    assert (evaluation.missing, evaluation.extra) == ((), ())


def test_paths_that_cannot_be_are_refused(folders, tmp_path):
    prediction, reference = folders
    (tmp_path / "empty").mkdir()
    (tmp_path / "text.txt").write_text("x")
    for bad, message in (("nowhere", "does not exist"), ("empty", "no images"), ("text.txt", "not an image")):
        with pytest.raises(UsageError, match=f"{bad}: {message}"):
            evaluate_folder(tmp_path / bad, reference, LABELS)
        with pytest.raises(UsageError, match=f"{bad}: {message}"):
            evaluate_folder(prediction, tmp_path / bad, LABELS)
    write(prediction / "a.nii", cube())
    with pytest.raises(UsageError, match="are both case 'a'"):
        evaluate_folder(prediction, reference, LABELS)


@pytest.mark.parametrize("tolerance", [0.0, -1.0, float("nan"), float("inf")])
def test_a_tolerance_that_is_none_is_refused(folders, tolerance):
    with pytest.raises(UsageError, match="tolerance"):
        evaluate_folder(*folders, LABELS, tolerance)


def test_progress_names_each_case_and_everything_is_json(folders):
    seen = []

    @contextmanager
    def progress(description, total):
        seen.append(total)
        yield lambda done, note: seen.append((done, note))

    evaluation = evaluate_folder(*folders, LABELS, progress=progress)
    assert seen == [3, (1, "a"), (2, "b"), (3, "c")]
    content = json.loads(json.dumps(evaluation.to_dict(), allow_nan=False))
    assert content["labels"] == LABELS
    assert content["failures"] == content["missing"] == content["extra"] == content["warnings"] == []
    assert content["mean_dice"] == 1.0


def test_distances_are_in_mm_of_the_files_grid(tmp_path):
    affine = np.diag([0.5, 2.0, 3.0, 1.0])
    moved = np.roll(cube(), 1, axis=1)
    write(tmp_path / "pred" / "a.nii.gz", moved, affine)
    write(tmp_path / "ref" / "a.nii.gz", cube(), affine)
    (score,) = evaluate_folder(tmp_path / "pred", tmp_path / "ref", tolerance=2.0).summary.scores
    assert score.hd95 == pytest.approx(2.0)
    assert score.nsd == 1.0
    assert score.reference_ml == pytest.approx(64 * 3 / 1000)


def test_only_what_was_predicted_may_be_scored_and_both_counts_are_told(folders, caplog):
    prediction, reference = folders
    for case in "bc":
        (prediction / f"{case}.nii.gz").unlink()
    with caplog.at_level("WARNING", logger="se_med"):
        every = evaluate_folder(prediction, reference, LABELS)
        assert caplog.messages == ["2 of 3 references have no prediction and count as missed; --only-predicted leaves them out"]
        some = evaluate_folder(prediction, reference, LABELS, only_predicted=True)
    assert caplog.messages[1:] == ["2 of 3 references have no prediction and are left out"]
    assert (every.summary.cases, some.summary.cases, every.predicted.cases) == (3, 1, 1)
    assert every.summary.mean_dice == pytest.approx(1 / 3)
    assert some.summary.mean_dice == every.predicted.mean_dice == 1.0
    assert every.missing == some.missing == ("b", "c")
    assert every.mean_line == (
        "mean Dice 0.3333 over 3 cases, 2 of them without a prediction and counted as missed; "
        "1.0000 over the 1 cases that were predicted (--only-predicted)"
    )
    assert "2 references without a prediction are left out" in some.mean_line
    assert some.to_dict()["only_predicted"]
    assert every.to_dict()["predicted"] == {"cases": 1, "mean_dice": 1.0}
    (prediction / "a.nii.gz").rename(prediction / "other.nii.gz")
    with pytest.raises(UsageError, match="none of the 3 references has a prediction"):
        evaluate_folder(prediction, reference, LABELS, only_predicted=True)


def test_complete_predictions_need_no_word_about_it(folders, caplog):
    evaluation = evaluate_folder(*folders, LABELS, only_predicted=True)
    assert (evaluation.mean_line, evaluation.missing, caplog.messages) == ("", (), [])
