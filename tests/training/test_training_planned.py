"""Planning a run: what memory and time allow, a plan that is given, and what must not be in two parts of a fold."""

from __future__ import annotations

import json
import shutil

import pytest
from small_data import make_small_data

from se_med.config.load import load_config
from se_med.data.axes import GIVEN
from se_med.errors import DataError, UsageError
from se_med.progress import silent
from se_med.training import plan_trial
from se_med.training.budget import FEWEST_STEPS, Trial, affordable_steps
from se_med.training.memory import LIBRARIES, estimate_memory
from se_med.training.plan_trial import estimate_plan, try_plan
from se_med.training.planned import FEWEST_FEATURES, plan_run, smaller_plan

OPEN = """\
name: open
data: {{root: {root}, folds: 4, cache: {cache}}}
network: {{encoder_units: 1, decoder_units: 1}}
training: {{device: cpu, precision: fp32, threads: 1, validations: 2, max_minutes: 1}}
"""


@pytest.fixture
def open_config(tmp_path, small_data, small_cache):
    """A configuration that leaves all sizes to the plan."""
    path = tmp_path / "open.yaml"
    path.write_text(OPEN.format(root=small_data, cache=small_cache))

    def load(*overrides):
        return load_config(path, overrides)

    return load


def test_memory_is_estimated_from_the_network(open_config):
    planned = plan_run(open_config(), silent)
    base = estimate_memory(planned.config, planned.plan)
    assert base > LIBRARIES["cpu"]
    double = planned.plan.model_copy(update={"batch_size": 2 * planned.plan.batch_size})
    activations = estimate_memory(planned.config, double) - base
    assert activations > 0
    wider = planned.with_plan(planned.plan.model_copy(update={"features": tuple(2 * width for width in planned.plan.features)}))
    assert estimate_memory(wider.config, wider.plan) > base + 0.9 * activations


def test_a_plan_shrinks_until_it_fits_the_memory(open_config):
    free = plan_run(open_config(), silent)
    needed = estimate_memory(free.config, free.plan)
    limit = LIBRARIES["cpu"] + 0.6 * (needed - LIBRARIES["cpu"])
    small = plan_run(open_config(f"training.max_memory={limit / 2**30}"), silent)
    assert estimate_memory(small.config, small.plan) <= limit
    assert small.plan.batch_size < free.plan.batch_size
    assert "smaller, so that training fits" in small.plan.reasons["batch_size"]
    assert (small.plan.features, small.plan.patch) == (free.plan.features, free.plan.patch)
    tiny = plan_run(open_config(f"training.max_memory={(LIBRARIES['cpu'] + 4e6) / 2**30}"), silent)
    assert tiny.plan.batch_size == 2
    assert tiny.plan.features[0] < free.plan.features[0]
    assert tiny.plan == plan_run(open_config(f"training.max_memory={(LIBRARIES['cpu'] + 4e6) / 2**30}"), silent).plan


def test_settings_of_the_user_do_not_shrink(open_config):
    planned = plan_run(open_config("training.batch_size=8", "network.features=[8,16]"), silent)
    needed = estimate_memory(planned.config, planned.plan)
    with pytest.raises(UsageError, match=r"training\.max_memory: training takes about .* GiB at least") as error:
        plan_run(open_config("training.batch_size=8", "network.features=[8,16]", "training.max_memory=0.5"), silent)
    assert error.value.exit_code == 2
    enough = f"training.max_memory={1.01 * needed / 2**30}"
    same = plan_run(open_config("training.batch_size=8", "network.features=[8,16]", enough), silent)
    assert same.plan.reasons["batch_size"] == GIVEN
    assert same.plan.patch == planned.plan.patch


def test_smaller_plans_have_a_smaller_batch_then_fewer_features(open_config):
    planned = plan_run(open_config(), silent)
    seen = []
    while (plan := smaller_plan(planned, "why not")) is not None:
        planned = planned.with_plan(plan)
        assert planned.config.network.features == plan.features
        assert planned.config.training.batch_size == plan.batch_size
        seen.append((plan.batch_size, plan.features[0]))
    assert seen == sorted(seen, reverse=True)
    assert seen[-1] == (2, FEWEST_FEATURES)
    assert planned.plan.reasons["features"].endswith("halved: why not")
    fixed = plan_run(open_config("training.batch_size=4", "network.features=[8,16]"), silent)
    assert smaller_plan(fixed, "") is None


@pytest.fixture
def slow_steps(monkeypatch):
    """Pretend that a step takes a time that grows with batch and features."""
    seen = []

    def run_trial(data, module):
        seen.append((data.plan.batch_size, data.plan.features[0]))
        assert data.config.network.features == data.plan.features
        return Trial(step=data.plan.batch_size * data.plan.features[0] / 160, case=0.0, seconds=0.0)

    monkeypatch.setattr(plan_trial, "run_trial", run_trial)
    return seen


