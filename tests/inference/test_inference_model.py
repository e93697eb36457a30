from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from tiny_model import make_config, make_network, make_plan

import se_med
from se_med.errors import RunError, UsageError
from se_med.inference.model import _weights_digest, load_model, save_model
from se_med.inference.predictor import Predictor


@pytest.fixture
def run(tmp_path):
    """A run folder with a model whose weights are not those of its seed."""
    plan = make_plan()
    config = make_config(plan)
    network = make_network(config.model_copy(update={"seed": 99}), plan)
    folder = tmp_path / "tiny"
    folder.mkdir()
    save_model(folder, network.state_dict(), config, plan)
    return folder


def rewrite(path, change, metadata=None):
    """Write the weights again after `change`, with their metadata."""
    with safe_open(path, framework="pt") as file:
        old = json.loads(file.metadata()["se_med"])
    tensors = load_file(path)
    change(tensors)
    tensors = {name: tensor.contiguous() for name, tensor in tensors.items()}
    save_file(tensors, path, metadata={"se_med": json.dumps({**old, **(metadata or {})})})


def test_equal_models_are_equal_files(tmp_path):
    plan = make_plan()
    config = make_config(plan)
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        save_model(tmp_path / name, make_network(config, plan).state_dict(), config, plan)
    assert (tmp_path / "a" / "model.safetensors").read_bytes() == (tmp_path / "b" / "model.safetensors").read_bytes()
    modes = {path.name: path.stat().st_mode for path in (tmp_path / "a").iterdir()}
    assert modes["model.safetensors"] == modes["config.yaml"]  # who may read the run may use its model


def test_a_stored_model_comes_back_equal(tmp_path):
    plan = make_plan()
    config = make_config(plan)
    network = make_network(config.model_copy(update={"seed": 99}), plan).eval()
    digest = save_model(tmp_path, network.state_dict(), config, plan)
    model = load_model(tmp_path, "cpu")
    assert (model.config, model.plan, model.digest) == (config, plan, digest)
    assert not model.network.training
    x = torch.randn(1, 1, 16, 16, 16, generator=torch.Generator().manual_seed(0))
    assert torch.equal(model.network(x), network(x))
    predictor = Predictor.load(tmp_path)
    assert predictor.digest == digest
    with torch.inference_mode():  # where the network may go other ways than in training
        expected = network(x)[0]
    assert torch.equal(predictor.segment(x[0].numpy()), expected)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["config.yaml", "model.safetensors", "plan.json"]


def test_the_digest_depends_on_weights_plan_and_network_and_on_nothing_else(tmp_path):
    plan = make_plan()
    config = make_config(plan)
    state = make_network(config, plan).state_dict()
    digest = save_model(tmp_path, state, config, plan)
    same = [
        (state, config.model_copy(update={"name": "other"}), plan),
        (state, make_config(plan, overlap=0.25), plan),
        (state, config, plan.model_copy(update={"reasons": {"patch": "because"}})),
        (dict(reversed(state.items())), config, plan),
    ]
    name = next(iter(state))
    other_blocks = config.attention.model_copy(update={"decoder": None})
    different = [
        ({**state, name: state[name] + 1e-3}, config, plan),
        (state, config, plan.model_copy(update={"spacing": (1.0, 1.0, 2.0)})),
        (state, config.model_copy(update={"attention": other_blocks}), plan),
    ]
    assert all(save_model(tmp_path, *model) == digest for model in same)
    assert all(save_model(tmp_path, *model) != digest for model in different)


def test_tensors_that_share_memory_are_stored(tmp_path):
    plan = make_plan()
    config = make_config(plan)
    state = make_network(config, plan).state_dict()
    first, second = [name for name in state if name.endswith(("weight", "bias")) and state[name].shape == (8,)][:2]
    state[second] = state[first]
    save_model(tmp_path, state, config, plan)
    assert torch.equal(load_model(tmp_path).network.state_dict()[second], state[first])


@pytest.mark.parametrize("name", ["model.safetensors", "config.yaml", "plan.json"])
def test_a_missing_file_is_named(run, name):
    (run / name).unlink()
    with pytest.raises(RunError, match=f"{name} missing; name the folder of a run whose training has finished"):
        load_model(run)


def test_a_folder_that_is_none_is_a_usage_error(tmp_path, run):
    with pytest.raises(UsageError, match="does not exist"):
        load_model(tmp_path / "nowhere")
    with pytest.raises(UsageError, match="is a file"):
        load_model(run / "plan.json")


