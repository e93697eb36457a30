"""The dump is complete, readable, and loads back equal; damaged files raise nothing but errors for the user."""

from __future__ import annotations

import contextlib
from pathlib import Path

import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from se_med.config.dump import dump_config
from se_med.config.experiment import Config
from se_med.config.load import load_config, parse_config
from se_med.errors import UsageError

words = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=12) | st.sampled_from(
    [
        "no",
        "null",
        "~",
        "1e-3",
        "0x1f",
        "1_0",
        "12:30",
        "2024-01-01",
        "true",
        "=",
        "<<",
        "- a",
        "a: b",
        "#",
        "'",
        '"',
        "\n",
        " x ",
        "\u2028",
        "!!int",
    ]
)
paths = words.filter(lambda text: "\0" not in text).map(lambda text: Path("/") / text)
positive = st.integers(1, 10**6)
floats = st.floats(1e-12, 1e12, allow_subnormal=False)
units = st.integers(1, 64)
spacings = st.floats(1e-3, 1e3)
share = st.floats(0, 1, exclude_max=True)


def some(**fields):
    return st.fixed_dictionaries({}, optional=fields)


def ranges(low, high):
    return st.tuples(st.floats(low, high), st.floats(low, high)).map(lambda pair: (min(pair), max(pair)))


gates = st.one_of(
    st.none(),
    st.fixed_dictionaries(
        {"block": st.sampled_from(["cse", "scse"])},
        optional={"reduction": positive, "stages": st.none() | st.lists(st.integers(0, 9)).map(tuple)},
    ),
    st.sampled_from([{"block": "sse"}, {"block": "scse", "aggregation": "add"}, "sse"]),
)
configs = some(
    name=st.from_regex(r"\A[A-Za-z0-9][A-Za-z0-9._-]{0,99}\Z"),
    seed=st.integers(0, 2**63 - 1),
    data=some(
        root=st.none() | paths,
        cache=paths,
        split=paths,
        labels=st.none()
        | st.lists(words, unique=True, min_size=1, max_size=5).map(lambda names: {name: k + 1 for k, name in enumerate(names)}),
        spacing=st.tuples(spacings, spacings, spacings),
        slice_axis=st.sampled_from([None, 0, 1, 2]),
        group=st.sampled_from([None, "", "^no$", r"(\d+)_", "[a-z]+: #x", "'\"", "é\n", "1"]),
    ),
    network=some(
        norm=st.sampled_from(["instance", "batch", "group"]),
        features=st.just((8, 16, 32)),
        strides=st.none() | st.just(((2, 2, 1), (2, 2, 2))),
        kernels=st.just(((3, 3, 1), (3, 3, 3), (3, 3, 3))),
        encoder_units=units | st.tuples(units, units, units),
        decoder_units=units,
        deep_supervision=st.sampled_from([None, (1.0, 0.5)]),
        stem=st.sampled_from([None, (1, 1, 1), (2, 2, 1)]),
        dropout=share,
    ).filter(lambda network: "features" in network or not isinstance(network.get("encoder_units"), tuple)),
    attention=st.none() | st.sampled_from(["cse", "scse"]) | some(encoder=gates, skip=gates, head=gates),
    augmentation=some(
        flip=some(probability=share, axes=st.none() | st.lists(st.sampled_from([0, 1, 2])).map(tuple)),
        noise=some(std=ranges(0, 10)),
        affine=some(scale=ranges(0.1, 10), rotation=st.floats(0, 180)),
    ),
    training=some(
        steps=st.none() | positive,
        learning_rate=floats,
        patch=st.none() | st.lists(positive, min_size=2, max_size=3).map(tuple),
        gradient_clip=st.none() | floats,
        ema=st.none() | st.floats(0.1, 0.9),
    ),
    inference=some(overlap=share, window_batch=positive),
    evaluation=some(tolerance=floats),
)


@pytest.mark.parametrize("name", ["a\x85b", "\u2028", "\u2029 end"])
def test_line_breaks_of_unicode_survive(name):
    config = Config.model_validate({"data": {"labels": {name: 1}}})
    assert parse_config(dump_config(config), "dump.yaml") == config


@given(configs)
@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much])
def test_a_dump_loads_back_equal(values):
    config = Config.model_validate(values)
    text = dump_config(config)
    again = parse_config(text, "dump.yaml")
    assert again == config
    assert list(again.data.labels or ()) == list(config.data.labels or ())
    assert dump_config(again) == text


def test_a_dump_is_complete_and_readable(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    text = dump_config(
        Config.model_validate({"attention": {"skip": {"block": "cse", "stages": (0, 1)}}, "data": {"root": Path("here")}})
    )
    lines = text.splitlines()
    assert lines[:2] == ["name: run", "seed: 0"]
    assert f"  root: {tmp_path / 'here'}" in lines
    assert "  learning_rate: 0.004" in lines
    assert "    scale: [0.8, 1.2]" in lines
    assert lines[lines.index("  skip:") + 1 :][:2] == ["    block: cse", "    stages: [0, 1]"]
    assert set(yaml.safe_load(text)) == set(Config.model_fields)


def test_a_run_whose_steps_are_known_can_be_given_minutes_again():
    text = dump_config(parse_config("training: {steps: 40}", "c"))
    assert parse_config(text, "c", overrides=["training.max_minutes=1"]).training.steps is None


VALID = dump_config(Config.model_validate({"attention": "scse", "training": {"steps": 5}})) + "extends: []\n"
FRAGMENTS = [
    ":",
    "\n",
    " ",
    "  ",
    "-",
    "[",
    "]",
    "{",
    "}",
    "&a ",
    "*a",
    "!!int ",
    "!x ",
    "'",
    '"',
    "\\",
    "#",
    "%",
    "\t",
    "null",
    "1e999",
    "~",
    "? ",
    "|",
    ">",
    "\x00",
    "\ud7ff",
    "\u2028",
    "extends: ",
    "block",
    "9" * 30,
    "<<",
    ",",
    "---\n",
    "\r",
]


@given(data=st.data())
@settings(max_examples=200, deadline=None)
def test_a_damaged_file_raises_nothing_but_errors_for_the_user(data, tmp_path_factory):
    text = VALID
    for _ in range(data.draw(st.integers(1, 4))):
        at = data.draw(st.integers(0, len(text)))
        to = data.draw(st.integers(at, min(len(text), at + 40)))
        text = text[:at] + data.draw(st.sampled_from(FRAGMENTS) | st.text(max_size=4).filter(str.isprintable)) + text[to:]
    path = tmp_path_factory.getbasetemp() / "fuzz.yaml"
    path.write_bytes(text.encode())
    try:
        message = f"{path}:{load_config(path).name}"
    except UsageError as error:
        message = str(error)
    assert message.startswith(f"{path}:")


@given(content=st.binary(max_size=200))
@settings(max_examples=100, deadline=None)
def test_bytes_raise_nothing_but_errors_for_the_user(content, tmp_path_factory):
    path = tmp_path_factory.getbasetemp() / "bytes.yaml"
    path.write_bytes(content)
    with contextlib.suppress(UsageError):  # a few of them are configurations
        assert isinstance(load_config(path), Config)


@given(st.text(max_size=30))
@settings(max_examples=150, deadline=None)
def test_arguments_raise_nothing_but_errors_for_the_user(text):
    for override in (text, f"training.{text}", f"attention={text}", f"data.root={text}"):
        try:
            message = f"command line {parse_config('attention: scse', 'c', overrides=[override]).name}"
        except UsageError as error:
            message = str(error)
        assert message.startswith("command line ")
