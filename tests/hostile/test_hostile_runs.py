"""Hostile run folders and checkpoints through the command line: none runs code, none is believed."""

from __future__ import annotations

import json
import resource
import shutil
from pathlib import Path

import numpy as np
import pytest
from hostile.conftest import command, leftovers, write_good
from hostile_runs import CHECKPOINTS, RUNS, numpy_payload
from small_data import SMALL_CONFIG

MEMORY = 200
"""MiB that a refusal may take."""


def refused(outcome, says: str, peak: int) -> None:
    assert (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - peak) / 1024 < MEMORY
    assert outcome.code in (1, 2), outcome
    told = [line for line in outcome.err.splitlines() if says in line]
    assert len(told) == 1, outcome.err
    assert outcome.out == ""


@pytest.fixture(scope="module")
def inputs(tmp_path_factory):
    folder = tmp_path_factory.mktemp("inputs")
    write_good(folder, ("good",))
    return folder


@pytest.mark.parametrize("name", RUNS)
def test_a_bad_run_folder_is_refused(tiny_run, inputs, tmp_path, name):
    change, says = RUNS[name]
    run = shutil.copytree(tiny_run, tmp_path / "run")
    change(run)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    outcome = command("predict", run, inputs, "-o", tmp_path / "out", "--threads", "1")
    refused(outcome, says, peak)
    assert not (tmp_path / "out").exists()
    assert not (run / "ran").exists()


@pytest.mark.parametrize("name", ["weights_torch", "weights_nan", "plan_version", "weights_bit"])
def test_training_does_not_start_from_a_bad_run(tiny_run, small_config, tmp_path, name):
    run = shutil.copytree(tiny_run, tmp_path / "run")
    RUNS[name][0](run)
    outcome = command("train", small_config, f"training.init_from={run}", "--runs", tmp_path / "runs")
    assert outcome.code in (1, 2)
    assert len([line for line in outcome.err.splitlines() if RUNS[name][1] in line]) == 1
    assert not (run / "ran").exists()


@pytest.fixture(scope="module")
def interrupted(small_data, small_cache, tmp_path_factory):
    """A run that was stopped before its last validation, and its configuration."""
    folder = tmp_path_factory.mktemp("interrupted")
    config = folder / "small.yaml"
    config.write_text(SMALL_CONFIG.format(root=small_data, cache=small_cache).replace("steps: 8", "steps: 2"))
    assert command("train", config, "--runs", folder / "runs").code == 0
    run = folder / "runs" / "small"
    (run / "provenance.json").unlink()
    (run / "model.safetensors").unlink()
    return folder


def resume(folder: Path):
    return command("train", folder / "small.yaml", "--runs", folder / "runs", "--resume")


def test_the_interrupted_run_goes_on(interrupted, tmp_path):
    folder = shutil.copytree(interrupted, tmp_path / "copy")
    assert resume(folder).code == 0


@pytest.mark.parametrize("name", CHECKPOINTS)
def test_a_bad_checkpoint_is_refused(interrupted, tmp_path, name):
    change, says = CHECKPOINTS[name]
    folder = shutil.copytree(interrupted, tmp_path / "copy")
    run = folder / "runs" / "small"
    change(run / "checkpoints" / "last.ckpt")
    before = {path.relative_to(run) for path in run.rglob("*")}
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    outcome = resume(folder)
    if says:
        refused(outcome, says, peak)
    else:
        assert outcome.code in (0, 1)
    assert not (run / "model.safetensors").exists() or name == "zip_slip"
    assert not list(tmp_path.rglob("escaped"))
    assert not Path("/tmp/escaped").exists()  # noqa: S108 - what must not be there
    assert not list(tmp_path.rglob("ran"))
    assert leftovers(run) == []
    assert before <= {path.relative_to(run) for path in run.rglob("*")}


@pytest.mark.parametrize(
    ("file", "content", "says"),
    [
        ("plan.json", "no plan", "not a plan that se-med"),
        ("plan.json", '{"version": 1}', "not a plan that se-med"),
        ("split.json", "[", "not readable as JSON"),
        ("split.json", '[{"train": ["nobody"], "validation": ["case_00"]}]', "nobody"),
        ("config.yaml", "name: [", "not valid YAML"),
        ("metrics.csv", "step,loss\nmany,1\n", "is not the table of a run"),
        ("metrics.csv", "a,b\n1,2\n", "is not the table of a run"),
    ],
)
def test_a_run_with_a_bad_file_is_not_resumed(interrupted, tmp_path, file, content, says):
    folder = shutil.copytree(interrupted, tmp_path / "copy")
    (folder / "runs" / "small" / file).write_text(content)
    outcome = resume(folder)
    assert outcome.code in (1, 2, 3)
    assert len([line for line in outcome.err.splitlines() if says in line]) == 1, outcome.err


def test_a_pickle_in_the_cache_does_not_run(small_data, tmp_path):
    config = tmp_path / "small.yaml"
    config.write_text(SMALL_CONFIG.format(root=small_data, cache=tmp_path / "cache").replace("steps: 8", "steps: 1"))
    assert command("train", config, "--runs", tmp_path / "runs").code == 0
    payload = numpy_payload(tmp_path)
    for entry in (tmp_path / "cache").glob("*/case.json"):
        manifest = json.loads(entry.read_text())
        manifest["sizes"]["image.npy"] = len(payload)
        entry.write_text(json.dumps(manifest))
        (entry.parent / "image.npy").write_bytes(payload)
    outcome = command("train", config, "name=again", "--runs", tmp_path / "runs")
    assert outcome.code == 1
    assert "image.npy: not the array of a prepared case" in outcome.err
    assert not (tmp_path / "ran").exists()


def test_the_payloads_would_run_if_they_were_unpickled(tmp_path):
    import io

    np.load(io.BytesIO(numpy_payload(tmp_path)), allow_pickle=True)
    assert (tmp_path / "ran").is_dir()
