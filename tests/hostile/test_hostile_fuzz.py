"""A few thousand damaged files; `python -m benchmarks fuzz` makes a hundred thousand."""

from __future__ import annotations

import contextlib
import random
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from benchmarks._fuzz_formats import FORMATS, mutate
from benchmarks.fuzz import SLOW, fuzz, peak_mb, shares, table
from se_med.config.load import parse_config
from se_med.errors import ConfigError

MUTANTS = 2500


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", FORMATS)
def test_damaged_files_are_read_or_refused(tmp_path, name):
    fuzz(name, range(1), 7, tmp_path)  # imports what the readers need
    before = peak_mb()
    count = fuzz(name, range(shares(MUTANTS)[name]), 7, tmp_path)
    assert [finding for finding in count.findings if count.stray] == []
    assert count.slowest < SLOW
    assert count.read + count.refused == shares(MUTANTS)[name]
    assert peak_mb() - before < 100


@pytest.mark.parametrize("name", FORMATS)
def test_good_files_are_read(tmp_path, name):
    made = FORMATS[name](tmp_path)
    for content in made.seeds:
        made.write(content)
        assert any(_reads(read, made.path) for read in made.readers)


def _reads(read, path: Path) -> bool:
    from se_med.errors import SeMedError

    try:
        read(path)
    except SeMedError:
        return False
    return True


def numbered(number: int) -> random.Random:
    return random.Random(f"nifti 3 {number}")  # noqa: S311 - nothing to keep secret


def test_a_mutant_is_made_again_by_its_number(tmp_path):
    made = FORMATS["nifti"](tmp_path)
    assert mutate(made, numbered(5)) == mutate(made, numbered(5))
    assert len({mutate(made, numbered(number)) for number in range(20)}) > 15


def test_what_is_found_is_counted(tmp_path, monkeypatch):
    def stumble(path: Path) -> None:
        if path.read_bytes()[0] != 92:  # the first byte of a good header
            raise IndexError("stumbled")

    stumbling = FORMATS["nifti"](tmp_path)
    monkeypatch.setitem(FORMATS, "nifti", lambda folder: type(stumbling)(stumbling.path, stumbling.seeds, [stumble]))
    count = fuzz("nifti", range(300), 0, tmp_path)
    assert count.stray == len(count.findings) > 0
    assert count.findings[0].what.startswith("IndexError: stumbled at ")
    assert "stray" in table({"nifti": count}, 0.0)


WORDS = st.sampled_from(
    [
        *("name", "data", "training", "steps", "attention", "encoder", "scse", ":", "{", "}", "[", "]", ",", "*a", "&a", "!x"),
        *("'", '"', "1e999", "<<", "?", "|", "#", "null", "%", "@", "`", "---", "\n", "  ", "- "),
    ]
)


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.one_of(st.lists(WORDS, max_size=40).map(" ".join), st.lists(WORDS, max_size=40).map("".join), st.text(max_size=80)))
def test_any_text_is_a_configuration_or_refused(text):
    with contextlib.suppress(ConfigError):
        parse_config(text, "any.yaml")
