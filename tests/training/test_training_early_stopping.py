"""Stopping early by cases that are not reported: the rule, the cases, the record, and resuming."""

import json
import logging
import signal

import pytest
from test_training_exact_runs import signal_at

from se_med.config.load import load_config
from se_med.config.training import EarlyStopping
from se_med.errors import ConfigError, UsageError
from se_med.training.early_stopping import stop_reason
from se_med.training.interruption import InterruptedRunError

STOPPING = (
    "data.selection=0.3",
    "training.early_stopping.patience=2",
    "training.validations=8",
    "training.steps=16",
    "training.learning_rate=1e-30",
    "training.weight_decay=0",
)
"""Sixteen steps without a change: the first validation is the best one, and two more end the run, after step 6."""


@pytest.mark.parametrize(
    ("scores", "patience", "min_delta", "stops"),
    [
        ([], 1, 0.0, False),
        ([0.5], 1, 0.0, False),
        ([0.5, 0.5], 1, 0.0, True),
        ([0.5, 0.6, 0.55], 2, 0.0, False),
        ([0.5, 0.6, 0.55, 0.6], 2, 0.0, True),
        ([0.5, 0.6, 0.55, 0.61], 2, 0.0, False),
        ([0.5, 0.505, 0.509], 2, 0.01, True),
        ([0.5, 0.505, 0.512], 2, 0.01, False),
    ],
)
def test_rule(scores, patience, min_delta, stops):
    assert bool(stop_reason(scores, EarlyStopping(patience=patience, min_delta=min_delta))) is stops


def parts(folder):
    return json.loads((folder / "provenance.json").read_text())["cases"]


def test_run_stops_by_cases_that_are_neither_trained_on_nor_reported(train, caplog):
    logging.getLogger("se_med").propagate = True
    with caplog.at_level(logging.INFO, logger="se_med"):
        made = train("stopping", *STOPPING)
    cases = parts(made.folder)
    assert len(cases["selection"]) == 2
    assert not set(cases["selection"]) & {*cases["train"], *cases["validation"]}
    assert len(cases["train"]) + len(cases["selection"]) + len(cases["validation"]) == 8
    validated = [row for row in made.rows if row["selection_mean_dice"]]
    assert [int(row["step"]) for row in validated] == [2, 4, 6]
    assert "mean_dice" not in made.rows[0]
    assert validated[-1]["stopped"] == made.provenance["stopped_early"]
    assert "at validation 1 was not exceeded in the 2 validations after it" in made.provenance["stopped_early"]
    assert made.provenance["steps"] == 6
    assert {line.split(",")[0] for line in made.cases.splitlines()[1:]} == set(cases["validation"])
    said = [record.message for record in caplog.records]
    assert any(line.startswith("stopped early after step 6 of 16: the selection Dice") for line in said)
    assert any("learning rate was still at" in line for line in said)


@pytest.mark.parametrize("step", [5, 6], ids=lambda step: f"step{step}")
def test_interrupted_run_stops_at_the_same_step_with_the_same_weights(train, step):
    whole = train("whole", *STOPPING, "training.learning_rate=1e-9")
    with pytest.raises(InterruptedRunError):
        train("parted", *STOPPING, "training.learning_rate=1e-9", progress=signal_at(step, signal.SIGTERM))
    parted = train("parted", *STOPPING, "training.learning_rate=1e-9", resume=True)
    assert parted.rows == whole.rows
    assert parted.weights == whole.weights
    assert parted.cases == whole.cases
    assert parted.provenance["stopped_early"] == whole.provenance["stopped_early"] is not None


def test_selection_alone_only_changes_what_is_scored_during_training(train):
    made = train("selected", "data.selection=0.3")
    assert made.provenance["steps"] == 8
    assert made.provenance["stopped_early"] is None
    assert any(row.get("selection_mean_dice") for row in made.rows)
    assert "stopped" not in made.rows[0]


def test_selection_of_a_split_file(train, tmp_path):
    names = [f"case_{number:02d}" for number in range(8)]
    split = tmp_path / "split.json"
    split.write_text(json.dumps([{"train": names[:4], "validation": names[6:], "selection": names[4:6]}]))
    made = train("listed", f"data.split={split}", *STOPPING[1:])
    assert sorted(parts(made.folder)["selection"]) == names[4:6]
    assert made.provenance["steps"] == 6
    split.write_text(json.dumps([{"train": names[:6], "validation": names[6:]}]))
    with pytest.raises(UsageError, match=r"early_stopping: fold 0 of .* has no selection cases"):
        train("unlisted", f"data.split={split}", *STOPPING[1:])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            ["training.early_stopping.patience=2", "training.validations=4"],
            "choose by the cases that are reported; set data.selection",
        ),
        (["training.early_stopping.patience=4", "data.selection=0.3", "training.validations=5"], "set validations: 6 or more"),
        (["training.early_stopping={}", "data.selection=0.3"], "patience"),
        (["data.selection=1"], "less than 1"),
    ],
)
def test_settings_that_cannot_be(small_config, options, message):
    with pytest.raises(ConfigError, match=message):
        load_config(small_config, options)
