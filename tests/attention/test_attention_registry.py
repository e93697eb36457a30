"""Blocks are found by name and by pattern, and refused with a hint."""

import subprocess
import sys

import pytest

from se_med.attention import attention_class, create_attention, list_attention


def test_list_matches_wildcards():
    names = list_attention()
    assert names == sorted(names)
    assert {"cse", "sse", "scse"} <= set(names)
    assert list_attention("?se") == ["cse", "sse"]
    assert list_attention("nothing*") == []


def test_create_returns_the_class_of_that_name():
    for name in list_attention():
        block = attention_class(name)
        signal = {"signal_channels": 8} if block.kind == "skip" else {}
        assert type(create_attention(name, 16, block.ranks[0], **signal)) is block


def test_unknown_name_is_refused_with_a_hint():
    with pytest.raises(ValueError, match="unknown attention block 'channel_se'; known are cse, sse"):
        create_attention("channel_se", 16, 3)
    with pytest.raises(ValueError, match="'scsee'; did you mean 'scse'"):
        create_attention("scsee", 16, 3)


@pytest.mark.parametrize("options", [{"reduction": 0}, {"reduction": -2}, {"reduction": 0.5}, {"min_hidden": 0}])
@pytest.mark.parametrize("name", ["cse", "scse"])
def test_impossible_widths_are_refused(name, options):
    with pytest.raises(ValueError, match=next(iter(options))):
        create_attention(name, 16, 3, **options)


def test_unknown_aggregation_is_refused():
    with pytest.raises(ValueError, match="aggregation: 'mean'"):
        create_attention("scse", 16, 3, aggregation="mean")


def test_the_room_imports_torch_alone():
    code = "import sys, se_med.attention; print(sorted({m.split('.')[0] for m in sys.modules} & set(sys.argv[1:])))"
    forbidden = ["monai", "lightning", "nibabel", "scipy", "pydantic", "yaml"]
    done = subprocess.run([sys.executable, "-c", code, *forbidden], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
