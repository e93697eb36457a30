"""Whole runs on regions that overlap, and on merged values: train, validate, predict, evaluate, resume."""

import csv
import json
import signal

import numpy as np
import pytest
import torch
from region_data import REGIONS, VALUES, write_images, write_volumes
from safetensors.torch import load_file
from test_training_exact_runs import signal_at

from se_med.config.load import load_config
from se_med.data.targets import make_target
from se_med.errors import ConfigError, DataError, UsageError
from se_med.evaluation.folders import evaluate_folder
from se_med.inference.predictor import Predictor
from se_med.io.images import read_image, read_label
from se_med.training.interruption import InterruptedRunError

LONGER = ["training.steps=60", "training.learning_rate=0.02", "training.ema=0.9", "augmentation.affine.probability=0"]


@pytest.fixture(scope="module")
def volumes(tmp_path_factory):
    return write_volumes(tmp_path_factory.mktemp("regions") / "volumes")


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    return write_images(tmp_path_factory.mktemp("regions") / "images")


def rows_of(made):
    return list(csv.DictReader(made.cases.splitlines()))


def predict_held_out(made, root, out, se_med):
    """Predict the validation cases by the command; return the folder of their references beside it."""
    names = sorted({row["case"] for row in rows_of(made)})
    files = [path for path in sorted((root / "images").iterdir()) if path.name.partition(".")[0] in names]
    assert se_med("predict", made.folder, *files, "-o", out).code == 0
    references = out.parent / "references"
    references.mkdir()
    for path in (root / "labels").iterdir():
        if path.name.partition(".")[0] in names:
            (references / path.name).write_bytes(path.read_bytes())
    return references


def assert_same_scores(made, evaluation):
    said = {(row["case"], row["structure"]): row for row in rows_of(made)}
    assert {(score.case, score.structure) for score in evaluation.summary.scores} == said.keys()
    for score in evaluation.summary.scores:
        row = said[score.case, score.structure]
        assert score.status == row["status"]
        for key in ("dice", "hd95", "nsd"):
            if getattr(score, key) is not None:
                assert float(row[key]) == pytest.approx(getattr(score, key))


TWO = ["network.strides=[[2,2]]", "network.stem=[1,1]", "training.patch=[16,16]", "network.spatial_dims=2"]


@pytest.mark.parametrize("dims", [3, 2])
def test_regions_from_training_to_scores(train, se_med, volumes, images, tmp_path, dims):
    root, options = (volumes, []) if dims == 3 else (images, TWO)
    made = train("run", f"data.root={root}", f"data.regions={VALUES}", *LONGER, *options)
    plan = json.loads((made.folder / "plan.json").read_text())
    assert plan["regions"] is True
    assert plan["labels"] == {"whole": 2, "core": 1, "enhancing": 3}
    weights = load_file(made.folder / "model.safetensors")
    assert weights["heads.0.weight"].shape[0] == 3  # one output per region, none for the background
    scores = rows_of(made)
    assert {row["structure"] for row in scores} == set(REGIONS)
    assert np.mean([float(row["dice"]) for row in scores if row["structure"] == "whole"]) > 0.7

    references = predict_held_out(made, root, tmp_path / "out", se_med)
    assert_same_scores(made, evaluate_folder(tmp_path / "out", references))
    for path in (tmp_path / "out").glob("*.json"):
        sidecar = json.loads(path.read_text())
        label = read_label(path.with_name(sidecar["label"])).array
        assert set(np.unique(label)) <= {0, 1, 2, 3}
        assert sidecar["labels"] == {"whole": [2, 1, 3], "core": [1, 3], "enhancing": 3}
        sizes = sidecar.get("areas_pixels") or {name: round(1000 * value) for name, value in sidecar["volumes_ml"].items()}
        assert sizes == {name: int(np.isin(label, values).sum()) for name, values in REGIONS.items()}
        path.unlink()
    # Without sidecars, the run says what the values mean.
    outcome = se_med("evaluate", tmp_path / "out", references, "--config", made.folder, "--json")
    assert outcome.code == 0, outcome.err
    assert {row["structure"] for row in json.loads(outcome.out)["structures"]} == set(REGIONS)
    assert json.loads(outcome.out)["mean_dice"] == pytest.approx(
        np.mean([np.mean([float(row["dice"]) for row in scores if row["structure"] == name]) for name in REGIONS])
    )


def test_everything_at_once_resumes_to_the_same_end(train, volumes):
    options = [
        f"data.root={volumes}",
        f"data.regions={VALUES}",
        "network.deep_supervision=[1,0.5]",
        "network.features=[4,8,8]",
        "network.strides=[[2,2,2],[2,2,2]]",
        "training.class_weights={core: 2, enhancing: 3}",
        "augmentation.flip.axes=[0,2]",
        "inference.test_time_flips=true",
    ]
    whole = train("whole", *options)
    with pytest.raises(InterruptedRunError):
        train("parted", *options, progress=signal_at(3, signal.SIGTERM))
    parted = train("parted", *options, resume=True)
    assert parted.weights == whole.weights
    assert parted.cases == whole.cases
    assert parted.digest == whole.digest
    assert json.loads((whole.folder / "plan.json").read_text())["class_weights"] == [1.0, 2.0, 3.0]


