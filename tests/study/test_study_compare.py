"""A study from its file to its tables: what is made, what is not made again, and what is said of it."""

import logging
import shutil

import pytest

from se_med.errors import RunError, UsageError
from se_med.study.arms import load_study
from se_med.study.child import do
from se_med.study.forecast import forecast
from se_med.study.job import End
from se_med.study.planning import plan_study
from se_med.study.runs import make_runs
from se_med.study.tables import pair_cases, read_tables

STABLE = ("arms.json", "cases.csv")


def steady_runs(made) -> list[tuple]:
    """The rows of runs.csv without times and attempts."""
    rows = read_tables(made.folder).runs
    return [(r.arm, r.fold, r.seed, r.key, r.status, r.steps, r.stream_digest, r.start_digest, r.matched) for r in rows]


def test_tables_of_a_study(run_study, write_study):
    made = run_study(write_study("folds: [0, 1]"), "training.steps=4")
    tables = read_tables(made.folder)
    assert tables == made.result.tables
    assert [(run.arm, run.fold, run.seed) for run in tables.runs] == [(a, f, 0) for f in (0, 1) for a in ("plain", "cse")]
    assert {run.status for run in tables.runs} == {"finished"}
    assert all(run.matched and not run.unmatched_reason for run in tables.runs)
    assert all(run.steps == 4 and run.parameters and run.macs and run.kept_mb for run in tables.runs)
    assert all(run.seconds_per_case and run.peak_memory_mb for run in tables.runs)
    plain, cse = tables.arms
    assert (plain.reference, cse.reference) == (True, False)
    assert cse.parameters > plain.parameters
    assert set(cse.differences) >= {"attention.encoder.block", "attention.decoder.block"}
    assert all(key.startswith("attention.") for key in cse.differences)
    assert cse.plan_differences == {}
    assert {row.structure for row in tables.cases} == {"ball", "box"}
    by_arm = {
        arm: {(r.fold, r.case, r.structure, r.reference_digest) for r in tables.cases if r.arm == arm} for arm in ("plain", "cse")
    }
    assert by_arm["plain"] == by_arm["cse"]
    assert len(by_arm["plain"]) == 2 * 2 * 2  # two folds of two cases with two structures
    link = made.folder / "runs" / "cse" / "fold-1_seed-0"
    assert (link / "provenance.json").exists()
    assert (made.folder / tables.runs[-1].folder).resolve() == link.resolve()


def test_runs_are_those_of_train(run_study, write_study, small_config, tmp_path):
    """A run of a study has the weights, batches and scores of `se-med train` with its own configuration."""
    from se_med.config.load import load_config
    from se_med.training.fit import fit

    made = run_study(write_study(), "training.steps=4")
    config = load_config(small_config, ["training.validations=1", "training.steps=4", "attention=cse", "name=alone"])
    alone = fit(config, tmp_path / "alone").folder
    run = made.folder / read_tables(made.folder).runs[1].folder
    for name in ("validation/cases.csv", "split.json", "model.safetensors"):
        left, right = ((folder / name).read_bytes() for folder in (alone, run))
        if name == "model.safetensors":  # the digest in its head covers the plan with its reasons
            from safetensors.torch import load

            left, right = ({key: tensor.tolist() for key, tensor in load(data).items()} for data in (left, right))
        assert left == right, name


def test_only_what_is_new_is_made(run_study, write_study):
    first = run_study(write_study(), "training.steps=2")
    assert first.asked == ["train plain, fold 0, seed 0", "train cse, fold 0, seed 0"]
    again = run_study(write_study(), "training.steps=2")
    assert again.asked == []
    assert again.result.made == 0
    seed = run_study(write_study("seeds: [0, 5]"), "training.steps=2")
    assert seed.asked == ["train plain, fold 0, seed 5", "train cse, fold 0, seed 5"]
    arm = run_study(
        write_study("arms: {plain: {attention: null}, sse: {attention: sse}, cse: {attention: cse}}"), "training.steps=2"
    )
    assert arm.asked == ["train sse, fold 0, seed 0"]
    assert len(read_tables(arm.folder).runs) == 3


