"""Located YAML: kinds of scalars, places of values, and what is refused."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from se_med.config.source import Source
from se_med.config.yaml_tree import parse_tree


def read(text: str):
    found = []
    tree = parse_tree(Source("t.yaml", text, Path()), found)
    return tree, [str(problem) for problem in found]


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1e-3", 0.001), ("1E3", 1000.0), (".5", 0.5), ("5.", 5.0), ("-1", -1), ("+3", 3), ("007", 7), ("0o17", 15), ("0x1F", 31),
        ("-.inf", float("-inf")), ("true", True), ("False", False), ("null", None), ("~", None), ("", None),
        ("no", "no"), ("off", "off"), ("yes", "yes"), ("1_000", "1_000"), ("12:30", "12:30"), ("2024-01-01", "2024-01-01"),
        ("'1'", "1"), ('"\\u00e9"', "é"), ("0b1", "0b1"), ("1.2.3", "1.2.3"), ("[1, [a]]", (1, ("a",))),
    ],
)  # fmt: skip
def test_scalars_follow_the_yaml_1_2_core_schema(text, value):
    tree, found = read(f"key: {text}")
    assert found == []
    assert tree.value == {"key": value}
    assert type(tree.value["key"]) is type(value)


def test_every_value_and_key_has_its_place():
    tree, _ = read("a: 1\nb:\n  c: [x,\n    y]\n")
    where = {loc: (place.key.line, place.key.column, place.value.line, place.value.column) for loc, place in tree.places.items()}
    assert where[("a",)] == (0, 0, 0, 3)
    assert where[("b", "c")] == (2, 2, 2, 5)
    assert where[("b", "c", 1)][2:] == (3, 4)
    assert tree.place(("b", "c", 1, "deeper")) == tree.places[("b", "c", 1)]


def test_an_alias_is_a_value_of_its_own():
    tree, found = read("a: &x {k: 1}\nb: *x\n")
    assert found == []
    assert tree.value == {"a": {"k": 1}, "b": {"k": 1}}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a: 1\nb: {c: 1, c: 2}", "t.yaml:2:11: key 'c' is given twice (first in line 2)"),
        ("a: !!python/object/apply:os.system [x]", "t.yaml:1:4: tag '!!python/object/apply:os.system' is not allowed"),
        ("a: !custom 1", "t.yaml:1:4: tag '!custom' is not allowed"),
        ("a: [1, !!str 1]", "t.yaml:1:8: tag '!!str' is not allowed"),
        ("3: a", "t.yaml:1:1: key 3 is not text; put it in quotes"),
        ("? [a]\n: b", "t.yaml:1:3: key a list or mapping is not text"),
        ("a: 9223372036854775808", "t.yaml:1:4: number '9223372036854775808' is too large"),
        ("a: " + "9" * 5000, "t.yaml:1:4: number '99999"),
        ('a: "\\ud800"', "t.yaml:1:4: half of a surrogate pair is not text"),
    ],
)
def test_a_mistake_that_leaves_the_rest_readable(text, message):
    tree, found = read(text)
    assert tree is not None
    assert len(found) == 1
    assert found[0].startswith(message)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a: [1, 2", "t.yaml:1:9: not valid YAML: expected ',' or ']', but got '<stream end>', while parsing a flow sequence"),
        ("a: b: c", "t.yaml:1:5: not valid YAML: mapping values are not allowed here"),
        ("a:\n\tb: 1", "t.yaml:2:1: not valid YAML: found character '\\t' that cannot start any token"),
        ("a: *b", "t.yaml:1:4: not valid YAML: found undefined alias 'b'"),
        ("a: 1\n---\nb: 1", "t.yaml:2:1: a second document starts here"),
        ("a: &a [*a]", "t.yaml:1:4: nested more than 50 deep, or an alias that contains itself"),
        ("a: &a [*a, *a]", "t.yaml:1:4: nested more than 50 deep, or an alias that contains itself"),
        ("[" * 51, "t.yaml:1:51: nested more than 50 deep"),
        ("a:\n  - \x07", "t.yaml:2:5: character '\\x07' cannot stand in YAML"),
        ('a: "\\UFFFFFFFF"', "t.yaml:1:7: not valid YAML"),
        (f"%YAML 1.{'9' * 5000}\n---\na: 1", "t.yaml:1:9: not valid YAML"),
    ],
)
def test_text_that_cannot_be_read_at_all(text, message):
    tree, found = read(text)
    assert tree is None
    assert len(found) == 1
    assert found[0].startswith(message)


@pytest.mark.parametrize(
    "text",
    [
        "\n".join(f"k{n}: &k{n} [{', '.join(['*k' + str(n - 1)] * 10 if n else ['1'] * 10)}]" for n in range(12)),
        "a: [" + "1," * 100_000 + "]",
        "[" * 500_000,
        "{a: " * 100_000,
    ],
    ids=["alias bomb", "long list", "deep lists", "deep mappings"],
)
def test_a_file_that_grows_is_refused_quickly(text):
    start = time.perf_counter()
    tree, found = read(text)
    assert tree is None
    assert "more than" in found[0]
    assert time.perf_counter() - start < 5


def test_the_excerpt_of_a_long_line_is_cut_around_the_caret():
    _, found = read("a: [" + "1, " * 300 + "!x 5" + ", 1" * 300 + "]")
    head, line, caret = found[0].splitlines()
    assert "1:905" in head
    assert len(line) < 140
    assert line[caret.index("^")] == "!"


def test_the_caret_stands_below_its_character_after_tabs():
    _, found = read("a: 1\n\n# x\n'b\t \tc': !x 3")
    _, line, caret = found[0].splitlines()
    assert line[caret.index("^")] == "!"
    assert "\t" in caret
