"""Study files: arms, sweeps and controls, and what is said where something is wrong."""

import json

import pytest
import yaml

from se_med.config.dump import dump_config
from se_med.config.load import parse_config
from se_med.errors import ConfigError, UsageError
from se_med.study.arms import load_study
from se_med.study.config import StudyConfig, json_schema


def blocks(config) -> dict[str, str]:
    return {site: gate.block for site, gate in config.attention if gate is not None}


def arms_of(path, *overrides) -> dict:
    return {arm.name: arm.config for arm in load_study(path, overrides).arms}


def test_arms_are_the_base_with_their_settings(write_study, small_config):
    study = load_study(write_study())
    assert [arm.name for arm in study.arms] == ["plain", "cse"]
    plain, cse = (arm.config for arm in study.arms)
    assert blocks(plain) == {}
    assert blocks(cse) == {"encoder": "cse", "decoder": "cse"}
    assert plain.model_copy(update={"attention": cse.attention}) == cse


def test_reference_comes_first_and_name_defaults_to_the_file(write_study):
    study = load_study(write_study("reference: cse", "name: null", name="my study.yaml"))
    assert [arm.name for arm in study.arms] == ["cse", "plain"]
    assert study.config.name == "my-study"


def test_overrides_go_to_the_base_and_arms_over_them(write_study):
    path = write_study("arms: {plain: {attention: null}, long: {training: {steps: 99}}}")
    arms = arms_of(path, "training.steps=5", "attention=sse")
    assert {name: config.training.steps for name, config in arms.items()} == {"plain": 5, "long": 99}
    assert blocks(arms["long"]) == {"encoder": "sse", "decoder": "sse"}


def test_settings_lie_over_the_base_and_below_command_line_and_arms(write_study):
    path = write_study(
        "settings: {training.steps: 7, training: {foreground: 0.3}, seed: 4}", "arms: {plain: null, one: {training.steps: 1}}"
    )
    assert {name: config.training.steps for name, config in arms_of(path).items()} == {"plain": 7, "one": 1}
    assert {name: config.training.steps for name, config in arms_of(path, "training.steps=3").items()} == {"plain": 3, "one": 1}
    assert arms_of(path)["one"].training.foreground == 0.3
    with pytest.raises(ConfigError, match=r"tiny.yaml:\d+:\d+: unknown key 'stepz'"):
        load_study(write_study("settings: {training.stepz: 7}"))


def test_dotted_keys_and_null_arms(write_study):
    arms = arms_of(write_study("arms: {plain: null, wide: {network.features: [6, 12], training.foreground: 0.1}}"))
    assert arms["wide"].network.features == (6, 12)
    assert arms["wide"].training.foreground == 0.1
    assert arms["plain"].network.features == (4, 8)


def test_paths_of_arms_are_relative_to_the_study(write_study, small_config):
    arms = arms_of(write_study("arms: {plain: null, other: {data: {root: elsewhere}}}"))
    assert arms["other"].data.root == small_config.parent / "elsewhere"


def test_sweep_makes_an_arm_for_each_combination(write_study):
    path = write_study("sweep: {attention.decoder.reduction: [2, 4], network.stem: [[1, 1, 1], [2, 2, 2]]}")
    arms = arms_of(path)
    made = [name for name in arms if name.startswith("reduction")]
    assert made == [f"reduction-{r}_stem-{s}" for r in (2, 4) for s in ("1-1-1", "2-2-2")]
    assert arms["reduction-2_stem-2-2-2"].attention.decoder.reduction == 2
    assert arms["reduction-2_stem-2-2-2"].network.stem == (2, 2, 2)
    assert blocks(arms["reduction-2_stem-2-2-2"]) == {"encoder": "scse", "decoder": "scse"}


@pytest.mark.parametrize("control", ["static", "no_squeeze", "shuffled", "mean"])
def test_controls_stand_where_the_gates_stood(write_study, control):
    arm = "scse: {attention: {encoder: null, decoder: {block: scse, reduction: 2, stages: [0], aggregation: add}}}"
    arms = arms_of(write_study(f"arms: {{plain: {{attention: null}}, {arm}, control: {{control: {control}, of: scse}}}}"))
    assert blocks(arms["control"]) == {"decoder": control}
    gate = arms["control"].attention.decoder
    assert gate.stages == (0,)
    assert getattr(gate, "reduction", 2) == 2