def test_studies_share_equal_runs_and_equal_arms_share_theirs(run_study, write_study):
    run_study(write_study(), "training.steps=2")
    other = write_study("name: other", "arms: {same: {attention: cse}, plain: null, twin: {attention: cse}}", name="other.yaml")
    made = run_study(other, "training.steps=2", "attention=null")
    assert made.asked == []
    keys = {run.arm: run.key for run in read_tables(made.folder).runs}
    assert keys["same"] == keys["twin"] != keys["plain"]


def test_failing_arm_is_tried_twice_and_excluded_openly(run_study, write_study, caplog):
    wild = "{learning_rate: 1.0e+30, gradient_clip: null, schedule: constant}"
    path = write_study(f"arms: {{plain: {{attention: null}}, cse: {{attention: cse}}, wild: {{training: {wild}}}}}")
    logging.getLogger("se_med").propagate = True
    with caplog.at_level(logging.INFO, logger="se_med"):
        made = run_study(path, "training.steps=8")
    assert made.asked.count("train wild, fold 0, seed 0") == 2
    assert len(made.asked) == 4
    run = next(run for run in read_tables(made.folder).runs if run.arm == "wild")
    assert (run.status, run.attempts, run.matched) == ("failed", 2, None)
    assert "loss is" in run.error
    assert list(made.result.failures) == ["wild, fold 0, seed 0"]
    assert {row.arm for row in read_tables(made.folder).cases} == {"plain", "cse"}
    said = [record.message for record in caplog.records]
    assert any("wild, fold 0, seed 0: failed" in line and "tried once more" in line for line in said)
    assert any("wild, fold 0, seed 0: failed" in line and "it is excluded" in line for line in said)


def test_run_that_fails_once_is_not_excluded(run_study, write_study):
    failed = []

    def fail_first(job):
        if job.title.startswith("cse") and not failed:
            failed.append(job.title)
            return End("failed", "its process was ended by SIGKILL")
        return do(job)

    made = run_study(write_study(), "training.steps=1", work=fail_first)
    assert made.result.failures == {}
    assert {run.arm: (run.status, run.attempts) for run in made.result.tables.runs} == {
        "plain": ("finished", 1),
        "cse": ("finished", 2),
    }


def test_arms_use_the_plan_of_the_base_where_they_can(write_study):
    arms = (
        "arms: {plain: {attention: null}, deep: {network: {features: [4, 8, 8], strides: [[2,2,2],[2,2,2]]}}, "
        "flat: {network: {spatial_dims: 2, features: null, strides: null, stem: null}, training: {patch: null}}}"
    )
    study = plan_study(load_study(write_study(arms), ["training.steps=1", "attention=null"]))
    arm = {arm.name: arm for arm in study.arms}
    assert arm["plain"].own_plan == {}
    assert arm["plain"].plan == study.plan
    assert set(arm["deep"].own_plan) == {"features", "strides", "kernels"}
    assert "planned anew" in arm["deep"].note
    assert arm["flat"].own_plan["spatial_dims"] == [3, 2]
    assert arm["flat"].config.network.spatial_dims == 2


def test_dry_run_predicts_and_writes_nothing(write_study, tmp_path, here, monkeypatch):
    for module in ("se_med.study.work", "se_med.training.budget"):
        monkeypatch.setattr(f"{module}.TRIAL_STEPS", 3)
    study = load_study(write_study("seeds: [0, 1, 2]", "workers: 2"), ["training.steps=50"])
    found = forecast(study, tmp_path / "studies", maker=lambda workers, threads: here, work=do)
    assert not (tmp_path / "studies").exists()
    assert here.asked == ["trial plain, fold 0, seed 0", "trial cse, fold 0, seed 0"]
    assert len(found.runs) == len(found.missing) == 6
    seconds = [found.seconds(run) for run in found.missing]
    assert max(sum(seconds) / 2, max(seconds)) <= found.total_seconds <= sum(seconds)
    assert found.reasons == {"plain": "", "cse": ""}
    assert 0 < found.disk_mb < 100
    assert found.memory_mb > 50


