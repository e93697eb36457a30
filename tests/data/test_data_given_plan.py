"""A plan that is given: used as it is, adapted to what the user sets, refused where it does not fit."""

from __future__ import annotations

import data_sets
import pytest

from se_med.data.axes import GIVEN
from se_med.data.given_plan import adopt_plan, read_plan
from se_med.data.planning import make_plan, resolve
from se_med.errors import UsageError

LABELS = {"liver": 1}


@pytest.fixture
def made(tmp_path):
    """A data set, its plan and the file of the plan."""
    dataset = data_sets.dataset("a", "b", channels=("T1",), labels=LABELS)
    plan = make_plan(data_sets.config(), dataset, data_sets.fingerprint(labels=LABELS))
    path = tmp_path / "plan.json"
    path.write_text(plan.model_dump_json())
    return dataset, plan, path


def test_a_plan_is_used_as_it_is(made):
    dataset, plan, path = made
    config = data_sets.config()
    adopted = adopt_plan(path, config, dataset)
    assert adopted.model_dump(exclude={"reasons"}) == plan.model_dump(exclude={"reasons"})
    assert set(adopted.reasons.values()) == {"from plan.json"}
    assert resolve(config, adopted) == resolve(config, plan)
    assert read_plan(path) == plan


@pytest.mark.parametrize(
    ("part", "key", "value", "planned"),
    [
        ("network", "features", (8, 16, 32, 64), "features"),
        ("training", "batch_size", 3, "batch_size"),
        ("training", "patch", (32, 32, 32), "patch"),
        ("augmentation", "flip", {"axes": (1,)}, "flip_axes"),
    ],
)
def test_what_the_user_sets_wins(made, part, key, value, planned):
    dataset, plan, path = made
    config = data_sets.config(**{part: {key: value}})
    adopted = adopt_plan(path, config, dataset)
    expected = value["axes"] if isinstance(value, dict) else value
    assert getattr(adopted, planned) == expected
    assert adopted.reasons[planned] == GIVEN
    rest = {planned, "reasons"}
    assert adopted.model_dump(exclude=rest) == plan.model_dump(exclude=rest)
    resolve(config, adopted)


def test_class_weights_are_those_of_the_configuration(made):
    dataset, _, path = made
    weighted = data_sets.config(training={"class_weights": {"liver": 3.0}})
    assert adopt_plan(path, weighted, dataset).class_weights == (1.0, 3.0)
    with pytest.raises(UsageError, match=r"made without training\.class_weights: balanced"):
        adopt_plan(path, data_sets.config(training={"class_weights": "balanced"}), dataset)
    path.write_text(read_plan(path).model_copy(update={"class_weights": (0.5, 1.5)}).model_dump_json())
    assert adopt_plan(path, data_sets.config(training={"class_weights": "balanced"}), dataset).class_weights == (0.5, 1.5)
    assert adopt_plan(path, data_sets.config(), dataset).class_weights is None


@pytest.mark.parametrize(
    ("settings", "dataset", "message"),
    [
        ({}, {"channels": ("CT",)}, "was made for channels T1, the data set has CT"),
        ({}, {"channels": ("T1", "T2")}, "was made for channels T1, the data set has T1, T2"),
        ({}, {"labels": {"spleen": 1}}, "was made for {liver: 1}, the data set has {spleen: 1}"),
        ({}, {"labels": {"liver": 2}}, "was made for {liver: 1}, the data set has {liver: 2}"),
        ({}, {"ignore_label": 9}, "was made for ignore label None, data.ignore_label is 9"),
        ({"data": {"spacing": (1.0, 1.0, 2.0)}}, {}, "has data.spacing 1x1x1, the configuration sets 1x1x2"),
        ({"network": {"spatial_dims": 2}}, {}, "has network.spatial_dims 3, the configuration sets 2"),
        ({"data": {"modality": "ct"}}, {}, "normalises by zscore, which is not for data.modality ct"),
        ({"training": {"patch": (30, 32, 32)}}, {}, r"training.patch: 30 \(axis 0\) is not a multiple of"),
    ],
)
def test_a_plan_that_does_not_fit_is_refused_in_one_line(made, settings, dataset, message):
    _, _, path = made
    fields = {"channels": ("T1",), "labels": LABELS} | dataset
    with pytest.raises(UsageError, match=message) as error:
        adopt_plan(path, data_sets.config(**settings), data_sets.dataset("a", "b", **fields))
    assert "\n" not in error.value.message
    assert error.value.exit_code == 2


def test_the_channels_of_the_first_image_are_counted(made, tmp_path):
    from se_med.data.layouts import find_dataset

    _, _, path = made
    root = data_sets.make_folders(tmp_path / "set", ("a", "b"))
    for name in "ab":
        data_sets.save(root / "images" / f"{name}.nii.gz", data_sets.image((6, 7, 8, 2)))
    config = data_sets.config(data={"root": root})
    with pytest.raises(UsageError, match=r"was made for 1 channels, a\.nii\.gz has 2"):
        adopt_plan(path, config, find_dataset(config.data))


def test_a_file_that_is_no_plan_is_refused(tmp_path):
    path = tmp_path / "plan.json"
    with pytest.raises(UsageError, match="is not the plan of a run"):
        read_plan(path)
    path.write_text('{"a": 1}')
    with pytest.raises(UsageError, match="is not the plan of a run"):
        read_plan(path)
