"""Configurations laid over one another, and the paths in them.

Mappings merge key by key; a scalar, a list and null replace what they cover. A shorthand below a mapping is written out first
(so ``attention: scse`` with ``attention: {decoder: sse}`` over it keeps scse in the encoder), and a mapping that names
another block replaces the block with all its options. Of two keys that exclude each other the one set later stays.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from se_med.config.base import Part
from se_med.config.structure import child, is_path, part_of, parts, tags
from se_med.config.yaml_tree import Loc, Place, Tree


def merge(below: Tree, above: Tree, model: type[Part]) -> Tree:
    """Lay one tree over another; every value keeps the place where it was written."""
    places = dict(below.places)
    value = _merged((), below.value, above.value, model, places, above.places)
    return Tree(value, places)


def _merged(loc: Loc, below: Any, above: Any, annotation: Any, places: dict[Loc, Place], new: dict[Loc, Place]) -> Any:
    if isinstance(above, dict):
        below = _written_out(below, annotation)
    if not isinstance(above, dict) or not isinstance(below, dict) or _names_another(below, above, annotation):
        _forget(loc, places)
        places.update({at: place for at, place in new.items() if at[: len(loc)] == loc})
        return above
    result = dict(below)
    part = part_of(annotation, below)
    for group in part.exclusive if part is not None else ():
        if any(above.get(key) is not None for key in group):
            for rival in set(group) - set(above):
                result.pop(rival, None)
                _forget((*loc, rival), places)
    for key, value in above.items():
        result[key] = _merged((*loc, key), result.get(key), value, child(annotation, below, key), places, new)
    return result


def _written_out(value: Any, annotation: Any) -> Any:
    candidates = parts(annotation)
    return candidates[0].expand(value) if len(candidates) == 1 and value is not None else value


def _names_another(below: dict[str, Any], above: dict[str, Any], annotation: Any) -> bool:
    keys = {key for part in parts(annotation) for key in tags(part)}
    return any(key in above and key in below and above[key] != below[key] for key in keys)


def _forget(loc: Loc, places: dict[Loc, Place]) -> None:
    for at in [at for at in places if at[: len(loc)] == loc]:
        del places[at]


def resolve_paths(value: Any, annotation: Any, folder: Path) -> Any:
    """Turn the text of every path into an absolute path, relative to a folder; ``~`` is the user's home.

    Which values are paths follows from the annotations. Text that cannot name a file stays text, for validation to refuse.
    """
    if isinstance(value, str) and is_path(annotation):
        return _absolute(value, folder)
    if isinstance(value, dict):
        return {key: resolve_paths(item, child(annotation, value, key), folder) for key, item in value.items()}
    if isinstance(value, tuple):
        return tuple(resolve_paths(item, child(annotation, value, index), folder) for index, item in enumerate(value))
    return value


def _absolute(text: str, folder: Path) -> Path | str:
    if not text or "\0" in text:
        return text
    try:
        path = folder.absolute() / Path(text).expanduser()
        # Symbolic links stay as the user wrote them; only a path that climbs has to follow them to be right.
        return path.resolve() if ".." in path.parts else path
    except (RuntimeError, OSError):  # the home of an unknown user, a loop of links
        return text
