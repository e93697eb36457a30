"""Validation errors in plain words, each at the place where the value was written."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from pydantic import ValidationError
from pydantic_core import ErrorDetails

from se_med.config.base import Part
from se_med.config.source import Mark, Problem, did_you_mean, show
from se_med.config.structure import child, choices, length, part_of, parts, tags
from se_med.config.yaml_tree import Loc, Tree

WANTED = {
    "int_type": "a whole number",
    "float_type": "a number",
    "finite_number": "a finite number",
    "string_type": "text",
    "bool_type": "true or false",
    "tuple_type": "a list",
    "list_type": "a list",
    "dict_type": "a mapping",
    "model_type": "a mapping",
    "model_attributes_type": "a mapping",
    "is_instance_of": "a path",
}
"""pydantic's errors about the kind of a value, and what is wanted in its place."""


@dataclass(frozen=True)
class _Spot:
    """Where pydantic's location leads: through the tree as far as it was written, and through the models to the end."""

    loc: Loc
    value: Any
    annotation: Any
    branch: tuple[Loc, str] | None
    """Where a union stands and which of its members complained."""


@dataclass(frozen=True)
class _Finding:
    spot: _Spot
    mark: Mark
    message: str
    wanted: str | None = None


def explain(error: ValidationError, tree: Tree, model: type[Part]) -> list[Problem]:
    """Turn a validation error into problems.

    Args:
        error: what pydantic found in `tree.value`.
        tree: the configuration as written.
        model: what it was validated against.
    """
    branches: dict[Loc | None, dict[str, list[_Finding]]] = defaultdict(lambda: defaultdict(list))
    for detail in error.errors(include_url=False, include_input=False):
        finding = _finding(detail, tree, model)
        union, member = finding.spot.branch or (None, "")
        branches[union][member].append(finding)
    findings = [*branches.pop(None, {}).get("", ())]
    for members in branches.values():
        findings.extend(_likeliest(list(members.values())))
    return [Problem(finding.mark, finding.message) for finding in findings]


def _likeliest(members: list[list[_Finding]]) -> Iterator[_Finding]:
    """Of the complaints of a union's members keep those of the member that came furthest with the value."""
    depths = [max((len(finding.spot.loc), finding.wanted is None) for finding in member) for member in members]
    best = [member for member, depth in zip(members, depths, strict=True) if depth == max(depths)]
    if len(best) == 1 or best[0][0].wanted is None:
        yield from best[0]
        return
    first = best[0][0]
    wanted = " or ".join(dict.fromkeys(finding.wanted for member in best for finding in member if finding.wanted))
    yield _Finding(first.spot, first.mark, _wrong_kind(first.spot, wanted), wanted)


def _spot(loc: tuple[int | str, ...], tree: Tree, model: type[Part]) -> _Spot:
    at: Loc = ()
    value: Any = tree.value
    annotation: Any = model
    branch: tuple[Loc, str] | None = None
    for step in loc:
        inner = child(annotation, value, step)
        if isinstance(value, dict):
            written = step in value
        else:
            written = isinstance(value, tuple) and isinstance(step, int) and step < len(value)
        if written:
            at, value = (*at, step), value[step]
        elif inner is None:
            # Neither a key that was written nor one of the models: pydantic's name for a member of a union.
            branch = branch or (at, str(step))
            continue
        annotation = inner
    return _Spot(at, value, annotation, branch)


def _finding(detail: ErrorDetails, tree: Tree, model: type[Part]) -> _Finding:
    kind, context = detail["type"], detail.get("ctx", {})
    # The last step of these two is not there to be found: a key of no model, a value that is missing.
    loc = detail["loc"][:-1] if kind in ("extra_forbidden", "missing") else detail["loc"]
    spot = _spot(loc, tree, model)
    place = tree.place(spot.loc)
    mark = place.key if isinstance(spot.value, dict) else place.value
    where = _dotted(spot.loc)
    if kind == "extra_forbidden":
        key = str(detail["loc"][-1])
        mark = tree.place((*spot.loc, key)).key
        return _Finding(spot, mark, _unknown_key(key, spot, model, full=mark.source.command_line))
    if kind == "missing":
        return _Finding(spot, mark, f"{where}: {_missing(detail['loc'][-1], spot)}")
    if kind in ("union_tag_invalid", "union_tag_not_found"):
        key = str(context["discriminator"]).strip("'")
        mark = tree.place((*spot.loc, key)).value if isinstance(spot.value, dict) and key in spot.value else mark
        return _Finding(spot, mark, f"{where}: {_unknown_tag(key, spot)}")
    if kind == "value_error":
        text = str(context["error"])
        key = text.partition(":")[0]
        part = part_of(spot.annotation, spot.value)
        if part is not None and key in part.model_fields:
            inner = (*spot.loc, key)
            return _Finding(spot, tree.place(inner).value if inner in tree.places else mark, _join(where, text, "."))
        return _Finding(spot, mark, _join(where, text, ": "))
    if kind in WANTED:
        return _Finding(spot, mark, _wrong_kind(spot, WANTED[kind]), WANTED[kind])
    return _Finding(spot, mark, f"{where}: {show(spot.value)} {_out_of_bounds(kind, context, spot, detail['msg'])}")


