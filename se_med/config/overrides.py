"""Settings of the command line: ``training.steps=2000``, one tree for each."""

from __future__ import annotations

from pathlib import Path

from se_med.config.source import Mark, Problem, Source
from se_med.config.yaml_tree import Loc, Place, Tree, parse_tree


def parse_override(text: str, problems: list[Problem]) -> Tree | None:
    """Read one ``key=value``: the key with dots between its parts, the value as YAML (a list is ``[1, 2]``).

    Args:
        text: the argument. Paths in it are relative to the current folder.
        problems: receives everything wrong with it.

    Returns:
        A tree whose every place is this argument; None if anything is wrong with it.
    """
    dotted, equals, written = text.partition("=")
    source = Source(text, written, Path.cwd(), command_line=True)
    mark = Mark(source)
    keys: Loc = tuple(key.strip() for key in dotted.split("."))
    if not equals or not all(keys):
        problems.append(Problem(mark, "not of the form key=value, as in training.steps=2000"))
        return None
    if keys[0] == "extends":
        problems.append(Problem(mark, "'extends' can be set in a file only"))
        return None
    found = len(problems)
    parsed = parse_tree(source, problems)
    if parsed is None or len(problems) > found:
        return None
    value = parsed.value
    for key in reversed(keys):
        value = {key: value}
    place = Place(mark, mark)
    places = {keys[:length]: place for length in range(len(keys))}
    places.update({keys + loc: place for loc in parsed.places})
    return Tree(value, places)
