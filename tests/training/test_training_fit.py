"""Training with each kind of network and recipe, budgets, and what is said when it goes wrong."""

import logging

import pytest
import torch
import yaml
from safetensors.torch import load_file
from torch import nn

from se_med.config.load import load_config
from se_med.errors import RunError, UsageError
from se_med.inference.predictor import Predictor
from se_med.progress import silent
from se_med.training import budget
from se_med.training.run_data import gather
from se_med.training.run_folder import RunFolder
from se_med.training.validation import Validation


@pytest.mark.parametrize(
    "options",
    [
        ["network.unit=residual", "network.norm=batch", "attention=cse"],
        ["network.norm=group", "attention={bottleneck: sse, decoder: {block: scse, aggregation: add}}"],
        ["network.deep_supervision=[1]", "training.optimizer=sgd", "training.schedule=polynomial"],
        ["network.stem=[2,2,2]", "training.loss=dice_focal", "training.ema=null"],
        ["training.optimizer=muon", "attention=scse", "network.unit=residual", "training.precision=bf16"],
        ["training.accumulate=2", "training.loss=tversky", "training.schedule=cosine"],
        ["training.loss=generalised_dice", "training.gradient_clip=null", "training.precision=bf16"],
        ["network.kernels=[[3,3,1],[3,3,3]]", "network.strides=[[2,2,1]]", "training.patch=[16,16,12]"],
    ],
    ids=lambda options: options[0],
)
def test_every_recipe_trains_and_predicts(train, small_data, options):
    made = train("run", "training.steps=4", *options)
    segmentation = Predictor.load(made.folder).predict(small_data / "imagesTr" / "case_00.nii.gz")
    assert segmentation.labels.ndim == 3
    assert float(made.rows[-1]["loss"]) > 0


def test_2d_network_trains_on_slices_and_predicts_volumes(train, small_data):
    made = train("flat", "network.spatial_dims=2", "network.strides=[[2,2]]", "network.stem=[1,1]", "training.patch=[16,16]")
    segmentation = Predictor.load(made.folder).predict(small_data / "imagesTr" / "case_00.nii.gz")
    assert segmentation.labels.shape == segmentation.native.shape


def test_loss_falls_and_dice_rises(train):
    made = train("longer", "training.steps=120", "training.epoch_steps=20", "training.ema=0.9", "training.learning_rate=0.02")
    losses = [float(row["loss"]) for row in made.rows]
    assert losses[-1] < 0.7 * losses[0]
    scores = [float(line.split(",")[3]) for line in made.cases.splitlines()[1:]]
    assert sum(scores) / len(scores) > 0.5


def test_budget_becomes_steps(train, monkeypatch):
    measured, run_trial = [], budget.run_trial

    def trial(data, module):
        measured.append(run_trial(data, module))
        return budget.Trial(0.05, 0.0, 0.0)

    monkeypatch.setattr(budget, "TRIAL_STEPS", 2)
    monkeypatch.setattr(budget, "run_trial", trial)
    made = train("timed", "training.max_minutes=0.1")
    assert 0 < measured[0].step < measured[0].seconds
    assert 0 < measured[0].case < measured[0].seconds
    stored = yaml.safe_load((made.folder / "config.yaml").read_text())["training"]
    assert stored["steps"] == made.provenance["steps"] >= budget.LEAST_STEPS
    assert made.provenance["seconds"] < 2 * 6
    assert stored["max_minutes"] is None


@pytest.mark.parametrize(("busy", "workers", "said"), [(0.9, 0, True), (0.1, 0, False), (0.9, 1, False)])
def test_a_trial_beside_other_work_says_so(train, monkeypatch, caplog, busy, workers, said):
    monkeypatch.setattr(budget, "TRIAL_STEPS", 1)
    monkeypatch.setattr(budget.Neighbours, "busy", lambda self: busy)
    monkeypatch.setattr(budget, "affordable_steps", lambda *arguments: budget.LEAST_STEPS)
    logging.getLogger("se_med").propagate = True
    with caplog.at_level(logging.WARNING, logger="se_med"):
        train("timed", "training.steps=null", "training.max_minutes=1", f"training.workers={workers}")
    assert ("other work kept 0.9 cores busy" in caplog.text) is said


def test_curves_are_drawn(train):
    assert (train("run").folder / "curves.png").read_bytes().startswith(b"\x89PNG")


def test_plain_run_starts_an_attentive_one(train, caplog):
    """With identity at start and no step of any size, the network scores exactly as the plain one that it came from."""
    plain = train("plain", "attention=null", "training.steps=30")
    logging.getLogger("se_med").propagate = True
    with caplog.at_level(logging.INFO, logger="se_med"):
        attentive = train(
            "attentive",
            "attention=null",
            "attention={decoder: {block: scse, identity_start: true}}",
            f"training.init_from={plain.folder}",
            "training.learning_rate=1e-30",
            "training.weight_decay=0",
            "training.steps=2",
        )
    assert attentive.cases == plain.cases
    said = " ".join(record.message for record in caplog.records)
    assert "tensors not in that run, started anew: gates." in said


def test_frozen_parameters_stay(train):
    start = train("start", "training.steps=1", "training.ema=null")
    frozen = train("next", f"training.init_from={start.folder}", "training.freeze=[encoder.*]", "training.ema=null")
    before, after = (load_file(made.folder / "model.safetensors") for made in (start, frozen))
    for name, tensor in before.items():
        assert torch.equal(tensor, after[name]) == name.startswith("encoder."), name


@pytest.mark.parametrize(
    ("option", "message"),
    [
        ("training.init_from=nowhere", "nowhere"),
        ("training.freeze=[enc]", "matches no parameter"),
        ("training.freeze=['*']", "nothing"),
    ],
)
def test_start_that_cannot_be(train, option, message):
    with pytest.raises(UsageError, match=message):
        train("run", option)


def test_diverging_run_names_step_and_cases(train, tmp_path):
    with pytest.raises(RunError, match=r"step \d+: the loss is .* \(cases case_0\d, case_0\d\).*learning_rate"):
        train("wild", "training.learning_rate=1e30", "training.gradient_clip=null", "training.schedule=constant")
    assert not (tmp_path / "runs" / "wild" / "model.safetensors").exists()


def test_network_that_predicts_only_background_is_told(small_config, tmp_path, caplog):
    class Background(nn.Module):
        def forward(self, x):
            logits = x.new_zeros(x.shape[0], 3, *x.shape[2:])
            logits[:, 0] = 1
            return logits

    config = load_config(small_config)
    run = RunFolder(tmp_path / "run")
    run.path.mkdir()
    data = gather(config, run, resumed=False, progress=silent)
    logging.getLogger("se_med").propagate = True
    with caplog.at_level(logging.WARNING, logger="se_med"):
        scores = Validation(data.validation, data.config, data.plan)(Background())
    assert {score.status for score in scores} == {"missed"}
    assert any("nothing but background on all 2 validation cases" in record.message for record in caplog.records)
