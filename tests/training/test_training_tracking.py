"""Trackers: what they are told, that a resumed run goes on in the same log, and what is said where one is missing."""

import json
import signal
import sys
from types import ModuleType, SimpleNamespace

import pytest
from lightning.pytorch.loggers import wandb as lightning_wandb
from test_training_exact_runs import signal_at

from se_med.errors import UsageError
from se_med.training import tracking
from se_med.training.interruption import InterruptedRunError

NUMBERS = ("loss", "learning_rate", "mean_dice", "dice_ball", "dice_box")


def scalars(folder):
    """The points of TensorBoard's files: (step, value) by tag."""
    pytest.importorskip("tensorboard", reason="needs the extra `tracking`: pip install 'se-med[tracking]'")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(folder))
    events.Reload()
    return {tag: [(event.step, event.value) for event in events.Scalars(tag)] for tag in events.Tags()["scalars"]}


def test_off_by_default(train):
    made = train("plain")
    assert not (made.folder / "tracking.json").exists()
    assert not (made.folder / "tensorboard").exists()


def test_tensorboard_has_the_table(train):
    pytest.importorskip("tensorboard", reason="needs the extra `tracking`: pip install 'se-med[tracking]'")
    made, plain = train("seen", "training.loggers=[tensorboard]"), train("plain")
    assert made.weights == plain.weights
    found = scalars(made.folder / "tensorboard")
    for name in NUMBERS:
        expected = [(int(row["step"]), float(row[name])) for row in made.rows if row.get(name)]
        points = found[name] if name in ("loss", "learning_rate") else found[name][:-1]
        assert points == [(step, pytest.approx(value, rel=1e-6)) for step, value in expected]
    summary = json.loads((made.folder / "validation" / "summary.json").read_text())
    assert found["mean_dice"][-1] == (8, pytest.approx(summary["mean_dice"]))
    assert "training.learning_rate: 0.004" in (made.folder / "tensorboard" / "hparams.yaml").read_text()


def test_resumed_run_goes_on_in_the_same_log(train):
    pytest.importorskip("tensorboard", reason="needs the extra `tracking`: pip install 'se-med[tracking]'")
    options = ["training.loggers=[tensorboard]", "training.epoch_steps=1"]
    whole = train("whole", *options)
    with pytest.raises(InterruptedRunError):
        train("parted", *options, progress=signal_at(5, signal.SIGTERM))
    parted = train("parted", *options, resume=True)
    expected, found = (scalars(made.folder / "tensorboard") for made in (whole, parted))
    assert {name: found[name] for name in NUMBERS} == {name: expected[name] for name in NUMBERS}


@pytest.fixture
def fake_wandb(monkeypatch):
    """What Lightning's logger uses of wandb, which keeps what it is told."""
    calls = SimpleNamespace(inits=[], configs=[], rows=[], exits=[])

    class Run:
        def __init__(self, **options):
            calls.inits.append(options)
            self.config = SimpleNamespace(update=lambda values, **_: calls.configs.append(values))

        def define_metric(self, *_, **__):
            pass

        def log(self, values):
            calls.rows.append(values)

        def finish(self, exit_code):
            calls.exits.append(exit_code)

    modules = {name: ModuleType(name) for name in ("wandb", "wandb.sdk", "wandb.sdk.lib", "wandb.wandb_run")}
    modules["wandb"].init, modules["wandb"].run = Run, None
    modules["wandb.sdk.lib"].RunDisabled = type("RunDisabled", (), {})
    modules["wandb.wandb_run"].Run = Run
    for name, module in modules.items():
        monkeypatch.setitem(sys.modules, name, module)
    monkeypatch.setattr(lightning_wandb, "_WANDB_AVAILABLE", True)
    monkeypatch.setattr(tracking, "find_spec", lambda name: object())
    monkeypatch.delenv("WANDB_MODE", raising=False)
    return calls


def test_wandb_is_offline_and_resumes_by_its_id(train, fake_wandb):
    options = ["training.loggers=[wandb]", "training.epoch_steps=1"]
    with pytest.raises(InterruptedRunError):
        train("parted", *options, progress=signal_at(5, signal.SIGTERM))
    made = train("parted", *options, resume=True)
    first, second = fake_wandb.inits
    assert first["mode"] == "offline"
    assert first["id"] == second["id"] == json.loads((made.folder / "tracking.json").read_text())["wandb"]
    assert second["resume"] == "allow"
    assert first["dir"] == str(made.folder)
    assert len(fake_wandb.configs) == 1
    assert fake_wandb.configs[0]["training.steps"] == 8
    assert fake_wandb.exits == [1, 0]
    logged = [(row["trainer/global_step"], row["loss"]) for row in fake_wandb.rows if "loss" in row]
    assert logged == [(int(row["step"]), float(row["loss"])) for row in made.rows]


def test_wandb_goes_online_when_the_environment_says_so(train, fake_wandb, monkeypatch):
    monkeypatch.setenv("WANDB_MODE", "online")
    train("online", "training.loggers=[wandb]")
    assert fake_wandb.inits[0]["mode"] == "online"


def test_wandb_itself_writes_offline(train, monkeypatch):
    pytest.importorskip("wandb", reason="needs the extra `tracking`: pip install 'se-med[tracking]'")
    monkeypatch.setenv("WANDB_MODE", "offline")
    made = train("seen", "training.loggers=[wandb]")
    (log,) = (made.folder / "wandb").glob("offline-run-*")
    assert log.name.endswith(json.loads((made.folder / "tracking.json").read_text())["wandb"])


def test_mlflow_itself_resumes_its_run(train, monkeypatch):
    mlflow = pytest.importorskip("mlflow", reason="needs the extra `tracking`: pip install 'se-med[tracking]'")
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    options = ["training.loggers=[mlflow]", "training.epoch_steps=1"]
    with pytest.raises(InterruptedRunError):
        train("parted", *options, progress=signal_at(5, signal.SIGTERM))
    made = train("parted", *options, resume=True)
    client = mlflow.MlflowClient(f"sqlite:///{made.folder / 'mlflow.db'}")
    number = json.loads((made.folder / "tracking.json").read_text())["mlflow"]
    run = client.get_run(number)
    assert run.info.status == "FINISHED"
    assert run.data.params["training.steps"] == "8"
    losses = sorted((metric.step, metric.value) for metric in client.get_metric_history(number, "loss"))
    assert losses == [(int(row["step"]), float(row["loss"])) for row in made.rows]


@pytest.mark.parametrize("name", ["tensorboard", "wandb", "mlflow"])
def test_missing_package_is_named_before_anything_is_done(train, tmp_path, monkeypatch, name):
    monkeypatch.setattr(tracking, "find_spec", lambda wanted: None if wanted == name else object())
    with pytest.raises(UsageError, match=rf"training.loggers: {name} is not installed; install it with `pip install {name}`"):
        train("run", f"training.loggers=[{name}]")
    assert not (tmp_path / "runs").exists()
