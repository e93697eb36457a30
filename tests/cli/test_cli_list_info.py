"""What can be chosen, and what it costs, as text of 80 columns and as JSON."""

import json

import pytest

from se_med.attention import attention_class, list_attention
from se_med.config.dump import dump_config
from se_med.config.load import load_config
from se_med.data.fingerprint import take_fingerprint
from se_med.data.layouts import find_dataset
from se_med.data.planning import make_plan, resolve

COMPLETE = """\
name: complete
network: {{features: [4, 8], strides: [[2, 2, 2]], kernels: [[3, 3, 3], [3, 3, 3]], stem: [1, 1, 1]}}
attention: {attention}
training: {{patch: [16, 16, 16], batch_size: 2}}
"""
SIZES = ("--channels", "1", "--classes", "3")


@pytest.fixture
def complete(tmp_path):
    """Write a configuration whose network is complete."""

    def write(attention="scse"):
        path = tmp_path / "complete.yaml"
        path.write_text(COMPLETE.format(attention=attention))
        return path

    return write


@pytest.fixture(autouse=True)
def narrow(monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")


def test_list_blocks_names_each_with_formula_and_source(se_med):
    outcome = se_med("list", "blocks")
    assert outcome.code == 0
    lines = outcome.out.splitlines()
    assert max(map(len, lines)) <= 80
    text = " ".join(outcome.out.split())
    for name in list_attention():
        block = attention_class(name)
        assert any(line.startswith(f"{name}  {block.kind}") for line in lines)
        assert " ".join(block.formula.split()) in text
        assert block.source in text
        assert f"ours: {block.extension}" in text


def test_list_blocks_takes_a_pattern(se_med):
    outcome = se_med("list", "blocks", "*se", "--json")
    assert [row["name"] for row in json.loads(outcome.out)] == ["cse", "scse", "sse"]


def test_list_blocks_as_json(se_med):
    rows = {row["name"]: row for row in json.loads(se_med("list", "blocks", "--json").out)}
    assert sorted(rows) == list_attention()
    block = attention_class("eca")
    assert rows["eca"] == {
        "name": "eca",
        "kind": "channel",
        "ranks": [2, 3],
        "formula": block.formula,
        "source": block.source,
        "extension": block.extension,
    }


def test_list_blocks_without_a_match(se_med):
    outcome = se_med("list", "blocks", "xy*")
    assert outcome.code == 2
    assert "'xy*': no attention block has such a name; known are attention_gate" in outcome.err


def test_info_counts_stages_gates_and_the_difference_to_plain(se_med, complete):
    outcome = se_med("info", complete(), *SIZES, "--json")
    assert outcome.code == 0, outcome.err
    document = json.loads(outcome.out)
    stages = {stage["name"]: stage for stage in document["stages"]}
    assert list(stages) == ["encoder 0", "bottleneck", "decoder 0", "head"]
    assert stages["encoder 0"]["shape"] == [4, 16, 16, 16]
    assert [gate["block"] for gate in stages["decoder 0"]["gates"]] == ["scse"]
    scse = 2 * 4 * 8 + 8 + 2 * 4 + 1
    assert document["gates"]["parameters"] == 2 * scse
    assert document["total"]["parameters"] - document["plain"]["parameters"] == 2 * scse
    assert document["gates"]["macs"] == 2 * (2 * 4 * 8 + 4 * 16**3)
    expected = 100 * 2 * scse / document["plain"]["parameters"]
    assert document["percent_above_plain"]["parameters"] == pytest.approx(expected)
    assert (document["patch"], document["batch_size"], document["classes"]) == ([16, 16, 16], 2, 3)


def test_info_of_a_plain_network_is_its_own_twin(se_med, complete):
    document = json.loads(se_med("info", complete(), "attention=null", *SIZES, "--json").out)
    assert document["total"] == document["plain"]
    assert document["gates"] == {"parameters": 0, "macs": 0, "activation_bytes": 0}


def test_info_prints_a_table_of_80_columns(se_med, complete):
    outcome = se_med("info", complete("{encoder: cse, skip: fine_attention_gate, concat: sse, decoder: scse}"), *SIZES)
    assert outcome.code == 0, outcome.err
    lines = outcome.out.splitlines()
    assert max(map(len, lines)) <= 80
    for word in ("encoder 0", "bottleneck", "decoder 0", "4x16x16x16", "total", "of it gates", "above plain"):
        assert any(word in line for line in lines), word
    for gate in ("encoder: cse", "skip: fine_attention_gate", "concat: sse", "decoder: scse"):
        assert sum(line.strip().startswith(f"{gate} ") for line in lines) == 1, gate
    assert "…" not in outcome.out


def test_info_needs_no_data_with_sizes(se_med, tmp_path):
    path = tmp_path / "open.yaml"
    path.write_text("name: open\n")
    outcome = se_med("info", path, "network.features=[4,8,16]", "--patch", "32,32,16", *SIZES, "--json")
    assert outcome.code == 0, outcome.err
    document = json.loads(outcome.out)
    assert document["patch"] == [32, 32, 16]
    assert [stage["shape"][0] for stage in document["stages"]] == [4, 8, 16, 8, 4, 3]


def test_info_plans_from_the_data_as_training_does(se_med, small_config):
    outcome = se_med("info", small_config, "--json")
    assert outcome.code == 0, outcome.err
    document = json.loads(outcome.out)
    assert (document["channels"], document["classes"], document["patch"]) == (1, 3, [16, 16, 16])


def test_info_reads_a_run_without_its_data(se_med, small_config, small_data, tmp_path):
    config = load_config(small_config)
    dataset = find_dataset(config.data)
    plan = make_plan(config, dataset, take_fingerprint(dataset))
    stored = tmp_path / "run" / "config.yaml"
    stored.parent.mkdir()
    stored.write_text(dump_config(resolve(config, plan)).replace(str(small_data), str(tmp_path / "moved")))
    (stored.parent / "plan.json").write_text(plan.model_dump_json())
    outcome = se_med("info", stored, "--json")
    assert outcome.code == 0, outcome.err
    assert json.loads(outcome.out)["classes"] == 3
    outcome = se_med("info", stored, "--patch", "15,16,16")
    assert outcome.code == 2
    assert "config.yaml: input size [15, 16, 16]: each must be divisible by [2, 2, 2]" in outcome.err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--patch", "64;64"), "--patch 64;64: must be whole numbers"),
        (("--patch", "0,16,16"), "--patch 0,16,16: must be whole numbers"),
        ((), "no data set is named to plan the network from"),
        (("--patch", "15,16,16", *SIZES), "15 (axis 0) is not a multiple of 2"),
    ],
)
def test_info_says_what_is_wrong(se_med, complete, arguments, message):
    outcome = se_med("info", complete(), *arguments)
    assert outcome.code == 2
    assert message in outcome.err
    assert "Traceback" not in outcome.err
