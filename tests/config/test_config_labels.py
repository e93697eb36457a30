"""What label values may mean, and the one line that says why they cannot."""

import pytest

from se_med.config.data import DataConfig
from se_med.config.dump import dump_config
from se_med.config.labels import MOST_REGIONS, order_regions
from se_med.config.load import parse_config
from se_med.errors import ConfigError


def data_of(text: str) -> DataConfig:
    return parse_config(f"data: {{{text}}}", "x.yaml").data


def test_structures_of_one_value_and_of_several():
    assert data_of("labels: {liver: 1, tumour: [3, 4]}").labels == {"liver": 1, "tumour": (3, 4)}
    assert data_of("regions: {whole: [1, 2], core: 1}").regions == {"whole": (1, 2), "core": 1}


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("labels: {a: [1, 3], b: [3, 4]}", "data.labels: a and b both have the value 3; structures that overlap are regions"),
        ("labels: {a: 1, b: 1}", "data.labels: two labels have the same value"),
        ("labels: {a: [1, 1]}", "data.labels: a names 1 twice"),
        ("labels: {a: []}", "data.labels.a: [] has 0 values, not at least 1"),
        ("labels: {a: [1, 0]}", "data.labels.a[1]: 0 is too small"),
        ("labels: {background: 0}", "data.labels.background: 0 is too small"),
        ("labels: {background: 5}", "data.labels: background is no structure; 0 is always background"),
        ("labels: {a: 1}, regions: {b: [1, 2]}", "data.regions: go in place of labels"),
        ("labels: {a: 1}, background_values: [1]", "data.background_values: 1 is the value of structure a"),
        ("labels: {a: [1, 2]}, ignore_label: 2", "data.ignore_label: 2 is the value of structure a"),
        ("regions: {a: [1, 2], b: 2}, ignore_label: 2", "data.ignore_label: 2 is the value of structure"),
        ("labels: {a: 1}, background_values: [5], ignore_label: 5", "data.ignore_label: 5 is in background_values too"),
        ("regions: {a: [1, 2], b: [2, 1]}", "data.regions: a and b are the same values"),
        ("regions: {a: [1, 1]}", "data.regions: a names a value twice"),
        ("regions: {background: [1]}", "data.regions: background is no structure"),
        ("regions: {both: [1, 2], a: 1, b: 2}", "data.regions: both [1, 2] holds nothing beside a, b, so no label value stands"),
        ("region_values: {a: 1}", "data.region_values: are the values of regions"),
        (
            "regions: {a: [1, 2], b: 2}, region_values: {a: 1}",
            "data.region_values: must name every region and nothing else",
        ),
        ("regions: {a: [1, 2], b: 2}, region_values: {a: 3, b: 2}", "data.region_values: 3 is no value of a, which has [1, 2]"),
        ("regions: {a: [1, 2], b: 2}, region_values: {a: 2, b: 2}", "data.region_values: two regions have the same value"),
    ],
)
def test_each_contradiction_is_one_line_at_its_place(text, line):
    with pytest.raises(ConfigError) as caught:
        data_of(text)
    first, *quoted = str(caught.value).splitlines()
    assert first.startswith("x.yaml:1:")
    assert line in first
    assert len(quoted) == 2  # the line of the file and the mark below it


def test_more_regions_than_combinations_can_be_told_apart():
    names = [f"r{number}: {number + 1}" for number in range(MOST_REGIONS + 1)]
    data_of(f"regions: {{{', '.join(names[:-1])}}}")
    with pytest.raises(ConfigError, match=f"{MOST_REGIONS + 1} regions; at most {MOST_REGIONS}"):
        data_of(f"regions: {{{', '.join(names)}}}")


def test_regions_are_written_from_large_to_small_each_with_what_remains():
    assert list(order_regions({"enhancing": 3, "core": [1, 3], "whole": [1, 2, 3]}).items()) == [
        ("whole", 2),
        ("core", 1),
        ("enhancing", 3),
    ]
    # Of two values that remain of b, 3 is in b alone; a spare value stands for a region that others fill.
    assert order_regions({"a": [1, 2], "b": [2, 3]}) == {"a": 1, "b": 3}
    assert order_regions({"both": [1, 2, 9], "a": 1, "b": 2}) == {"both": 9, "a": 1, "b": 2}


def test_dump_keeps_numbers_and_the_order_of_writing():
    text = "labels: {b: 1, a: [4, 3]}, background_values: [7]"
    assert "a: [4, 3]" in dump_config(parse_config(f"data: {{{text}}}", "x.yaml"))
    config = parse_config("data: {regions: {z: [1, 2], a: 1, m: [1, 3]}, region_values: {m: 3, z: 2, a: 1}}", "x.yaml")
    again = parse_config(dump_config(config), "y.yaml")
    assert again == config
    assert list(again.data.region_values) == ["m", "z", "a"]
