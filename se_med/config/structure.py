"""What the models' annotations say about a place in the configuration: its keys, its choices, whether it is a path."""

from __future__ import annotations

import types
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from se_med.config.base import Part


def alternatives(annotation: Any) -> Iterator[Any]:
    """Yield the types of a union (or the one type there is), without None and without ``Annotated``."""
    origin = get_origin(annotation)
    if origin is Annotated:
        yield from alternatives(get_args(annotation)[0])
    elif origin in (Union, types.UnionType):
        for member in get_args(annotation):
            yield from alternatives(member)
    elif annotation is not type(None):
        yield annotation


def parts(annotation: Any) -> tuple[type[Part], ...]:
    """Return the parts that may stand here: one for most keys, several for a choice of blocks."""
    return tuple(kind for kind in alternatives(annotation) if isinstance(kind, type) and issubclass(kind, Part))


def choices(annotation: Any) -> tuple[Any, ...]:
    """Return the values that a ``Literal`` here allows."""
    return tuple(value for kind in alternatives(annotation) if get_origin(kind) is Literal for value in get_args(kind))


def tags(part: type[Part]) -> dict[str, tuple[Any, ...]]:
    """Return the required keys of a part whose value names the part among several, e.g. ``{"block": ("cse",)}``."""
    return {
        key: choices(field.annotation)
        for key, field in part.model_fields.items()
        if field.is_required() and choices(field.annotation)
    }


def part_of(annotation: Any, value: Any) -> type[Part] | None:
    """Return the part that a value here is read as; None if no part may stand here or the value does not say which."""
    candidates = parts(annotation)
    if len(candidates) == 1:
        return candidates[0]
    for part in candidates:
        if isinstance(value, dict) and all(value.get(key) in names for key, names in tags(part).items()):
            return part
    return None


def child(annotation: Any, value: Any, key: str | int) -> Any:
    """Return the annotation of one key of a mapping, or of one item of a list; None if there is no such thing."""
    part = part_of(annotation, value)
    if part is not None:
        field = part.model_fields.get(str(key))
        return field.annotation if field is not None else None
    for kind in alternatives(annotation):
        arguments = get_args(kind)
        if get_origin(kind) is dict and isinstance(key, str):
            return arguments[1]
        if get_origin(kind) is tuple and isinstance(key, int):
            if arguments[-1] is Ellipsis:
                return arguments[0]
            return arguments[key] if key < len(arguments) else None
    return None


def length(annotation: Any) -> int | None:
    """Return the number of values of a list of fixed length; None where any number, or no list, may stand."""
    for kind in alternatives(annotation):
        if get_origin(kind) is tuple and get_args(kind)[-1] is not Ellipsis:
            return len(get_args(kind))
    return None


def is_path(annotation: Any) -> bool:
    """Say whether text here is the name of a file or folder."""
    kinds = tuple(alternatives(annotation))
    return Path in kinds and str not in kinds
