"""Located YAML: text becomes plain values, and every value remembers the line and column it was written at.

The dialect is the YAML 1.2 core schema (``1e-3`` is a number; ``no`` and ``off`` are text), read by PyYAML's scanner and
parser. Nothing is ever constructed from a tag, and files that would grow when read are refused.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from se_med.config.source import LINE_END, Mark, Problem, Source, show

MAX_BYTES = 1_000_000
MAX_NODES = 10_000
MAX_DEPTH = 50
MAX_INTEGER = 2**63 - 1
YAML_TAG = "tag:yaml.org,2002:"

Loc = tuple[str | int, ...]
"""The keys and list positions that lead from the top of a configuration to a value."""

CORE_SCHEMA = tuple(
    (YAML_TAG + name, re.compile(pattern), first)
    for name, pattern, first in (
        ("null", r"^(?:~|null|Null|NULL|)$", ["~", "n", "N", ""]),
        ("bool", r"^(?:true|True|TRUE|false|False|FALSE)$", list("tTfF")),
        ("int", r"^(?:[-+]?[0-9]+|0o[0-7]+|0x[0-9a-fA-F]+)$", list("-+0123456789")),
        ("float", r"^(?:[-+]?(?:\.[0-9]+|[0-9]+(?:\.[0-9]*)?)(?:[eE][-+]?[0-9]+)?)$", list("-+.0123456789")),
        ("float", r"^(?:[-+]?\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN))$", list("-+.")),
    )
)
"""Tag, pattern and possible first characters of every plain scalar that is not text (YAML 1.2.2, section 10.3.2)."""


@dataclass(frozen=True)
class Place:
    """Where a value starts, and where its key does if it stands in a mapping."""

    value: Mark
    key: Mark


@dataclass
class Tree:
    """A configuration as written: plain values (mappings are dicts, lists are tuples) and the place of each."""

    value: Any
    places: dict[Loc, Place]

    def place(self, loc: Loc) -> Place:
        """Return the place of a value, or of the closest value around it that was written down."""
        while loc not in self.places:
            loc = loc[:-1]
        return self.places[loc]


class _RefusedError(Exception):
    """Reading cannot go on: what is wrong, and at which character of the text."""

    def __init__(self, message: str, line: int, column: int) -> None:
        super().__init__(message)
        self.message = message
        self.line = line
        self.column = column


class _Loader(yaml.SafeLoader):
    """PyYAML's safe loader with core-schema scalars, limits, and no tags."""

    yaml_implicit_resolvers: dict[str, list[Any]] = {}  # noqa: RUF012 -- the base class declares it so

    def __init__(self, text: str) -> None:
        super().__init__(text)
        self.depth = 0
        self.nodes = 0
        self.tagged: dict[int, str] = {}

    def compose_node(self, parent: yaml.Node | None, index: Any) -> yaml.Node | None:
        event = self.peek_event()  # type: ignore[no-untyped-call]  # PyYAML's stubs leave it out
        tag = getattr(event, "tag", None)
        if tag is not None:
            event.tag = None
        self.nodes += 1
        self.depth += 1
        _refuse_growth(self.nodes, self.depth, event.start_mark)
        node: yaml.Node | None = super().compose_node(parent, index)
        self.depth -= 1
        if tag is not None and node is not None:
            self.tagged[id(node)] = tag
        return node


for _tag, _pattern, _first in CORE_SCHEMA:
    _Loader.add_implicit_resolver(_tag, _pattern, _first)


def _refuse_growth(nodes: int, depth: int, mark: Any) -> None:
    if nodes > MAX_NODES:
        raise _RefusedError(
            f"more than {MAX_NODES} values (aliases counted each time); this is no configuration", mark.line, mark.column
        )
    if depth > MAX_DEPTH:
        raise _RefusedError(f"nested more than {MAX_DEPTH} deep, or an alias that contains itself", mark.line, mark.column)


def decode(content: bytes, name: str, folder: Path, problems: list[Problem]) -> Source | None:
    """Turn the bytes of a file into a source; None if they are too many or not UTF-8, and `problems` says so."""
    start = Mark(Source(name, "", folder))
    if len(content) > MAX_BYTES:
        problems.append(Problem(start, f"larger than {MAX_BYTES // 1_000_000} MB; this is no configuration"))
        return None
    try:
        return Source(name, content.decode("utf-8-sig"), folder)
    except UnicodeDecodeError as error:
        before = content[: error.start].decode("utf-8-sig")
        problems.append(Problem(Mark(start.source, *_position(before)), "not UTF-8 text; save the file as UTF-8"))
        return None


def _position(before: str) -> tuple[int, int]:
    lines = LINE_END.split(before)
    return len(lines) - 1, len(lines[-1])


