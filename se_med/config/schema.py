"""The JSON Schema of the configuration, by which editors complete and check it."""

from __future__ import annotations

from typing import Any

from se_med.config.attention import AnyGate
from se_med.config.experiment import Config
from se_med.config.structure import parts, tags

DIALECT = "https://json-schema.org/draft/2020-12/schema"


def json_schema() -> dict[str, Any]:
    """Return the JSON Schema (draft 2020-12) of a configuration file, shorthands and ``extends`` included."""
    schema = Config.model_json_schema()
    sites = schema["$defs"]["AttentionConfig"]["properties"]
    blocks = [name for gate in parts(AnyGate) for name in tags(gate)["block"]]
    for site in sites.values():
        site["anyOf"].insert(0, {"enum": blocks, "description": "A block with its default options."})
    attention = schema["properties"]["attention"]
    reference = attention.pop("$ref")
    attention.pop("default", None)
    attention["anyOf"] = [
        {"type": "null", "description": "The plain U-Net."},
        {"enum": blocks, "description": "This block in every encoder and decoder stage."},
        {"$ref": reference},
    ]
    extends = {
        "description": "Files that this one is laid over, relative to this file; later ones go over earlier ones.",
        "anyOf": [{"type": "string"}, {"type": "array", "items": {"type": "string"}}],
    }
    return {
        "$schema": DIALECT,
        "title": "se-med configuration",
        "description": schema["description"],
        "type": "object",
        "properties": {"extends": extends, **schema["properties"]},
        "additionalProperties": False,
        "$defs": schema["$defs"],
    }
