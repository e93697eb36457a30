"""The JSON Schema accepts what the loader accepts, as far as a schema can tell."""

from __future__ import annotations

import json

import pytest
import yaml

from se_med.config.dump import dump_config
from se_med.config.experiment import Config
from se_med.config.load import parse_config
from se_med.config.schema import json_schema
from se_med.errors import ConfigError


def test_it_is_a_described_document_of_the_2020_dialect():
    schema = json.loads(json.dumps(json_schema()))
    assert schema["$schema"] == "https://json-schema.org/draft/2020-12/schema"
    assert schema["title"]
    assert schema["description"]
    assert set(schema["properties"]) == {"extends", *Config.model_fields}
    assert schema["additionalProperties"] is False


def test_every_reference_and_every_setting_is_there():
    schema = json_schema()
    text = json.dumps(schema)
    for name in schema["$defs"]:
        assert f"#/$defs/{name}" in text
    for part in schema["$defs"].values():
        for key, field in part["properties"].items():
            assert "description" in field or "const" in field or "$ref" in field, key


def test_attention_may_be_null_a_name_or_a_mapping_of_sites():
    schema = json_schema()
    null, names, reference = schema["properties"]["attention"]["anyOf"]
    assert null["type"] == "null"
    assert names["enum"][:3] == ["cse", "sse", "scse"]
    assert len(set(names["enum"])) == 15
    assert reference["$ref"] == "#/$defs/AttentionConfig"
    for site in schema["$defs"]["AttentionConfig"]["properties"].values():
        assert site["anyOf"][0]["enum"] == names["enum"]
        assert {"type": "null"} in site["anyOf"]


@pytest.mark.parametrize(
    "text",
    [
        dump_config(Config()),
        "attention: scse",
        "attention: null",
        "attention: {encoder: sse, skip: {block: cse, reduction: 2}}",
        "attention: ssce",
        "attention: {encoder: {block: sse, reduction: 2}}",
        "training: {steps: many}",
        "training: {stepz: 1}",
        "training: {foreground: 2}",
        "data: {spacing: [1, 1]}",
        "network: {encoder_units: [1, 2]}",
    ],
)
def test_schema_and_loader_agree(text):
    jsonschema = pytest.importorskip("jsonschema", reason="jsonschema is not installed")
    try:
        parse_config(text, "c")
    except ConfigError:
        valid = False
    else:
        valid = True
    assert jsonschema.Draft202012Validator(json_schema()).is_valid(yaml.safe_load(text)) is valid
