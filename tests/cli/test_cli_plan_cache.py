"""`se-med plan` and `se-med cache` as a user runs them."""

from __future__ import annotations

import json

from se_med.data.folds import read_split
from se_med.data.plan import Plan


def test_plan_prints_every_setting_with_its_reason_and_what_a_run_takes(se_med, small_config):
    done = se_med("plan", small_config)
    assert done.code == 0, done.err
    words = ("spacing", "median of 8 cases", "zscore", "set in the configuration", "memory:", "disk:", "time: 8 steps")
    for word in words:
        assert word in " ".join(done.out.split()), word


def test_a_written_plan_and_its_folds_train_the_same_run(se_med, small_config, tmp_path):
    folder = tmp_path / "planned"
    assert se_med("plan", small_config, "-o", folder / "plan.json").code == 0
    plan = Plan.model_validate_json((folder / "plan.json").read_text())
    assert plan.estimate is not None
    assert plan.reasons["spacing"] == "median of 8 cases"
    assert len(read_split(folder / "split.json")) == 4
    shared = (f"data.plan={folder / 'plan.json'}", f"data.split={folder / 'split.json'}")
    for name, settings in (("own", ()), ("shared", shared)):
        done = se_med("train", small_config, f"name={name}", *settings, "--runs", tmp_path / "runs")
        assert done.code == 0, done.err
    own, by_plan = (tmp_path / "runs" / name for name in ("own", "shared"))
    assert (own / "model.safetensors").read_bytes() == (by_plan / "model.safetensors").read_bytes()
    assert read_split(own / "split.json") == read_split(by_plan / "split.json")


def test_other_folds_are_not_overwritten(se_med, small_config, tmp_path):
    se_med("plan", small_config, "-o", tmp_path / "plan.json")
    assert se_med("plan", small_config, "-o", tmp_path / "plan.json").code == 0  # the same ones
    before = (tmp_path / "split.json").read_text()
    done = se_med("plan", small_config, "data.fold_seed=5", "-o", tmp_path / "plan.json")
    assert done.code == 2
    assert "holds other folds" in done.err
    assert (tmp_path / "split.json").read_text() == before


def test_plan_as_json_with_a_trial(se_med, small_config):
    done = se_med("plan", small_config, "--trial", "--json")
    assert done.code == 0, done.err
    plan = Plan.model_validate(json.loads(done.out))
    assert plan.estimate.seconds_per_step > 0
    assert plan.estimate.steps == 8
    assert plan.estimate.memory_measured


def test_a_plan_for_other_data_is_refused_in_one_line(se_med, small_config, tmp_path):
    se_med("plan", small_config, "-o", tmp_path / "plan.json")
    content = json.loads((tmp_path / "plan.json").read_text())
    content["labels"] = {"ball": 1, "cube": 2}
    (tmp_path / "plan.json").write_text(json.dumps(content))
    done = se_med("train", small_config, f"data.plan={tmp_path / 'plan.json'}", "--runs", tmp_path / "runs")
    assert done.code == 2
    assert len(done.err.strip().splitlines()) == 1
    assert "was made for {ball: 1, cube: 2}, the data set has {ball: 1, box: 2}" in done.err


def test_the_cache_is_listed_and_cleared(se_med, small_config, tmp_path):
    cache = tmp_path / "cache"
    assert "no prepared cases" in se_med("cache", "list", "--folder", cache).out
    # In another process, so that nothing is in use when it has ended.
    import subprocess
    import sys

    command = [sys.executable, "-m", "se_med", "train", small_config, "training.steps=1", f"data.cache={cache}"]
    done = subprocess.run([*map(str, command), "--runs", str(tmp_path)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    listed = se_med("cache", "list", "--folder", cache)
    assert listed.code == 0
    assert "small" in listed.out
    document = json.loads(se_med("cache", "list", "--folder", cache, "--json").out)
    (row,) = document["datasets"]
    assert (row["dataset"], row["cases"], row["in_use"]) == ("small", 8, 0)
    assert se_med("cache", "clear", "--folder", cache).code == 2
    assert se_med("cache", "clear", "small", "--all", "--folder", cache).code == 2
    wrong = se_med("cache", "clear", "liver", "--folder", cache)
    assert (wrong.code, "it holds small" in wrong.err) == (2, True)
    assert "removed 0 prepared cases" in se_med("cache", "clear", "small", "--older-than", "1", "--folder", cache).out
    cleared = se_med("cache", "clear", "sma*", "--folder", cache)
    assert "removed 8 prepared cases" in cleared.out
    assert "no prepared cases" in se_med("cache", "list", "--folder", cache).out
