"""A configuration is completed from a stored plan, from the data, or from sizes alone."""

import pytest
from small_data import SMALL_CONFIG

from se_med.config.load import parse_config
from se_med.data.outline import Sizes, outline
from se_med.errors import UsageError


def configuration(text):
    return parse_config(text, "test.yaml")


def test_sizes_alone_plan_a_network(tmp_path):
    found = outline(configuration("name: a"), tmp_path, Sizes((64, 64, 32), 2, 4))
    network = found.config.network
    assert (found.channels, found.classes) == (2, 4)
    assert network.stem == (1, 1, 1)
    assert network.features == (32, 64, 128, 256, 320)
    assert network.strides == ((2, 2, 2), (2, 2, 2), (2, 2, 2), (2, 2, 1))
    assert found.config.training.patch == (64, 64, 32)
    assert found.config.training.batch_size >= 1


def test_what_the_user_set_stays(tmp_path):
    text = "network: {spatial_dims: 2, features: [8, 16, 32], stem: [2, 2], norm: batch}\ntraining: {batch_size: 5}"
    found = outline(configuration(text), tmp_path, Sizes((64, 64), 1, 2))
    assert found.config.network.features == (8, 16, 32)
    assert found.config.network.stem == (2, 2)
    assert found.config.training.batch_size == 5


def test_spacing_shapes_the_network(tmp_path):
    found = outline(configuration("data: {spacing: [1, 1, 5]}"), tmp_path, Sizes((64, 64, 16), 1, 2))
    assert found.config.network.kernels[0] == (3, 3, 1)
    assert found.config.network.strides[0] == (2, 2, 1)


def test_declared_labels_are_classes(tmp_path):
    found = outline(configuration("data: {labels: {liver: 1, tumour: 2}}"), tmp_path, Sizes((32, 32, 32), 1))
    assert found.classes == 3


def test_data_plans_as_training_does(small_data, tmp_path):
    text = (
        SMALL_CONFIG.format(root=small_data, cache=tmp_path).replace("patch: [16, 16, 16]", "").replace("features: [4, 8], ", "")
    )
    found = outline(configuration(text), tmp_path, Sizes())
    assert (found.channels, found.classes) == (1, 3)
    assert found.config.network.features is not None
    assert found.config.training.patch is not None
    wider = outline(configuration(text), tmp_path, Sizes((32, 32, 32), None, 7))
    assert (wider.config.training.patch, wider.channels, wider.classes) == ((32, 32, 32), 1, 7)
    deeper = outline(configuration(text), tmp_path, Sizes(None, 5, None))
    assert (deeper.config.training.patch, deeper.channels, deeper.classes) == (found.config.training.patch, 5, 3)


@pytest.mark.parametrize(
    ("text", "sizes", "message"),
    [
        ("name: a", Sizes(), "give --patch, --channels, --classes"),
        ("name: a", Sizes((32, 32, 32), 1), "give --classes"),
        ("name: a", Sizes((32, 32), 1, 2), r"training.patch: \[32, 32\] has 2 values"),
        ("name: a", Sizes((32, 32, 32), 0, 2), "--channels 0: must be at least 1"),
        ("name: a", Sizes((32, 32, 32), 1, 1), "--classes 1: must be at least 2"),
        ("network: {strides: [[2, 2, 2]]}", Sizes((33, 32, 32), 1, 2), "33 .* is not a multiple of 2"),
    ],
)
def test_what_is_missing_or_impossible_is_said(tmp_path, text, sizes, message):
    with pytest.raises(UsageError, match=message):
        outline(configuration(text), tmp_path, sizes)


def test_a_damaged_plan_is_said(tmp_path):
    (tmp_path / "plan.json").write_text("{}")
    with pytest.raises(UsageError, match=r"plan\.json: is not the plan of a run"):
        outline(configuration("name: a"), tmp_path, Sizes())