def test_batches_are_those_of_a_run_on_the_labels_and_of_any_attention(train, volumes):
    """Regions differ in the target alone, so a study may pair both."""
    regions = train("regions", f"data.root={volumes}", f"data.regions={VALUES}", "training.steps=2")
    labels = train("labels", f"data.root={volumes}", "data.labels={a: 1, b: 2, c: 3}", "training.steps=2")
    plain = train("plain", f"data.root={volumes}", f"data.regions={VALUES}", "training.steps=2", "attention=null")
    assert regions.digest == labels.digest == plain.digest


def test_stored_configuration_trains_the_same_regions_again(train, volumes, tmp_path):
    from se_med.training.fit import fit

    order = "data.region_values={enhancing: 3, whole: 2, core: 1}"  # a strange order of writing, to be kept
    made = train("first", f"data.root={volumes}", f"data.regions={VALUES}", order, "training.steps=2")
    again = fit(load_config(made.folder / "config.yaml"), tmp_path / "again").folder
    assert (again / "model.safetensors").read_bytes() == made.weights
    assert list(json.loads((again / "plan.json").read_text())["labels"]) == ["enhancing", "whole", "core"]


def test_flips_average_probabilities_of_regions(train, volumes):
    options = ["augmentation.flip.axes=[0]", "inference.precision=fp32", "training.steps=2"]
    made = train("run", f"data.root={volumes}", f"data.regions={VALUES}", *options)
    single, flipped = (Predictor.load(made.folder, test_time_flips=wanted) for wanted in (False, True))
    assert (single.flips, flipped.flips) == ((), (0,))
    file = volumes / "images" / "case_0.nii.gz"
    image = flipped.preparation.forward(read_image(file)).array
    mirrored = np.ascontiguousarray(image[:, ::-1])
    mean = (single.segment(image).sigmoid() + single.segment(mirrored).flip(1).sigmoid()) / 2
    logits = flipped.segment(image)
    assert torch.allclose(logits.sigmoid(), mean, atol=1e-5)
    found = flipped.predict(file, probabilities=True)
    assert found.outputs == ("whole", "core", "enhancing")
    assert np.abs(found.probabilities / 255 - mean.numpy()).max() < 0.003
    assert np.array_equal(found.labels, np.array(flipped.plan.label_values)[make_target(flipped.plan).choose(logits)])


def test_voxels_without_reference_and_background_values(train, se_med, volumes, tmp_path):
    import nibabel as nib

    root = tmp_path / "marked"
    for folder in ("images", "labels"):
        (root / folder).mkdir(parents=True)
        for path in (volumes / folder).iterdir():
            image = nib.load(path)
            array = np.array(image.dataobj)
            if folder == "labels":
                array[:2], array[-3:] = 7, 9
            nib.save(nib.Nifti1Image(array, image.affine), root / folder / path.name)
    options = [f"data.root={root}", f"data.regions={VALUES}", "data.ignore_label=9", "training.steps=30"]
    with pytest.raises(DataError, match=r"undeclared label values 7 \(\d+ voxels\)"):
        train("refused", *options)
    made = train("run", *options, "data.background_values=[7]", "training.learning_rate=0.02")
    references = predict_held_out(made, root, tmp_path / "out", se_med)
    assert_same_scores(made, evaluate_folder(tmp_path / "out", references, ignore_label=9))
    outcome = se_med("evaluate", tmp_path / "out", references, "--config", made.folder, "--json")
    assert json.loads(outcome.out)["mean_dice"] == pytest.approx(
        evaluate_folder(tmp_path / "out", references, ignore_label=9).summary.mean_dice
    )


def test_merged_values_from_training_to_scores(train, se_med, volumes, tmp_path):
    made = train(
        "run", f"data.root={volumes}", "data.labels={core: [3, 1]}", "data.background_values=[2]", *LONGER, "training.steps=30"
    )
    assert rows_of(made)[0]["structure"] == "core"
    assert np.mean([float(row["dice"]) for row in rows_of(made)]) > 0.3
    references = predict_held_out(made, volumes, tmp_path / "out", se_med)
    assert_same_scores(made, evaluate_folder(tmp_path / "out", references))
    for path in (tmp_path / "out").glob("*.nii.gz"):
        assert set(np.unique(read_label(path).array)) == {0, 3}  # the first of its values stands for the structure


@pytest.mark.parametrize(
    ("option", "error", "line"),
    [
        ("training.class_weights={background: 2}", UsageError, "training.class_weights: regions have no background"),
        ("training.class_weights={edema: 2}", UsageError, "training.class_weights: no structure is named edema; there are whole"),
        ("data.labels={a: 1}", ConfigError, "data.regions: go in place of labels"),
        ("data.ignore_label=3", ConfigError, "data.ignore_label: 3 is the value of structure"),
        ("data.regions.core=[3]", ConfigError, "data.regions: core and enhancing are the same values"),
    ],
)
def test_what_does_not_go_together_is_one_line(train, volumes, tmp_path, option, error, line):
    with pytest.raises(error) as caught:
        train("run", f"data.root={volumes}", f"data.regions={VALUES}", option)
    assert line in str(caught.value).splitlines()[0]
    assert not (tmp_path / "runs" / "run").exists()
