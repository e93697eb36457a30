"""What several parts of the configuration must agree on."""

from __future__ import annotations

import pytest

from se_med.config.load import parse_config
from se_med.errors import ConfigError


@pytest.mark.parametrize(
    ("training", "least"), [("{batch_size: 1}", 2), ("{batch_size: 2, processes: 2}", 4), ("{batch_size: 1, processes: 3}", 6)]
)
@pytest.mark.parametrize("site", ["encoder", "skip", "head"])
def test_shuffled_gates_without_another_case_in_the_batch_are_refused(training, least, site):
    with pytest.raises(ConfigError) as caught:
        parse_config(f"attention: {{{site}: shuffled}}\ntraining: {training}", "c.yaml")
    (problem,) = caught.value.problems
    assert f"training.batch_size: {training[13]} leaves no other case in the batch" in problem
    assert f"attention.{site} (shuffled) takes; use at least {least}" in problem


@pytest.mark.parametrize(
    "text",
    [
        "attention: shuffled",
        "attention: shuffled\ntraining: {batch_size: 2}",
        "attention: cse\ntraining: {batch_size: 1}",
        "attention: null\ntraining: {batch_size: 1}",
        "attention: {decoder: shuffled}\ntraining: {batch_size: 4, processes: 2}",
    ],
)
def test_all_other_batches_are_accepted(text):
    parse_config(text, "c.yaml")


def test_a_map_to_squeeze_is_refused_where_there_is_no_choice():
    with pytest.raises(ConfigError, match=r"attention\.encoder\.squeeze_from: with placement stage"):
        parse_config("attention: {encoder: {block: cse, squeeze_from: pre_norm}}", "c.yaml")
    with pytest.raises(ConfigError, match="unknown key 'squeeze_from'"):
        parse_config("attention: {encoder: {block: sse, squeeze_from: pre_norm}}", "c.yaml")
