"""Merging: what files that extend one another and the command line keep, replace and clear."""

from __future__ import annotations

from pathlib import Path

import pytest

from se_med.config.experiment import Config
from se_med.config.load import load_config, parse_config
from se_med.errors import ConfigError


class TestExtends:
    def test_mappings_merge_while_scalars_lists_and_null_replace(self, write):
        write("seed: 1\ntraining: {steps: 5, patch: [8, 8, 8], gradient_clip: 2}\ndata: {labels: {a: 1}}", "base.yaml")
        config = load_config(write("extends: base.yaml\ntraining: {patch: [4, 4], gradient_clip: null}\ndata: {labels: {b: 2}}"))
        assert (config.seed, config.training.steps, config.training.patch) == (1, 5, (4, 4))
        assert config.training.gradient_clip is None
        assert config.data.labels == {"a": 1, "b": 2}

    def test_later_files_of_a_list_go_over_earlier_ones(self, write):
        write("seed: 1\nname: one", "1.yaml")
        write("seed: 2", "2.yaml")
        config = load_config(write("extends: [1.yaml, 2.yaml]"))
        assert (config.seed, config.name) == (2, "one")

    def test_a_file_may_be_reached_twice(self, write):
        write("seed: 4", "root.yaml")
        write("extends: root.yaml\nname: left", "left.yaml")
        write("extends: root.yaml", "right.yaml")
        assert load_config(write("extends: [left.yaml, right.yaml]")).seed == 4

    def test_a_circle_is_refused_and_named(self, write):
        write("extends: b.yaml", "a.yaml")
        write("extends: sub/../a.yaml", "b.yaml")
        Path("sub").mkdir()
        with pytest.raises(ConfigError, match=r"b\.yaml:1:10: extends: .*circle: a\.yaml -> b\.yaml -> a\.yaml"):
            load_config("a.yaml")

    def test_an_endless_chain_is_refused(self, write):
        for number in range(30):
            write(f"extends: {number + 1}.yaml", f"{number}.yaml")
        write("seed: 1", "30.yaml")
        with pytest.raises(ConfigError, match="too many files"):
            load_config("0.yaml")

    @pytest.mark.parametrize(
        ("value", "message"),
        [
            ("no.yaml", r"config\.yaml:1:10: extends: 'no\.yaml': does not exist"),
            ("[.]", r"config\.yaml:1:11: extends: '\.': is a folder"),
            ("5", r"config\.yaml:1:10: extends: 5 is not the path"),
            ("null", r"config\.yaml:1:10: extends: null is not the path"),
            ("{a: b}", r"config\.yaml:1:10: extends: \{a: 'b'\} is not the path"),
        ],
    )
    def test_what_cannot_be_extended_is_told(self, write, value, message):
        with pytest.raises(ConfigError, match=message):
            load_config(write(f"extends: {value}"))

    def test_a_problem_is_told_in_the_file_that_has_it(self, write):
        write("training: {stepz: 4}\nnetwork: {norm: batch}", "base.yaml")
        with pytest.raises(ConfigError) as caught:
            load_config(write("extends: base.yaml\nnetwork: {norm: x}"))
        heads = [problem.splitlines()[0] for problem in caught.value.problems]
        assert heads[0].startswith("config.yaml:2:17: network.norm: 'x'")
        assert heads[1].startswith("base.yaml:1:12: unknown key 'stepz'")

    def test_a_broken_base_is_told_without_errors_that_follow_from_it(self, write):
        write("seed: [", "base.yaml")
        with pytest.raises(ConfigError) as caught:
            load_config(write("extends: base.yaml\ndata: {fold: 7}"))
        assert [problem.startswith("base.yaml:1:8: not valid YAML") for problem in caught.value.problems] == [True]


class TestAttention:
    def over(self, write, base: str, child: str) -> Config:
        write(f"attention: {base}", "base.yaml")
        return load_config(write(f"extends: base.yaml\nattention: {child}"))

    def test_a_mapping_over_a_shorthand_merges_with_what_it_stands_for(self, write):
        attention = self.over(write, "scse", "{decoder: sse}").attention
        assert (attention.encoder.block, attention.decoder.block) == ("scse", "sse")

    def test_options_reach_a_block_given_by_name(self, write):
        attention = self.over(write, "{encoder: cse}", "{encoder: {reduction: 2}}").attention
        assert (attention.encoder.block, attention.encoder.reduction) == ("cse", 2)

    def test_another_block_leaves_no_options_behind(self, write):
        attention = self.over(write, "{encoder: {block: cse, reduction: 2}}", "{encoder: {block: sse}}").attention
        assert attention.encoder.block == "sse"

    @pytest.mark.parametrize(("child", "encoder", "skip"), [("null", None, None), ("cse", "cse", None)])
    def test_null_and_a_name_replace_everything(self, write, child, encoder, skip):
        attention = self.over(write, "{skip: sse, encoder: scse}", child).attention
        assert (attention.encoder and attention.encoder.block, attention.skip) == (encoder, skip)

    def test_a_mapping_over_null(self, write):
        assert self.over(write, "null", "{skip: sse}").attention.skip.block == "sse"

    def test_overrides_reach_inside_a_shorthand(self):
        attention = parse_config(
            "attention: cse", "c", overrides=["attention.decoder=scse", "attention.encoder.reduction=2"]
        ).attention
        assert (attention.encoder.reduction, attention.decoder.block) == (2, "scse")


class TestExclusiveKeys:
    @pytest.mark.parametrize(
        ("text", "overrides", "steps", "minutes"),
        [
            ("training: {steps: 5}", ["training.max_minutes=2"], None, 2.0),
            ("training: {max_minutes: 2}", ["training.steps=5"], 5, None),
            ("training: {max_minutes: 2}", ["training={steps: 5}"], 5, None),
            ("training: {max_minutes: 2}", ["training.steps=5", "training.max_minutes=3"], None, 3.0),
            ("training: {max_minutes: 2}", ["training.steps=null"], None, 2.0),
        ],
    )
    def test_the_one_set_later_stays(self, text, overrides, steps, minutes):
        training = parse_config(text, "c", overrides=overrides).training
        assert (training.steps, training.max_minutes) == (steps, minutes)

    def test_it_holds_for_extended_files_too(self, write):
        write("training: {steps: 5}", "base.yaml")
        assert load_config(write("extends: base.yaml\ntraining: {max_minutes: 1}")).training.steps is None
