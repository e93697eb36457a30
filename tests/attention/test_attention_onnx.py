"""Every block gives the same output in ONNX Runtime as in torch."""

import numpy as np
import pytest
import torch
from attention_cases import RANKED, image, label, make, sizes
from torch import nn

from se_med.attention import attention_class, create_attention, list_attention

NEEDED = "needs the extra `export`: pip install 'se-med[export]'"
pytest.importorskip("onnx", reason=NEEDED)
pytest.importorskip("onnxscript", reason=NEEDED)
onnxruntime = pytest.importorskip("onnxruntime", reason=NEEDED)

RANKS = [3, pytest.param(2, marks=pytest.mark.slow)]


class SideBySide(nn.Module):
    """Many blocks on the same inputs: one export for all, since each takes a second or two."""

    def __init__(self, blocks):
        super().__init__()
        self.blocks = nn.ModuleList(blocks)

    def forward(self, *inputs):
        return [block(*inputs) for block in self.blocks]


def compare(blocks, names, first, other):
    module = SideBySide(blocks).eval()
    program = torch.onnx.export(module, first, dynamo=True, verbose=False)
    session = onnxruntime.InferenceSession(program.model_proto.SerializeToString(), providers=["CPUExecutionProvider"])
    inputs = {entry.name: value.numpy() for entry, value in zip(session.get_inputs(), other, strict=True)}
    with torch.no_grad():
        expected = [output.numpy() for output in module(*other)]
    for name, found, wanted in zip(names, session.run(None, inputs), expected, strict=True):
        np.testing.assert_allclose(found, wanted, rtol=0, atol=1e-5 * max(1, np.abs(wanted).max()), err_msg=name)


@pytest.mark.parametrize("rank", RANKS)
def test_blocks_give_equal_outputs_in_onnx_runtime(rank):
    cases = [(name, options) for name, options, ranks in RANKED if ranks == rank]
    blocks = [make(name, 6, rank, options, dtype=torch.float32) for name, options in cases]
    first, other = (image(2, 6, sizes(rank), seed=seed, dtype=torch.float32) for seed in (1, 5))
    compare(blocks, [f"{name} {label(options)}" for name, options in cases], (first,), (other,))


@pytest.mark.parametrize("rank", RANKS)
@pytest.mark.parametrize("signal", ["coarse", "fine"])
def test_skip_blocks_give_equal_outputs_in_onnx_runtime(rank, signal):
    torch.manual_seed(0)
    names = [name for name in list_attention() if attention_class(name).signal == signal]
    blocks = [create_attention(name, 6, rank, signal_channels=4) for name in names]
    fine = (6, 4, 8)[:rank]
    shape = fine if signal == "fine" else tuple(size // 2 for size in fine)
    first, other = ((torch.randn(2, 6, *fine), torch.randn(2, 4, *shape)) for _ in range(2))
    compare(blocks, names, first, other)
