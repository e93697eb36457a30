"""The configurations that se-med ships."""

import json
from pathlib import Path

import pytest

import se_med
from se_med.config.load import load_config
from se_med.study.arms import load_study

CONFIGS = Path(se_med.__file__).parent / "configs"
SCHEMA, STUDY_SCHEMA = "se-med.schema.json", "se-med-study.schema.json"


def files_of(schema: str) -> list[Path]:
    """The configurations whose first line names this schema."""
    found = sorted(path.relative_to(CONFIGS) for path in CONFIGS.rglob("*.yaml"))
    return [path for path in found if (STUDY_SCHEMA in (CONFIGS / path).read_text().splitlines()[0]) == (schema == STUDY_SCHEMA)]


FILES, STUDIES = files_of(SCHEMA), files_of(STUDY_SCHEMA)


def test_there_are_configurations():
    assert len(FILES) >= 3


@pytest.mark.parametrize("path", FILES, ids=str)
def test_configuration_is_valid_and_names_the_schema(path):
    load_config(CONFIGS / path)
    first = (CONFIGS / path).read_text().splitlines()[0]
    schema = first.removeprefix("# yaml-language-server: $schema=")
    assert (CONFIGS / path.parent / schema).resolve() == (CONFIGS / "se-med.schema.json").resolve()


@pytest.mark.parametrize("path", STUDIES, ids=str)
def test_study_is_valid_and_names_its_schema(path):
    study = load_study(CONFIGS / path)
    assert len(study.arms) >= 2
    assert (CONFIGS / path).read_text().splitlines()[0] == f"# yaml-language-server: $schema={STUDY_SCHEMA}"


def test_there_are_studies():
    assert {"se-vs-plain.yaml", "study-quick.yaml"} <= {path.name for path in STUDIES}


def test_study_schema_file_is_what_the_command_prints(se_med):
    outcome = se_med("schema", "--study")
    assert json.loads(outcome.out) == json.loads((CONFIGS / STUDY_SCHEMA).read_text()), "run `make schema`"


def test_schema_file_is_what_the_command_prints(se_med):
    outcome = se_med("schema")
    assert json.loads(outcome.out) == json.loads((CONFIGS / "se-med.schema.json").read_text()), "run `make schema`"


def test_twins_differ_in_attention_alone():
    attentive, plain = (load_config(CONFIGS / name).model_dump() for name in ("hippocampus.yaml", "hippocampus-plain.yaml"))
    assert {key for key in attentive if attentive[key] != plain[key]} == {"name", "attention"}
    assert set(plain["attention"].values()) == {None}