def test_a_trial_plans_smaller_steps_where_the_minutes_allow_too_few(open_config, slow_steps):
    planned = plan_run(open_config(), silent)
    tried = try_plan(planned, silent)
    estimate = tried.plan.estimate
    assert len(slow_steps) > 1
    assert slow_steps[0] == (planned.plan.batch_size, planned.plan.features[0])
    assert slow_steps[-1] == (tried.plan.batch_size, tried.plan.features[0])
    assert estimate.steps == affordable_steps(Trial(estimate.seconds_per_step, 0, 0), tried.config, 2, 2) >= FEWEST_STEPS
    assert estimate.minutes == 1
    assert estimate.memory_measured
    said = [reason for reason in tried.plan.reasons.values() if "fewer than 500" in reason]
    assert said


def test_a_trial_of_set_steps_changes_nothing(open_config, slow_steps):
    planned = plan_run(open_config("training.steps=20", "training.max_minutes=null"), silent)
    tried = try_plan(planned, silent)
    assert len(slow_steps) == 1
    assert tried.plan.estimate.steps == 20
    assert tried.plan.model_dump(exclude={"estimate"}) == planned.plan.model_dump(exclude={"estimate"})


def test_a_budget_that_is_too_short_is_said(open_config, slow_steps, caplog):
    settings = ("training.max_minutes=0.01", "network.features=[8,16]", "training.batch_size=2")
    tried = try_plan(plan_run(open_config(*settings), silent), silent)
    assert tried.plan.estimate.steps < FEWEST_STEPS
    assert "nothing that could be planned smaller" in caplog.text


def test_what_can_be_told_without_computing(open_config):
    planned = estimate_plan(plan_run(open_config(), silent))
    estimate = planned.plan.estimate
    assert not estimate.memory_measured
    assert estimate.seconds_per_step is None
    cases = [case for part in planned.parts() for case in part]
    assert len(cases) == 8
    assert estimate.cache_mb == pytest.approx(8 * 20.5**3 * 5 / 1e6, rel=0.3)


def test_runs_that_share_a_plan_do_not_read_the_data_again(train, small_config, tmp_path, monkeypatch):
    first = train("first")
    plan = tmp_path / "runs" / "first" / "plan.json"

    def refuse(*args, **kwargs):
        raise AssertionError("the cases are read")

    monkeypatch.setattr("se_med.training.planned.take_fingerprint", refuse)
    monkeypatch.setattr("se_med.data.fingerprint.take_fingerprint", refuse)
    split = tmp_path / "runs" / "first" / "split.json"
    second = train("second", f"data.plan={plan}", f"data.split={split}")
    assert second.weights == first.weights
    assert second.digest == first.digest
    stored = json.loads((second.folder / "plan.json").read_text())
    given = json.loads(plan.read_text())
    assert {key: stored[key] for key in stored if key != "reasons"} == {key: given[key] for key in given if key != "reasons"}


def test_a_run_with_a_plan_goes_on_from_its_own(train, small_config, tmp_path):
    plan = tmp_path / "runs" / "first" / "plan.json"
    train("first")
    again = train("again", f"data.plan={plan}")
    config = load_config(again.folder / "config.yaml")
    assert config.data.plan == plan
    assert config.training.batch_size == 2


def test_the_same_image_on_both_sides_of_a_fold_stops_training(tmp_path, train, small_cache):
    root = make_small_data(tmp_path / "copies")
    shutil.copy(root / "imagesTr" / "case_00.nii.gz", root / "imagesTr" / "case_05.nii.gz")
    shutil.copy(root / "labelsTr" / "case_00.nii.gz", root / "labelsTr" / "case_05.nii.gz")
    split = tmp_path / "split.json"
    names = [f"case_{number:02d}" for number in range(8)]
    split.write_text(json.dumps([{"train": names[:4], "validation": names[4:]}, {"train": names[:6], "validation": names[6:]}]))
    with pytest.raises(DataError, match="the same pixels") as error:
        train("leak", f"data.root={root}", f"data.split={split}")
    assert "case_00" in error.value.message
    assert "case_05" in error.value.message
    assert error.value.exit_code == 3
    train("both_learned", f"data.root={root}", f"data.split={split}", "data.fold=1", "training.steps=1")


def test_few_training_cases(train):
    few = train("few", "data.train_cases=2")
    cases = few.provenance["cases"]
    assert len(cases["train"]) == 2
    assert set(cases["train"]) < set(train("more", "data.train_cases=4").provenance["cases"]["train"])
    assert len(cases["validation"]) == 2


def test_a_structure_that_no_training_case_has_is_said(tmp_path, train, caplog):
    import nibabel as nib

    root = make_small_data(tmp_path / "rare")
    for number in range(8):
        path = root / "labelsTr" / f"case_{number:02d}.nii.gz"
        image = nib.load(path)
        voxels = image.get_fdata().astype("uint8")
        if number < 7:
            voxels[voxels == 2] = 0
        nib.save(nib.Nifti1Image(voxels, image.affine), path)
    names = [f"case_{number:02d}" for number in range(8)]
    split = tmp_path / "split.json"
    split.write_text(json.dumps([{"train": names[:6], "validation": names[6:]}]))
    train("rare", f"data.root={root}", f"data.split={split}", "training.steps=1")
    assert "none of the 6 training cases has box" in caplog.text
