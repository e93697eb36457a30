"""Hostile configurations and study files through the command line."""

from __future__ import annotations

import resource
import time

import pytest
from hostile.conftest import command
from hostile_yaml import BYTES, CONFIGS, GOOD, STUDIES
from small_data import make_small_data

SECONDS = 1.0
"""Of the processor, for a refusal; the first command also imports torch."""


@pytest.fixture(scope="module")
def good_data(tmp_path_factory):
    root = make_small_data(tmp_path_factory.mktemp("yaml") / "data", 4)
    # Imports what every command needs, so that what is measured is the file.
    (root.parent / "good.yaml").write_text(GOOD.format(root=root))
    assert command("plan", root.parent / "good.yaml").code == 0
    return root


def refused(tmp_path, *arguments, says: str) -> None:
    before, start = {path.name for path in tmp_path.iterdir()}, time.process_time()
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    outcome = command(*arguments)
    assert time.process_time() - start < SECONDS
    assert (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - peak) / 1024 < 200  # MiB
    assert outcome.code in (2, 3), outcome
    told = [line for line in outcome.err.splitlines() if says in line]
    assert len(told) == 1, outcome.err
    assert outcome.out == ""
    assert {path.name for path in tmp_path.rglob("*") if path.parent.name != "cache"} <= before | {"cache", "runs"}


@pytest.mark.parametrize("name", CONFIGS)
def test_a_bad_configuration_is_refused(good_data, tmp_path, name):
    text, says = CONFIGS[name]
    text = text.replace("{here}", str(tmp_path))
    if "{root}" in text:
        text = text.format(root=good_data) + f"# {name}\n"
        text = text.replace("folds: ", f"cache: {tmp_path / 'cache'}, folds: ")
    path = tmp_path / f"{name}.yaml"
    path.write_text(text)
    refused(tmp_path, "train", path, "--runs", tmp_path / "runs", says=says)


@pytest.mark.parametrize("name", BYTES)
def test_a_configuration_that_is_no_text_is_refused(good_data, tmp_path, name):
    (tmp_path / f"{name}.yaml").write_bytes(BYTES[name][0])
    refused(tmp_path, "train", tmp_path / f"{name}.yaml", "--runs", tmp_path / "runs", says=BYTES[name][1])


@pytest.mark.parametrize("name", STUDIES)
def test_a_bad_study_is_refused(good_data, tmp_path, name):
    (tmp_path / "good.yaml").write_text(GOOD.format(root=good_data))
    path = tmp_path / f"{name}.yaml"
    path.write_text(STUDIES[name][0])
    refused(tmp_path, "compare", path, "--studies", tmp_path / "studies", says=STUDIES[name][1])


@pytest.mark.parametrize(
    "override", ["name=../up", "training.steps=!!python/name:os.system", "attention=[[[", "=", "a.b", "seed=1e400"]
)
def test_a_bad_override_is_refused(good_data, tmp_path, override):
    (tmp_path / "good.yaml").write_text(GOOD.format(root=good_data))
    refused(tmp_path, "train", tmp_path / "good.yaml", override, "--runs", tmp_path / "runs", says="command line")