@pytest.mark.parametrize(
    ("line", "message"),
    [
        (
            "arms: {plain: {attention: null}, cse: {attention: csse}}",
            r"tiny.yaml:\d+:\d+: attention: 'csse' is not a known block",
        ),
        ("arms: {plain: {attention: null}, cse: {atention: cse}}", r"tiny.yaml:\d+:\d+: unknown key 'atention'.*'attention'"),
        ("arms: {plain: {attention: null}, cse: {training: {stepz: 3}}}", r"tiny.yaml:\d+:\d+: unknown key 'stepz'"),
        ("arms: {plain: {attention: null}, cse: {training.stepz: 3}}", r"tiny.yaml:\d+:\d+: unknown key 'stepz'"),
        ("arms: {plain: {attention: null}, cse: {seed: 3}}", r"tiny.yaml:\d+:\d+: seed: the study sets it"),
        ("arms: {plain: {attention: null}, cse: {data: {fold: 1}}}", r"data.fold: the study sets it"),
        ("arms: {plain: {attention: null}, 'a/b': {attention: cse}}", "cannot be the name of an arm"),
        ("arms: {plain: {attention: null}, cse: cse}", "not a mapping of settings"),
        ("arms: {plain: {attention: null}}", "nothing to be compared with"),
        ("reference: plane", r"tiny.yaml:\d+:\d+: reference: 'plane' is not one of the arms; did you mean 'plain'"),
        ("sweep: {attention.decoder.reductoin: [2, 4]}", r"tiny.yaml:\d+:\d+: unknown key 'reductoin'"),
        ("sweep: {attention.decoder.reduction: []}", "no values"),
        ("seeds: [1, 1]", "names one twice"),
        ("folds: []", "folds"),
        ("margin: 0", "margin"),
        ("endpoint: dice", "endpoint"),
        ("marginn: 0.1", "unknown key 'marginn'; did you mean 'margin'"),
        ("arms: {plain: {attention: null}, w: {control: wide, of: plain}}", "'wide' is not one of wider, static"),
        ("arms: {plain: {attention: null}, w: {control: wider, of: cse}}", "give the name of an arm that is no control: plain"),
        ("arms: {plain: {attention: null}, w: {control: wider, of: plain}}", "no attention that could be controlled"),
        ("arms: {plain: {attention: null}, w: {of: plain}}", "key 'control' is missing"),
        ("address: tcp://host:1", "only the engine dask"),
    ],
)
def test_mistakes_are_told_where_they_stand(write_study, line, message):
    with pytest.raises(ConfigError, match=message):
        load_study(write_study(line))


def test_mistakes_in_the_base_and_on_the_command_line(write_study):
    with pytest.raises(ConfigError, match=r"command line 'training.stepz=1'"):
        load_study(write_study(), ["training.stepz=1"])
    with pytest.raises(UsageError, match=r"nowhere.yaml: does not exist"):
        load_study(write_study("base: nowhere.yaml"))


def test_all_arms_are_told_of_at_once(write_study):
    with pytest.raises(ConfigError) as caught:
        load_study(write_study("arms: {plain: {atention: null}, cse: {attention: cse, training: {steps: x}}}"))
    assert len(caught.value.problems) == 2


def test_written_study_reads_as_the_same(write_study, tmp_path):
    study = load_study(write_study("sweep: {training.foreground: [0.1, 0.2]}")).config
    path = tmp_path / "again.yaml"
    path.write_text(dump_config(study))
    assert load_study(path).config == study


def test_schema_describes_study_and_arms():
    jsonschema = pytest.importorskip("jsonschema", reason="jsonschema is not installed")
    schema = json.loads(json.dumps(json_schema()))
    validator = jsonschema.Draft202012Validator(schema)
    validator.check_schema(schema)
    assert set(schema["properties"]) == {"extends", *StudyConfig.model_fields}
    good = "base: a.yaml\nreference: p\narms: {p: {attention: null}, q: null, w: {control: wider, of: p}, s: {training.steps: 3}}"
    assert validator.is_valid(yaml.safe_load(good))
    for bad in ("arms: {p: {atention: null}}", "arms: {p: {control: wider}}", "arms: {p: {control: huge, of: p}}", "seedz: [1]"):
        assert not validator.is_valid(yaml.safe_load(f"base: a.yaml\nreference: p\n{bad}")), bad


def test_configuration_is_still_read_as_before():
    assert parse_config("attention: cse", "c").attention.decoder.block == "cse"