def test_damage_anywhere_in_the_weights_is_found(run):
    path = run / "model.safetensors"
    intact = load_model(run)
    content = path.read_bytes()
    generator = np.random.default_rng(0)
    messages = []
    for position in generator.integers(0, len(content), 40):
        damaged = bytearray(content)
        damaged[position] ^= 1 << int(generator.integers(8))
        path.write_bytes(damaged)
        try:
            model = load_model(run)
        except RunError as error:
            messages.append(error.message)
        else:  # the flip hit what nothing is computed from: the name of the version that wrote the file
            assert model.digest == intact.digest
            assert all(map(torch.equal, model.network.state_dict().values(), intact.network.state_dict().values()))
    assert len(messages) > 30
    assert all("model.safetensors" in message or "changed since training" in message for message in messages)
    for length in (0, 7, 100, len(content) // 2, len(content) - 1):
        path.write_bytes(content[:length])
        with pytest.raises(RunError, match="damaged or not a safetensors file"):
            load_model(run)


def test_a_pickle_in_the_place_of_the_weights_is_not_opened(run, tmp_path):
    class Payload:
        def __reduce__(self):
            return (open, (str(tmp_path / "ran"), "w"))

    torch.save({"weight": Payload()}, run / "model.safetensors")
    with pytest.raises(RunError, match="not a safetensors file"):
        load_model(run)
    assert not (tmp_path / "ran").exists()


def test_an_edited_plan_is_refused_but_not_an_edited_reason(run):
    plan = json.loads((run / "plan.json").read_text())
    (run / "plan.json").write_text(json.dumps({**plan, "reasons": {"patch": "for people"}}))
    load_model(run)
    (run / "plan.json").write_text(json.dumps({**plan, "labels": {"back": 3, "front": 7}}))
    with pytest.raises(RunError, match=r"plan\.json: the plan changed since training"):
        load_model(run)
    (run / "plan.json").write_text(json.dumps({**plan, "patch": "large"}))
    with pytest.raises(RunError, match=r"plan\.json: not a plan .* patch"):
        load_model(run)


def test_a_block_that_was_exchanged_without_changing_a_tensor_is_refused(run):
    text = (run / "config.yaml").read_text()
    assert "aggregation: max" in text
    (run / "config.yaml").write_text(text.replace("aggregation: max", "aggregation: add"))
    with pytest.raises(RunError, match=r"config\.yaml: the network changed since training"):
        load_model(run)


def test_the_inference_part_of_the_configuration_may_be_edited(run):
    text = (run / "config.yaml").read_text()
    assert "overlap: 0.5" in text
    (run / "config.yaml").write_text(text.replace("overlap: 0.5", "overlap: 0.25"))
    assert load_model(run).config.inference.overlap == 0.25


def test_files_of_two_runs_do_not_pass_as_one(run, tmp_path):
    plan = make_plan(channels=2)
    other = tmp_path / "other"
    other.mkdir()
    config = make_config(plan)
    save_model(other, make_network(config, plan).state_dict(), config, plan)
    (run / "model.safetensors").write_bytes((other / "model.safetensors").read_bytes())
    with pytest.raises(RunError, match="the plan changed since training"):
        load_model(run)


def test_weights_stored_for_another_network_are_named(run):
    plan = make_plan()
    config = make_config(plan)
    state = make_network(config, plan).state_dict()
    name = next(iter(state))
    for wrong, message in (
        ({key: value for key, value in state.items() if key != name}, f"tensor '{name}' is missing"),
        ({**state, "extra": torch.zeros(1)}, "tensor 'extra' has no place"),
        ({**state, name: torch.zeros(3, 3)}, rf"tensor '{name}' is torch.float32 \(3, 3\)"),
        ({**state, name: state[name].double()}, f"tensor '{name}' is torch.float64"),
    ):
        save_model(run, wrong, config, plan)
        with pytest.raises(RunError, match=message):
            load_model(run)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_weights_that_are_not_finite_are_neither_stored_nor_loaded(run, value):
    plan = make_plan()
    config = make_config(plan)
    state = make_network(config, plan).state_dict()
    name = next(iter(state))
    before = (run / "model.safetensors").read_bytes()
    broken = {**state, name: torch.full_like(state[name], value)}
    with pytest.raises(RunError, match="NaN or infinite weights"):
        save_model(run, broken, config, plan)
    assert (run / "model.safetensors").read_bytes() == before
    rewrite(run / "model.safetensors", lambda tensors: tensors.update(broken), {"weights": _weights_digest(broken)})
    with pytest.raises(RunError, match="NaN or infinite weights"):
        load_model(run)


def test_a_model_of_a_later_format_says_which_version_wrote_it(run):
    rewrite(run / "model.safetensors", lambda tensors: None, {"format": "2", "se_med": "9.9"})
    expected = f"format 2 written by se-med 9.9, but se-med {se_med.__version__} reads format 1"
    with pytest.raises(RunError, match=expected):
        load_model(run)


def test_weights_of_another_program_are_refused(run):
    save_file({"weight": torch.zeros(3)}, run / "model.safetensors")
    with pytest.raises(RunError, match="written by another program"):
        load_model(run)