def test_second_process_is_refused(run_study, write_study, tmp_path):
    def refused(job):
        with pytest.raises(UsageError, match="another process works on this study"):
            run_study(write_study(), "training.steps=1")
        return End("failed", "refused, as it should be")

    assert set(run_study(write_study(), "training.steps=1", work=refused).result.failures.values()) == {
        "refused, as it should be"
    }


def test_mistakes_end_before_anything_is_written(run_study, write_study, tmp_path):
    for lines, message in (
        (["folds: [0, 4]"], r"folds: there is no fold 4 with data.folds: 4"),
        (["arms: {plain: null, bad: {attention: {skip: null, bottleneck: {block: cse, placement: identity}}}}"], r"arm bad: "),
        (["arms: {plain: null, bad: {training.patch: [16, 16, 17]}}"], r"arm bad: .*patch"),
        (["name: runs"], "folder of all runs"),
    ):
        with pytest.raises(UsageError, match=message):
            run_study(write_study(*lines), "training.steps=1")
        assert not (tmp_path / "studies").exists()


def keys(path, *overrides) -> dict[str, str]:
    """Key of the run of each arm."""
    study = load_study(path, overrides)
    runs = make_runs(plan_study(study).arms, study.config.seeds, study.config.threads)
    return {run.arm: run.key for run in runs}


def test_whatever_changes_numbers_makes_another_run(write_study, monkeypatch):
    base = keys(write_study(), "training.steps=2")
    assert keys(write_study(), "training.steps=2", "name=another", "training.checkpoint_minutes=7") == base
    assert keys(write_study("name: other", "margin: 0.1"), "training.steps=2") == base
    for lines, overrides in (
        (["threads: 2"], ["training.steps=2"]),
        (["seeds: [3]"], ["training.steps=2"]),
        (["folds: [1]"], ["training.steps=2"]),
        ([], ["training.steps=3"]),
        ([], ["training.steps=2", "inference.overlap=0.25"]),
        ([], ["training.steps=2", "training.precision=bf16"]),
        ([], ["training.steps=2", "data.spacing=[1,1,2]"]),
    ):
        assert not set(keys(write_study(*lines), *overrides).values()) & set(base.values()), (lines, overrides)


def test_bytes_of_a_case_are_part_of_the_key(write_study, small_data, tmp_path):
    copy = tmp_path / "copy"
    shutil.copytree(small_data, copy)
    overrides = ("training.steps=2", f"data.root={copy}")
    base = keys(write_study(), "training.steps=2")
    assert keys(write_study(), *overrides) == base
    label = next(copy.glob("labelsTr/case_00*"))
    shutil.copy(next(copy.glob("labelsTr/case_01*")), label)
    shutil.copy(next(copy.glob("imagesTr/case_01*")), next(copy.glob("imagesTr/case_00*")))
    assert not set(keys(write_study(), *overrides).values()) & set(base.values())


def test_stopped_study_goes_on_to_the_same_tables(run_study, write_study):
    whole = run_study(write_study(), "training.steps=2", studies="whole")

    def stop_second(job):
        return do(job) if job.title.startswith("plain") else End("stopped")

    parted = run_study(write_study(), "training.steps=2", studies="parted", work=stop_second)
    assert [run.status for run in read_tables(parted.folder).runs] == ["finished", "pending"]
    assert {row.arm for row in read_tables(parted.folder).cases} == {"plain"}
    resumed = run_study(write_study(), "training.steps=2", studies="parted")
    assert resumed.asked == ["train cse, fold 0, seed 0"]
    assert [resumed.table(name) for name in STABLE] == [whole.table(name) for name in STABLE]
    assert steady_runs(resumed) == steady_runs(whole)


