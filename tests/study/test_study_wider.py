"""The plain network that is widened to the size of one with attention."""

import pytest

from se_med.config.attention import AttentionConfig
from se_med.config.network import NetworkConfig
from se_med.networks.build import build_network, count_parameters
from se_med.study.arms import load_study
from se_med.study.planning import plan_study
from se_med.study.wider import widen

TOLERANCE = 0.003
"""Share of the parameters asked for by which a network of usual width may miss them: channels are whole numbers."""


def network(features, dims=3, unit="plain") -> NetworkConfig:
    stages = len(features)
    return NetworkConfig(
        spatial_dims=dims,
        unit=unit,
        features=features,
        strides=((2,) * dims,) * (stages - 1),
        kernels=((3,) * dims,) * stages,
        stem=(1,) * dims,
    )


@pytest.mark.parametrize("block", ["cse", "scse", "pe", "cbam"])
@pytest.mark.parametrize(
    ("features", "dims", "unit"),
    [((32, 64, 128), 3, "plain"), ((32, 64, 128, 256), 2, "residual"), ((24, 48, 96, 192, 320), 3, "plain")],
)
def test_parameters_come_near_and_no_stage_gets_narrower(features, dims, unit, block):
    plain, gates = network(features, dims, unit), AttentionConfig.model_validate({"encoder": block, "decoder": block})
    wanted = count_parameters(plain, gates, 1, 3)
    wider, found = widen(plain, 1, 3, wanted)
    assert abs(found / wanted - 1) <= TOLERANCE
    assert all(new >= old for new, old in zip(wider.features, features, strict=True))
    assert wider.model_copy(update={"features": features}) == plain


@pytest.mark.parametrize("factor", [1.3, 2.0, 3.7])
def test_much_wider_networks_come_nearer_still(factor):
    plain = network((16, 32, 64))
    wanted = int(factor * count_parameters(plain, AttentionConfig(), 1, 3))
    _, found = widen(plain, 1, 3, wanted)
    assert abs(found / wanted - 1) <= TOLERANCE


def test_count_is_that_of_the_network():
    plain, gates = network((8, 16)), AttentionConfig.model_validate({"decoder": "scse"})
    built = build_network(plain, gates, 2, 4, seed=0)
    assert count_parameters(plain, gates, 2, 4) == sum(parameter.numel() for parameter in built.parameters())


def test_arm_is_widened_on_its_plan_and_says_how_near_it_came(write_study):
    arms = "{plain: {attention: null}, pe: {attention: {encoder: {block: pe, reduction: 1}}}, size: {control: wider, of: pe}}"
    study = plan_study(load_study(write_study(f"arms: {arms}")))
    plain, pe, size = study.arms
    assert (size.arm.control, size.arm.control_of) == ("wider", "pe")
    assert not any(gate for _, gate in size.config.attention)
    assert plain.cost.parameters < size.cost.parameters
    near = abs(size.cost.parameters - pe.cost.parameters)
    assert near < abs(plain.cost.parameters - pe.cost.parameters)
    assert f"{100 * (size.cost.parameters / pe.cost.parameters - 1):+.2f} % of the {pe.cost.parameters:,} of pe" in size.note
    assert size.plan.features == size.config.network.features
    assert set(size.own_plan) == {"features"}
