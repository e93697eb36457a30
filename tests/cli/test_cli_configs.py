"""The configurations that se-med ships."""

import json
from pathlib import Path

import pytest

import se_med
from se_med.config.load import load_config

CONFIGS = Path(se_med.__file__).parent / "configs"
FILES = sorted(path.relative_to(CONFIGS) for path in CONFIGS.rglob("*.yaml"))


def test_there_are_configurations():
    assert len(FILES) >= 3


@pytest.mark.parametrize("path", FILES, ids=str)
def test_configuration_is_valid_and_names_the_schema(path):
    load_config(CONFIGS / path)
    first = (CONFIGS / path).read_text().splitlines()[0]
    schema = first.removeprefix("# yaml-language-server: $schema=")
    assert (CONFIGS / path.parent / schema).resolve() == (CONFIGS / "se-med.schema.json").resolve()


def test_schema_file_is_what_the_command_prints(se_med):
    outcome = se_med("schema")
    assert json.loads(outcome.out) == json.loads((CONFIGS / "se-med.schema.json").read_text()), "run `make schema`"


def test_twins_differ_in_attention_alone():
    attentive, plain = (load_config(CONFIGS / name).model_dump() for name in ("hippocampus.yaml", "hippocampus-plain.yaml"))
    assert {key for key in attentive if attentive[key] != plain[key]} == {"name", "attention"}
    assert set(plain["attention"].values()) == {None}
