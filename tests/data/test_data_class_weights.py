"""Weights of the classes: balanced by voxels, or given by name."""

import data_sets
import pytest
from pydantic import ValidationError

from se_med.config.training import TrainingConfig
from se_med.data.class_weights import choose_class_weights
from se_med.data.fingerprint import Fingerprint
from se_med.data.planning import make_plan
from se_med.errors import UsageError

LABELS = {"small": 2, "large": 1}


def uneven() -> Fingerprint:
    """Two cases: 100 voxels of `large` and 900 of background each, 25 of `small` in the first one."""
    both = data_sets.fingerprint(labels=LABELS, count=2)
    first, second = (
        case.__class__(**{**vars(case), "voxels": voxels})
        for case, voxels in zip(both.cases, ({0: 900, 1: 100, 2: 25}, {0: 900, 1: 100}), strict=True)
    )
    return Fingerprint((first, second), LABELS, 1, both.foreground)


def test_balanced_weights_are_inverse_shares_with_a_mean_of_one():
    reasons: dict[str, str] = {}
    weights = choose_class_weights("balanced", uneven(), reasons)
    assert sum(weights) / 3 == pytest.approx(1, rel=1e-5)
    # Background, small, large: 1800, 25 and 200 voxels.
    assert weights[1] / weights[2] == pytest.approx(200 / 25, rel=1e-4)
    assert weights[2] / weights[0] == pytest.approx(1800 / 200, rel=1e-4)
    assert "inverse" in reasons["class_weights"]


def test_structure_without_a_voxel_counts_as_the_rarest():
    fingerprint = uneven()
    more = Fingerprint(fingerprint.cases, LABELS | {"never": 7}, 1, fingerprint.foreground)
    weights = choose_class_weights("balanced", more, {})
    assert weights[3] == weights[1] > weights[2]


def test_given_weights_are_in_class_order_and_others_are_one():
    assert choose_class_weights({"large": 0.5, "background": 0.1}, uneven(), {}) == (0.1, 1.0, 0.5)
    assert choose_class_weights(None, uneven(), {}) is None


def test_unknown_name_is_refused_when_the_plan_is_made():
    config = data_sets.config(training={"class_weights": {"larg": 2.0}})
    with pytest.raises(
        UsageError, match=r"training\.class_weights: no structure is named larg; there are background, small, large"
    ):
        make_plan(config, data_sets.dataset(labels=LABELS), data_sets.fingerprint(labels=LABELS))


def test_plan_has_the_weights():
    config = data_sets.config(training={"class_weights": {"large": 2}})
    fingerprint = data_sets.fingerprint(labels=LABELS)
    assert make_plan(config, data_sets.dataset(labels=LABELS), fingerprint).class_weights == (1.0, 1.0, 2.0)
    plain = make_plan(data_sets.config(), data_sets.dataset(labels=LABELS), fingerprint)
    assert plain.class_weights is None
    assert "class_weights" not in plain.reasons


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"class_weights": {}}, "names no class"),
        ({"class_weights": {"a": 0}}, "greater than 0"),
        ({"class_weights": {"a": -1}}, "greater than 0"),
        ({"class_weights": "inverse"}, "balanced"),
        ({"class_weights": "balanced", "loss": "tversky"}, "tversky takes none"),
        ({"class_weights": {"background": 2}, "loss": "dice_focal"}, "leaves the background out"),
        ({"class_weights": {"background": 2}, "loss": "generalised_dice"}, "leaves the background out"),
    ],
)
def test_weights_that_mean_nothing(options, message):
    with pytest.raises(ValidationError, match=message):
        TrainingConfig.model_validate(options)