def _dotted(loc: Loc) -> str:
    text = "".join(f"[{step}]" if isinstance(step, int) else f".{step}" for step in loc)
    return text.lstrip(".")


def _join(where: str, text: str, between: str) -> str:
    return f"{where}{between}{text}" if where else text


def _wrong_kind(spot: _Spot, wanted: str) -> str:
    value = spot.value
    hint = ""
    if value is None and wanted == "a mapping":
        return f"{_dotted(spot.loc)}: nothing is set here; give it keys or remove the line"
    if isinstance(value, float) and wanted.startswith("a whole number") and value.is_integer():
        hint = f"; write {value:.0f}"
    elif isinstance(value, str) and "number" in wanted and _is_number(value):
        hint = "; remove the quotes"
    elif wanted == "text" and isinstance(value, bool | int | float):
        hint = "; put it in quotes"
    elif wanted == "a path" and isinstance(value, str):
        hint = " that can be used: it is empty or its '~' is not known"
    return f"{_dotted(spot.loc)}: {show(value)} is not {wanted}{hint}"


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def _out_of_bounds(kind: str, context: dict[str, Any], spot: _Spot, otherwise: str) -> str:
    if kind == "literal_error":
        allowed = choices(spot.annotation)
        return f"is not one of {', '.join(map(str, allowed))}{_suggestion(spot.value, allowed)}"
    if kind == "string_pattern_mismatch":
        return f"does not fit the pattern {context['pattern']}"
    if kind in ("too_short", "too_long"):
        bound = f"at least {context['min_length']}" if kind == "too_short" else f"at most {context['max_length']}"
        return _wrong_length(context["actual_length"], str(length(spot.annotation) or bound))
    bounds = {
        "greater_than": "is too small; it must be greater than {gt}",
        "greater_than_equal": "is too small; the smallest value allowed is {ge}",
        "less_than": "is too large; it must be less than {lt}",
        "less_than_equal": "is too large; the largest value allowed is {le}",
    }
    if kind not in bounds:
        return f"is not allowed: {otherwise[:1].lower()}{otherwise[1:]}"
    return bounds[kind].format(**{key: f"{bound:g}" for key, bound in context.items()})


def _missing(step: int | str, spot: _Spot) -> str:
    if isinstance(step, int):
        return f"{show(spot.value)} {_wrong_length(len(spot.value), str(length(spot.annotation)))}"
    return f"key {step!r} is missing"


def _wrong_length(found: int, wanted: str) -> str:
    return f"has {found} {'value' if found == 1 else 'values'}, not {wanted}"


def _unknown_tag(key: str, spot: _Spot) -> str:
    known = [str(name) for part in parts(spot.annotation) for name in tags(part)[key]]
    if isinstance(spot.value, dict) and key not in spot.value:
        return f"key {key!r} is missing; it is one of {', '.join(known)}"
    value = spot.value[key] if isinstance(spot.value, dict) else spot.value
    return f"{show(value)} is not a known {key} ({', '.join(known)}){_suggestion(value, known)}"


def _suggestion(value: Any, known: Any) -> str:
    close = did_you_mean(value, [name for name in known if isinstance(name, str)]) if isinstance(value, str) else None
    return f"; did you mean {close!r}?" if close else ""


def _unknown_key(key: str, spot: _Spot, model: type[Part], full: bool) -> str:
    part = part_of(spot.annotation, spot.value)
    known = tuple(part.model_fields) if part is not None else ()
    homes = list(_homes(key, model))
    close = homes[0] if len(homes) == 1 else did_you_mean(key, known)
    hint = f"did you mean {close!r}?" if close else f"known here: {', '.join(known)}"
    name = _dotted((*spot.loc, key)) if full else key
    return f"unknown key {name!r}; {hint}"


def _homes(key: str, model: type[Part], above: str = "") -> Iterator[str]:
    """Yield the dotted names of the settings that have this key, in any part."""
    for name, field in model.model_fields.items():
        if name == key:
            yield f"{above}{name}"
        inner = parts(field.annotation)
        if len(inner) == 1:
            yield from _homes(key, inner[0], f"{above}{name}.")
