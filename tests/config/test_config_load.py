"""Loading: every problem is located and told in plain words, together with all others; paths; the command line."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from se_med.config.load import load_config, load_part, parse_config
from se_med.config.training import TrainingConfig
from se_med.errors import ConfigError, UsageError

BLOCKS = (
    "cse, sse, scse, pe, eca, cbam, gather_excite, global_context, se_norm, attention_gate, fine_attention_gate, static, "
    "no_squeeze, shuffled, mean"
)


def problems(text: str, *overrides: str) -> tuple[str, ...]:
    with pytest.raises(ConfigError) as caught:
        parse_config(text, "c.yaml", overrides=overrides)
    return caught.value.problems


def first_lines(text: str, *overrides: str) -> list[str]:
    return [problem.splitlines()[0] for problem in problems(text, *overrides)]


def test_a_problem_shows_its_place_the_line_and_a_suggestion():
    text = "name: a\nattention:\n  encoder:\n    block: cse\n    reducton: 4\n"
    assert problems(text) == (
        "c.yaml:5:5: unknown key 'reducton'; did you mean 'reduction'?\n    5 |     reducton: 4\n      |     ^",
    )


def test_three_errors_in_one_file_are_all_told_in_the_order_of_the_file():
    text = "network:\n  norm: instanse\ntraining:\n  steps: many\n  foreground: 1.5\n"
    assert first_lines(text) == [
        "c.yaml:2:9: network.norm: 'instanse' is not one of instance, batch, group; did you mean 'instance'?",
        "c.yaml:4:10: training.steps: 'many' is not a whole number",
        "c.yaml:5:15: training.foreground: 1.5 is too large; the largest value allowed is 1",
    ]


def test_errors_of_yaml_and_of_the_models_are_told_together():
    assert first_lines("seed: x\nname: a\nname: b\n") == [
        "c.yaml:1:7: seed: 'x' is not a whole number",
        "c.yaml:3:1: key 'name' is given twice (first in line 2)",
    ]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("seed: '5'", "c.yaml:1:7: seed: '5' is not a whole number; remove the quotes"),
        ("training: {steps: 1.5}", "c.yaml:1:19: training.steps: 1.5 is not a whole number"),
        ("training: {steps: 1e3}", "c.yaml:1:19: training.steps: 1000.0 is not a whole number; write 1000"),
        ("training: {steps: true}", "c.yaml:1:19: training.steps: true is not a whole number"),
        ("training: {steps: 0}", "c.yaml:1:19: training.steps: 0 is too small; it must be greater than 0"),
        ("training: {ema: 1}", "c.yaml:1:17: training.ema: 1 is too large; it must be less than 1"),
        ("training: {ema: .inf}", "c.yaml:1:17: training.ema: inf is not a finite number"),
        ("data: {folds: 1}", "c.yaml:1:15: data.folds: 1 is too small; the smallest value allowed is 2"),
        ("data: {root: 5}", "c.yaml:1:14: data.root: 5 is not a path"),
        ("data: {root: ''}", "c.yaml:1:14: data.root: '' is not a path that can be used: it is empty or its '~' is not known"),
        ("data: {labels: {a: x}}", "c.yaml:1:20: data.labels.a: 'x' is not a whole number"),
        ("data: {labels: [a]}", "c.yaml:1:16: data.labels: ['a'] is not a mapping"),
        ("data: {labels: {a: 1, b: 1}}", "c.yaml:1:16: data.labels: two labels have the same value"),
        ("data: {spacing: [1]}", "c.yaml:1:17: data.spacing: [1] has 1 value, not 3"),
        ("data: {spacing: [1, 1, 1, 1]}", "c.yaml:1:17: data.spacing: [1, 1, 1, 1] has 4 values, not 3"),
        ("data: {spacing: 3}", "c.yaml:1:17: data.spacing: 3 is not a list"),
        ("data: {fold: 7}", "c.yaml:1:14: data.fold: 7 does not exist with folds: 5 (the first fold is 0)"),
        ("data: {group: 5}", "c.yaml:1:15: data.group: 5 is not text; put it in quotes"),
        ("network: {features: [1]}", "c.yaml:1:21: network.features: [1] has 1 value, not at least 2"),
        ("network: {encoder_units: x}", "c.yaml:1:26: network.encoder_units: 'x' is not a whole number or a list"),
        ("network: {encoder_units: 0}", "c.yaml:1:26: network.encoder_units: 0 is too small; it must be greater than 0"),
        ("network: {encoder_units: [1, x]}", "c.yaml:1:30: network.encoder_units[1]: 'x' is not a whole number"),
        ("network: {spatial_dims: 4}", "c.yaml:1:25: network.spatial_dims: 4 is not one of 2, 3"),
        ("augmentation: {flip: {axes: [true]}}", "c.yaml:1:30: augmentation.flip.axes[0]: true is not an axis"),
        ("training:", "c.yaml:1:10: training: nothing is set here; give it keys or remove the line"),
        ("training: [1]", "c.yaml:1:11: training: [1] is not a mapping"),
        ("name: a b", "c.yaml:1:7: name: 'a b' does not fit the pattern"),
        ("attention: scsee", f"c.yaml:1:12: attention: 'scsee' is not a known block ({BLOCKS}); did you mean 'scse'?"),
        ("attention: {skip: CS}", f"c.yaml:1:19: attention.skip: 'CS' is not a known block ({BLOCKS}); did you mean 'cse'?"),
        ("attention: {skip: {block: 7}}", f"c.yaml:1:27: attention.skip: 7 is not a known block ({BLOCKS})"),
        ("attention: {skip: {stages: [1]}}", f"c.yaml:1:13: attention.skip: key 'block' is missing; it is one of {BLOCKS}"),
        ("attention: {skip: [cse]}", "c.yaml:1:19: attention.skip: ['cse'] is not a mapping"),
        (
            "attention: {skip: {block: sse, reduction: 4}}",
            "c.yaml:1:32: unknown key 'reduction'; known here: stages, identity_start",
        ),
        ("steps: 4", "c.yaml:1:1: unknown key 'steps'; did you mean 'training.steps'?"),
        ("<<: {seed: 1}", "c.yaml:1:1: unknown key '<<'; known here: name, seed, data"),
        (
            "training: {steps: 3, max_minutes: 3}",
            "c.yaml:1:35: training.max_minutes: steps and max_minutes are both given; keep one",
        ),
    ],
)
def test_each_kind_of_mistake_is_told_in_plain_words_and_once(text, message):
    lines = first_lines(text)
    assert len(lines) == 1
    assert lines[0].startswith(message)


def test_a_regular_expression_is_checked():
    assert first_lines("data:\n  group: '('")[0].startswith("c.yaml:2:10: data.group: '(' is not a regular expression")


def test_two_errors_inside_one_block_are_both_told():
    lines = first_lines("attention:\n  encoder: {block: cse, reducton: 4, stages: [-1]}")
    assert lines == [
        "c.yaml:2:25: unknown key 'reducton'; did you mean 'reduction'?",
        "c.yaml:2:47: attention.encoder.stages[0]: -1 is too small; the smallest value allowed is 0",
    ]


def test_values_take_their_kind_from_yaml_1_2():
    config = parse_config(
        "training: {learning_rate: 1e-3, weight_decay: 1}\n"
        "data: {labels: {no: 1, off: 0x10}}\n"
        "attention: {skip: {block: cse, stages: [0, 1]}}",
        "c.yaml",
    )
    assert config.training.learning_rate == 0.001
    assert config.training.weight_decay == 1.0
    assert config.data.labels == {"no": 1, "off": 16}
    assert config.attention.skip.stages == (0, 1)


class TestFiles:
    def test_a_file_that_cannot_be_opened_is_a_usage_error_that_names_it(self, write, tmp_path):
        write("seed: 1", "folder/c.yaml")
        for name, reason in (
            ("missing.yaml", "does not exist"),
            ("folder", "is a folder"),
            ("folder/c.yaml/x", "cannot be read"),
        ):
            with pytest.raises(UsageError, match=f"{name}: {reason}") as caught:
                load_config(name)
            assert not isinstance(caught.value, ConfigError)

    @pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
    def test_an_unreadable_file_is_a_usage_error(self, write, tmp_path):
        name = write("seed: 1")
        (tmp_path / name).chmod(0)
        with pytest.raises(UsageError, match="cannot be read"):
            load_config(name)

    @pytest.mark.parametrize(
        ("content", "message"),
        [
            (b"", "config.yaml:1:1: empty"),
            (b"# nothing\n", "config.yaml:1:1: empty"),
            (b"- 1", "config.yaml:1:1: [1] is not a configuration"),
            (b"name: ab\nseed: \xff", "config.yaml:2:7: not UTF-8 text"),
            (b"#" * 1_000_001, "config.yaml:1:1: larger than 1 MB"),
        ],
    )
    def test_a_file_that_is_no_configuration_is_refused(self, write, content, message):
        with pytest.raises(ConfigError) as caught:
            load_config(write(content))
        assert caught.value.problems[0].startswith(message)
        assert len(caught.value.problems) == 1

    def test_a_byte_order_mark_and_windows_line_ends_are_fine(self, write):
        assert load_config(write(b"\xef\xbb\xbfseed: 3\r\nname: x\r\n")).seed == 3

    def test_any_model_can_be_read(self, write):
        assert load_part(write("steps: 7"), TrainingConfig, ["batch_size=2"]) == TrainingConfig(steps=7, batch_size=2)


class TestPaths:
    def test_paths_are_relative_to_the_file_that_names_them(self, write, tmp_path):
        write("data: {root: volumes, cache: ../cache}", "bases/base.yaml")
        config = load_config(write("extends: bases/base.yaml\ndata: {split: split.json}"))
        assert config.data.root == tmp_path / "bases/volumes"
        assert config.data.cache == (tmp_path / "cache").resolve()
        assert config.data.split == tmp_path / "split.json"

    def test_paths_of_the_command_line_are_relative_to_the_current_folder(self, write, tmp_path):
        write("data: {root: volumes}", "configs/c.yaml")
        assert load_config("configs/c.yaml", ["data.root=here"]).data.root == tmp_path / "here"
        assert load_config("configs/c.yaml", ["data={root: here}"]).data.root == tmp_path / "here"

    def test_home_and_absolute_paths(self, write, monkeypatch, tmp_path):
        monkeypatch.setenv("HOME", "/home/someone")
        config = load_config(write("data: {root: ~/volumes, cache: /cache}"))
        assert config.data.root == Path("/home/someone/volumes")
        assert config.data.cache == Path("/cache")

    def test_links_stay_as_written(self, write, tmp_path):
        (tmp_path / "real").mkdir()
        (tmp_path / "link").symlink_to("real")
        assert load_config(write("data: {root: link/x}")).data.root == tmp_path / "link/x"

    def test_text_that_is_no_path_is_left_alone(self, write):
        assert load_config(write("name: volumes\ndata: {group: ab}")).data.group == "ab"


class TestOverrides:
    def test_values_are_yaml_and_the_last_one_stays(self):
        config = parse_config(
            "seed: 1", "c", overrides=["training.patch=[8, 8]", "training.ema=null", "seed=2", "seed=3", "data.group=a=b"]
        )
        assert (config.training.patch, config.training.ema, config.seed, config.data.group) == ((8, 8), None, 3, "a=b")

    @pytest.mark.parametrize(
        ("override", "message"),
        [
            ("training.stepz=3", "unknown key 'training.stepz'; did you mean 'steps'?"),
            ("trainin.steps=3", "unknown key 'trainin'; did you mean 'training'?"),
            ("training.steps.x=3", "training.steps: {x: 3} is not a whole number"),
            ("seed", "not of the form key=value, as in training.steps=2000"),
            ("=3", "not of the form key=value, as in training.steps=2000"),
            ("a..b=3", "not of the form key=value, as in training.steps=2000"),
            ("extends=x.yaml", "'extends' can be set in a file only"),
            ("seed=!!int 3", "tag '!!int' is not allowed; write the plain value"),
            ("data={fold: 1, fold: 2}", "key 'fold' is given twice (first in line 1)"),
        ],
    )
    def test_a_problem_names_the_argument(self, override, message):
        assert problems("seed: 1", override) == (f"command line {override!r}: {message}",)

    def test_a_wrong_block_of_the_command_line_is_told_there(self):
        assert problems("attention: cse", "attention.decoder=scsee") == (
            f"command line 'attention.decoder=scsee': attention.decoder: 'scsee' is not a known block ({BLOCKS}); "
            "did you mean 'scse'?",
        )

    def test_broken_yaml_names_the_argument(self):
        assert problems("seed: 1", "seed=[1")[0].startswith("command line 'seed=[1': not valid YAML")

    def test_they_come_after_the_file_in_the_list(self):
        lines = first_lines("seed: x", "seedling", "name=5")
        assert [line.split(":")[0] for line in lines] == ["c.yaml", "command line 'seedling'", "command line 'name=5'"]


def test_loading_imports_nothing_heavy():
    code = (
        "import sys, se_med.config.load, se_med.config.dump, se_med.config.schema; "
        "print([m for m in ('torch', 'monai', 'numpy', 'scipy', 'lightning') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
