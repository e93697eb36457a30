"""Names and shapes of a network's weights are a promise to those who saved them."""

import json
from pathlib import Path

import pytest
from network_cases import SITES, build

GOLDEN = Path(__file__).with_name("network_state_dict_keys.json")
NETWORKS = {
    "plain": {},
    "residual": {"unit": "residual", "encoder_units": (1, 2, 1)},
    "batch": {"norm": "batch"},
    "stem": {"stem": (2, 2, 2), "deep_supervision": (1, 0.5)},
    "gated": {"attention": dict.fromkeys(SITES, "scse")},
    "residual_preact": {"unit": "residual_preact", "encoder_units": (1, 2, 1)},
    "bottleneck": {"unit": "bottleneck", "features": (8, 16)},
    "resnext": {"unit": "resnext", "features": (8, 16), "groups": 2},
    "inception": {"unit": "inception", "features": (8, 16)},
    "inside": {
        "unit": "bottleneck",
        "features": (8, 16),
        "encoder_units": 2,
        "attention": {"encoder": {"block": "scse", "placement": "conv3"}, "decoder": {"block": "cse", "placement": "pre"}},
    },
}


@pytest.mark.parametrize("name", NETWORKS)
def test_state_dict_keys_and_shapes_are_those_on_file(name):
    have = {key: list(value.shape) for key, value in build(3, **NETWORKS[name]).state_dict().items()}
    assert have == json.loads(GOLDEN.read_text())[name]


@pytest.mark.parametrize("name", NETWORKS)
def test_weights_load_into_another_network_of_the_same_configuration(name):
    first, second = build(3, **NETWORKS[name]), build(3, seed=1, **NETWORKS[name])
    second.load_state_dict(first.state_dict())
    assert all((a == b).all() for a, b in zip(first.state_dict().values(), second.state_dict().values(), strict=True))


def test_plain_weights_load_into_a_gated_network_with_gates_missing_only():
    found = build(3, attention="scse").load_state_dict(build(3).state_dict(), strict=False)
    assert found.unexpected_keys == []
    assert found.missing_keys
    assert all(key.startswith("gates.") for key in found.missing_keys)