def test_unmatched_arms_are_labelled_with_the_reason_or_refused(run_study, write_study, tmp_path):
    expected = {
        "training.foreground: 0.9": "other batches (training.foreground)",
        "training.steps: 1": "1 steps, the reference 2",
        "training.patch: [16, 16, 20]": "other batches (training.patch)",
        "augmentation.noise.probability: 0.9": "other batches (augmentation.noise.probability)",
        "data.train_cases: 2": "trained on 2 cases, of which 2 are among the 6 of the reference",
    }
    arms = [f"arm{number}: {{attention: null, {setting}}}" for number, setting in enumerate(expected)]
    lines = f"arms: {{plain: {{attention: null}}, cse: {{attention: cse}}, {', '.join(arms)}}}"
    made = run_study(write_study(lines), "training.steps=2")
    found = {run.arm: (run.matched, run.unmatched_reason) for run in read_tables(made.folder).runs}
    reasons = {f"arm{number}": (False, reason) for number, reason in enumerate(expected.values())}
    assert found == {"plain": (True, ""), "cse": (True, ""), **reasons}
    pairs, alone = pair_cases(made.result.tables.cases, "arm4", "plain")
    assert (len(pairs), alone) == (4, [])
    before = sorted(path.name for path in (tmp_path / "studies" / "runs").iterdir())
    with pytest.raises(UsageError, match=r"arm arm0: unmatched: (.*\n)+.*require_matched"):
        run_study(write_study(lines, "require_matched: true", "name: strict"), "training.steps=2")
    assert sorted(path.name for path in (tmp_path / "studies" / "runs").iterdir()) == before


def timed(seconds: dict[str, float]):
    """Work whose trials find these times of a step, by arm."""

    def work(job):
        if job.kind == "train":
            return do(job)
        step = next(value for arm, value in seconds.items() if job.title.startswith(arm))
        return End("finished", result={**TRIAL, "seconds_per_step": step})

    return work


TRIAL = {"seconds_per_case": 0.1, "cases": 2, "peak_memory_mb": 500.0, "disk_mb": 1.0, "timed_seconds": 1.0}
BUDGET = ("training.steps=null", "training.max_minutes=0.00501")  # 0.3 s, of which 0.2 s are validation


def test_budget_becomes_one_number_of_steps_that_stays(run_study, write_study):
    made = run_study(write_study(), *BUDGET, work=timed({"plain": 0.02, "cse": 0.05}))
    assert made.asked[:2] == ["trial plain, fold 0, seed 0", "trial cse, fold 0, seed 0"]
    assert [run.steps for run in made.result.tables.runs] == [2, 2]
    assert all(run.matched for run in made.result.tables.runs)
    path = write_study("arms: {plain: {attention: null}, sse: {attention: sse}, cse: {attention: cse}}")
    more = run_study(path, *BUDGET, work=timed({"sse": 0.1}))
    assert more.asked == ["trial sse, fold 0, seed 0", "train sse, fold 0, seed 0"]
    assert {run.steps for run in more.result.tables.runs} == {2}


@pytest.mark.parametrize(("budget", "steps"), [("each", [5, 2]), ("reference", [5, 5])])
def test_whose_time_the_budget_means(run_study, write_study, budget, steps):
    made = run_study(write_study(f"budget: {budget}"), *BUDGET, work=timed({"plain": 0.02, "cse": 0.05}))
    assert [run.steps for run in made.result.tables.runs] == steps
    assert made.result.tables.runs[1].matched == (budget == "reference")


def test_trial_that_fails_ends_the_study(run_study, write_study):
    with pytest.raises(RunError, match="arm plain: its trial failed"):
        run_study(write_study(), *BUDGET, work=lambda job: End("failed", "out of memory"))
