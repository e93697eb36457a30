"""A whole U-Net gives the same logits in ONNX Runtime as in torch."""

import numpy as np
import pytest
import torch
from network_cases import build, image

NEEDED = "needs the extra `export`: pip install 'se-med[export]'"
pytest.importorskip("onnx", reason=NEEDED)
pytest.importorskip("onnxscript", reason=NEEDED)
onnxruntime = pytest.importorskip("onnxruntime", reason=NEEDED)


@pytest.mark.parametrize(
    ("rank", "attention"),
    [
        (3, {"encoder": "scse", "skip": "attention_gate", "decoder": "pe"}),
        pytest.param(2, {"encoder": "cbam", "skip": "fine_attention_gate"}, marks=pytest.mark.slow),
    ],
)
def test_network_gives_equal_logits_in_onnx_runtime(rank, attention):
    network = build(rank, attention, stem=(2,) * rank).eval()
    program = torch.onnx.export(network, (image(rank, size=16),), dynamo=True, verbose=False)
    session = onnxruntime.InferenceSession(program.model_proto.SerializeToString(), providers=["CPUExecutionProvider"])
    other = image(rank, size=16, seed=7)
    with torch.no_grad():
        expected = network(other).numpy()
    (found,) = session.run(None, {session.get_inputs()[0].name: other.numpy()})
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-4 * np.abs(expected).max())
