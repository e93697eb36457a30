"""The attention part of a configuration becomes gates at sites and stages, or a message that names both."""

import pytest
from network_cases import SITES, configure

from se_med.config.attention import AttentionConfig
from se_med.errors import ConfigError
from se_med.networks.placement import place_gates

FEATURES = (8, 16, 32, 64)


def place(attention):
    return place_gates(AttentionConfig.model_validate(attention), configure(features=FEATURES))


def test_null_is_the_plain_network():
    assert place(None) == {}


def test_a_name_stands_for_encoder_and_decoder():
    assert sorted(place("cse")) == [(site, stage) for site in ("decoder", "encoder") for stage in range(3)]


def test_every_site_has_its_stages_and_channels():
    placed = place(dict.fromkeys(SITES, "sse"))
    channels = {site: {stage: gate.channels for (where, stage), gate in placed.items() if where == site} for site in SITES}
    shallow = {0: 8, 1: 16, 2: 32}
    assert channels == {
        "encoder": shallow,
        "skip": shallow,
        "bottleneck": {3: 64},
        "upsample": shallow,
        "concat": {0: 16, 1: 32, 2: 64},
        "decoder": shallow,
        "head": {0: 8},
    }


def test_stages_and_options_reach_the_block():
    placed = place({"encoder": {"block": "cse", "reduction": 16, "min_hidden": 1, "stages": [2]}, "decoder": "sse"})
    assert placed["encoder", 2].fc1.out_features == 2
    assert ("encoder", 0) not in placed


@pytest.mark.parametrize(
    ("site", "stage", "stages"),
    [
        ("encoder", 3, "stages 0 to 2"),
        ("skip", 9, "stages 0 to 2"),
        ("bottleneck", 0, "stage 3 only"),
        ("upsample", 3, "stages 0 to 2"),
        ("concat", 3, "stages 0 to 2"),
        ("decoder", 3, "stages 0 to 2"),
        ("head", 1, "stage 0 only"),
    ],
)
def test_a_stage_that_does_not_exist_is_named_with_its_site(site, stage, stages):
    with pytest.raises(ConfigError, match=rf"attention\.{site}\.stages: stage {stage} does not exist.*{stages}"):
        place({site: {"block": "cse", "stages": [stage]}})


def test_all_problems_are_told_at_once():
    with pytest.raises(ConfigError) as caught:
        place({"encoder": {"block": "cse", "stages": [7]}, "head": {"block": "sse", "stages": [1]}})
    assert len(caught.value.problems) == 2