def parse_tree(source: Source, problems: list[Problem]) -> Tree | None:
    """Read the YAML of a source.

    Args:
        source: the text.
        problems: receives everything wrong with it.

    Returns:
        The values with their places. Keys given twice, tags and keys that are not text are problems that leave the rest
        readable; None if the text is not YAML, holds several documents, or nests or expands without bounds.
    """
    try:
        return _Conversion(source, problems).tree()
    except yaml.reader.ReaderError as error:
        character = show(source.text[error.position])
        refusal = _RefusedError(f"character {character} cannot stand in YAML", *_position(source.text[: error.position]))
    except yaml.MarkedYAMLError as error:
        refusal = _syntax_refusal(error)
    except _RefusedError as error:
        refusal = error
    problems.append(Problem(Mark(source, refusal.line, refusal.column), refusal.message))
    return None


def _syntax_refusal(error: yaml.MarkedYAMLError) -> _RefusedError:
    mark = error.problem_mark or error.context_mark
    message = f"not valid YAML: {error.problem or error.context}"
    if isinstance(error, yaml.composer.ComposerError) and error.problem == "but found another document":
        message = "a second document starts here; a configuration is a single one"
    elif error.problem and error.context and error.context_mark is not None:
        message += f", {error.context} that starts in line {error.context_mark.line + 1}"
    return _RefusedError(message, mark.line if mark else 0, mark.column if mark else 0)


@dataclass
class _Conversion:
    """Turns the nodes of one source into values and places."""

    source: Source
    problems: list[Problem]
    places: dict[Loc, Place] = field(default_factory=dict)
    tagged: dict[int, str] = field(default_factory=dict)
    nodes: int = 0

    def tree(self) -> Tree:
        loader = _Loader(self.source.text)
        try:
            root = loader.get_single_node()
        except (ValueError, OverflowError) as error:
            # PyYAML lets numbers out of range escape: "\\UFFFFFFFF", or a %YAML directive of 5000 digits.
            mark = loader.get_mark()
            raise _RefusedError(f"not valid YAML: {error}", mark.line, mark.column) from None
        self.tagged = loader.tagged
        start = Mark(self.source)
        self.places[()] = Place(start, start)
        value = None if root is None else self.value(root, (), start)
        return Tree(value, self.places)

    def mark(self, node: yaml.Node) -> Mark:
        return Mark(self.source, node.start_mark.line, node.start_mark.column)

    def report(self, node: yaml.Node, message: str) -> None:
        self.problems.append(Problem(self.mark(node), message))

    def value(self, node: yaml.Node, loc: Loc, key: Mark) -> Any:
        # Aliases are counted here again: each use is a value of its own.
        self.nodes += 1
        _refuse_growth(self.nodes, len(loc), node.start_mark)
        self.places[loc] = Place(self.mark(node), key)
        if id(node) in self.tagged:
            tag = self.tagged[id(node)].replace(YAML_TAG, "!!")
            self.report(node, f"tag {show(tag)} is not allowed; write the plain value")
        if isinstance(node, yaml.MappingNode):
            return self.mapping(node, loc)
        if isinstance(node, yaml.SequenceNode):
            return tuple(self.value(item, (*loc, index), self.mark(item)) for index, item in enumerate(node.value))
        return self.scalar(node)

    def mapping(self, node: yaml.MappingNode, loc: Loc) -> dict[str, Any]:
        result: dict[str, Any] = {}
        for key_node, value_node in node.value:
            if not isinstance(key_node, yaml.ScalarNode) or key_node.tag != YAML_TAG + "str":
                written = show(self.scalar(key_node)) if isinstance(key_node, yaml.ScalarNode) else "a list or mapping"
                self.report(key_node, f"key {written} is not text; put it in quotes")
                continue
            key = self.scalar(key_node)
            if key in result:
                first = self.places[(*loc, key)].key.line + 1
                self.report(key_node, f"key {show(key)} is given twice (first in line {first})")
                continue
            value = self.value(value_node, (*loc, key), self.mark(key_node))
            # A tagged value is reported already; without it no second problem follows from the same line.
            if id(value_node) not in self.tagged:
                result[key] = value
        return result

    def scalar(self, node: yaml.Node) -> Any:
        text: str = node.value
        kind = node.tag.removeprefix(YAML_TAG)
        if kind == "null":
            return None
        if kind == "bool":
            return text.lower() == "true"
        if kind == "int":
            return self.integer(node, text)
        if kind == "float":
            return float(text.lower().replace(".inf", "inf").replace(".nan", "nan"))
        if not text.isascii() and any("\ud800" <= char <= "\udfff" for char in text):
            self.report(node, "half of a surrogate pair is not text")
            return text.encode("utf-8", errors="replace").decode()
        return text

    def integer(self, node: yaml.Node, text: str) -> int:
        bases = {"0o": 8, "0x": 16}
        # 30 characters hold every allowed number; Python refuses to read thousands of digits.
        number = int(text, bases.get(text[:2], 10)) if len(text) <= 30 else MAX_INTEGER + 1
        if abs(number) > MAX_INTEGER:
            self.report(node, f"number {show(text)} is too large")
            return 0
        return number
