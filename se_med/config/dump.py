"""Writing a configuration: complete, in the order of the models, and such that reading it gives the same again."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

from se_med.config.base import Part
from se_med.config.yaml_tree import CORE_SCHEMA

WIDTH = 100
LINE_BREAKS = ("\x85", "\u2028", "\u2029")


class _Dumper(yaml.SafeDumper):
    """Quotes text that YAML 1.1 or 1.2 would read as something else; writes lists in flow style and no anchors."""

    def ignore_aliases(self, data: Any) -> bool:
        return True


def _represent_list(dumper: _Dumper, value: tuple[Any, ...]) -> yaml.Node:
    return dumper.represent_sequence("tag:yaml.org,2002:seq", value, flow_style=True)


def _represent_text(dumper: _Dumper, value: str) -> yaml.Node:
    # YAML folds these line breaks into spaces everywhere but in double quotes, where they are escaped.
    style = '"' if any(mark in value for mark in LINE_BREAKS) else None
    return dumper.represent_scalar("tag:yaml.org,2002:str", value, style=style)


_Dumper.add_representer(tuple, _represent_list)
_Dumper.add_representer(str, _represent_text)
for _tag, _pattern, _first in CORE_SCHEMA:
    _Dumper.add_implicit_resolver(_tag, _pattern, _first)


def dump_config(config: Part) -> str:
    """Return a configuration as YAML text: every key, defaults included, paths absolute.

    `parse_config` reads it back to an equal configuration.
    """
    return yaml.dump(_plain(config), Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=WIDTH, default_flow_style=False)


def _plain(value: Any) -> Any:
    if isinstance(value, Part):
        # What names the kind of a part (`block`) is the only thing required of it, and reads best at its head.
        fields = sorted(type(value).model_fields.items(), key=lambda field: not field[1].is_required())
        return {key: _plain(getattr(value, key)) for key, _ in fields}
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, tuple):
        return tuple(_plain(item) for item in value)
    if isinstance(value, Path):
        return str(value.absolute())
    return value
