"""Deep supervision trains heads that a stored model does not hold."""

from __future__ import annotations

import re

import pytest
import torch
from safetensors.torch import load_file
from tiny_model import make_config, make_network, make_plan

from se_med.config.experiment import Config
from se_med.data.plan import Plan
from se_med.inference.model import load_model, save_model

DEEP = {"features": (4, 6, 8, 8), "strides": ((2, 2, 2),) * 3, "kernels": ((3, 3, 3),) * 4}


@pytest.fixture
def deep() -> tuple[Config, Plan]:
    plan = make_plan().model_copy(update=DEEP)
    network = make_config(plan).model_dump()["network"] | {"deep_supervision": (1, 0.5, 0.25)}
    return Config.model_validate(make_config(plan).model_dump() | {"network": network}), plan


def test_a_stored_model_has_one_head_and_gives_the_same_logits(deep, tmp_path):
    config, plan = deep
    network = make_network(config.model_copy(update={"seed": 99}), plan).eval()
    assert any(name.startswith("heads.2.") for name in network.state_dict())
    digest = save_model(tmp_path, network.state_dict(), config, plan)
    heads = [name for name in load_file(tmp_path / "model.safetensors") if re.match(r"heads\.", name)]
    assert {name.split(".")[1] for name in heads} == {"0"}
    model = load_model(tmp_path, "cpu")
    assert model.digest == digest
    assert model.config.network.deep_supervision == (1, 0.5, 0.25)
    x = torch.randn(1, 1, 16, 16, 16, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        assert torch.equal(model.network(x), network(x))


@pytest.mark.slow
def test_the_onnx_graph_of_a_stored_model_has_one_head(deep, tmp_path):
    pytest.importorskip("onnx", reason="needs the extra `export`: pip install 'se-med[export]'")
    pytest.importorskip("onnxscript", reason="needs the extra `export`: pip install 'se-med[export]'")
    config, plan = deep
    save_model(tmp_path, make_network(config, plan).state_dict(), config, plan)
    program = torch.onnx.export(load_model(tmp_path, "cpu").network, (torch.zeros(1, 1, 16, 16, 16),), dynamo=True, verbose=False)
    stored = {entry.name for entry in program.model_proto.graph.initializer}
    assert any(name.startswith("heads.0.") for name in stored)
    assert not any(re.match(r"heads\.[1-9]", name) for name in stored)
    assert len(program.model_proto.graph.output) == 1
