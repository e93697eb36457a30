"""Whole runs on data with voxels without a reference, and with weighted classes."""

import csv
import json
import shutil
import signal

import nibabel as nib
import numpy as np
import pytest
from test_training_exact_runs import signal_at

from se_med.config.load import load_config
from se_med.data.preparation import IGNORED
from se_med.errors import ConfigError, DataError, UsageError
from se_med.evaluation.folders import evaluate_folder
from se_med.inference.predictor import Predictor
from se_med.io.nifti import write_label
from se_med.progress import silent
from se_med.training.interruption import InterruptedRunError
from se_med.training.run_data import gather
from se_med.training.run_folder import RunFolder


@pytest.fixture
def marked(small_data, tmp_path):
    """The small data with value 9 in every label where the first axis ends, which cuts most boxes."""
    root = tmp_path / "marked"
    shutil.copytree(small_data, root)
    for path in (root / "labelsTr").iterdir():
        image = nib.load(path)
        label = np.array(image.dataobj)
        label[13:] = 9
        nib.save(nib.Nifti1Image(label, image.affine), path)
    return root


def test_validation_scores_as_evaluate_does(train, marked, tmp_path):
    made = train("marked", f"data.root={marked}", "data.ignore_label=9", "training.steps=30", "training.learning_rate=0.02")
    assert json.loads((made.folder / "plan.json").read_text())["ignore_label"] == 9
    predictor, out, references = Predictor.load(made.folder), tmp_path / "out", tmp_path / "references"
    out.mkdir()
    references.mkdir()
    rows = list(csv.DictReader(made.cases.splitlines()))
    for name in {row["case"] for row in rows}:
        found = predictor.predict(marked / "imagesTr" / f"{name}.nii.gz")
        write_label(out / f"{name}.nii.gz", found.labels, found.native)
        shutil.copy(marked / "labelsTr" / f"{name}.nii.gz", references)
    scores = evaluate_folder(out, references, predictor.plan.labels, ignore_label=9).summary.scores
    found = {(score.case, score.structure): (score.status, score.dice, score.hd95) for score in scores}
    said = {(row["case"], row["structure"]): row for row in rows}
    assert found.keys() == said.keys()
    for key, (status, dice, hd95) in found.items():
        assert said[key]["status"] == status
        if dice is not None:
            assert float(said[key]["dice"]) == pytest.approx(dice)
            assert float(said[key]["hd95"]) == pytest.approx(hd95)


def test_prepared_labels_hold_the_mark_and_no_patch_is_drawn_for_it(marked, small_config, tmp_path):
    run = RunFolder(tmp_path / "run")
    run.path.mkdir()
    config = load_config(small_config, [f"data.root={marked}", "data.ignore_label=9"])
    data = gather(config, run, resumed=False, progress=silent)
    for case in data.train:
        assert np.array_equal(np.unique(case.label[13:]), [IGNORED])
        assert IGNORED not in case.label[:13]
        assert set(case.foreground) <= {1, 2}


def test_value_that_is_not_declared_stops_before_training(train, marked, tmp_path):
    with pytest.raises(DataError, match="undeclared label values 9"):
        train("run", f"data.root={marked}")
    assert not (tmp_path / "runs" / "run").exists()


@pytest.mark.parametrize(
    "options",
    [["training.class_weights=balanced"], ["training.class_weights.ball=3", "training.class_weights.background=0.2"]],
    ids=["balanced", "given"],
)
def test_weighted_run_resumes_to_the_same_end(train, options):
    whole = train("whole", *options)
    with pytest.raises(InterruptedRunError):
        train("parted", *options, progress=signal_at(3, signal.SIGTERM))
    parted = train("parted", *options, resume=True)
    assert parted.weights == whole.weights
    plain = train("plain")
    assert parted.digest == whole.digest == plain.digest
    assert parted.rows[0]["loss"] != plain.rows[0]["loss"]
    weights = json.loads((whole.folder / "plan.json").read_text())["class_weights"]
    assert weights[0] < min(weights[1], 1)


def test_names_are_checked_before_training(train, tmp_path):
    with pytest.raises(UsageError, match=r"training\.class_weights: no structure is named bal; there are background, ball, box"):
        train("run", "training.class_weights.bal=3")
    assert not (tmp_path / "runs" / "run").exists()
    with pytest.raises(ConfigError, match="class_weights"):
        train("run", "training.class_weights.ball=0")


def test_test_time_flip_that_is_not_trained_stops_before_training(train, tmp_path):
    options = ["augmentation.flip.axes=[0]", "inference.test_time_flips=[0,2]"]
    with pytest.raises(UsageError, match="test_time_flips: axis 2 was not flipped in training"):
        train("run", *options)
    assert not (tmp_path / "runs" / "run").exists()
    made = train("flipped", "augmentation.flip.axes=[0]", "inference.test_time_flips=true", "training.steps=2")
    assert Predictor.load(made.folder).flips == (0,)
