"""Attention gates on the skip connection: two inputs, two forms."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from attention_cases import image
from attention_formulas import batch_norm, per_voxel, relu, sigmoid

from se_med.attention import create_attention

FORMS = ("attention_gate", "fine_attention_gate")
GOLDEN = Path(__file__).with_name("skip_state_dict_keys.json")


def make(name, rank, channels=6, signal_channels=4, stride=None, seed=0, **options):
    options = {**options, **({"stride": stride} if stride else {})}
    block = create_attention(name, channels, rank, signal_channels=signal_channels, **options).double()
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for tensor in block.state_dict().values():
            if tensor.is_floating_point():
                tensor.copy_(torch.rand(tensor.shape, generator=generator, dtype=torch.float64) - 0.3)
        for key, tensor in block.state_dict().items():
            if key.endswith("running_var"):
                tensor.add_(0.5)
    return block.eval()


def inputs(name, rank, stride=None, dtype=torch.float64):
    coarse = (3, 2, 4)[:rank]
    step = stride or (2,) * rank
    fine = tuple(size * by for size, by in zip(coarse, step, strict=True))
    signal = image(2, 4, coarse if name == "attention_gate" else fine, seed=7)
    return image(2, 6, fine).to(dtype), signal.to(dtype)


def interpolate(y, stride):
    """Linear interpolation between the centres of coarse voxels, axis by axis."""
    for axis, by in enumerate(stride, start=2):
        size = y.shape[axis]
        position = np.clip((np.arange(size * by) + 0.5) / by - 0.5, 0, size - 1)
        low = np.floor(position).astype(int)
        share = (position - low).reshape([-1 if a == axis else 1 for a in range(y.ndim)])
        y = y.take(low, axis) * (1 - share) + y.take(np.minimum(low + 1, size - 1), axis) * share
    return y


def oktay(x, g, p, stride):
    theta = 0
    for offset in np.ndindex(*stride):
        theta = theta + per_voxel(
            x[(..., *(slice(o, None, s) for o, s in zip(offset, stride, strict=True)))], p["theta.weight"][(..., *offset)]
        )
    alpha = sigmoid(per_voxel(relu(theta + per_voxel(g, p["phi.weight"], p["phi.bias"])), p["psi.weight"], p["psi.bias"]))
    return batch_norm(per_voxel(x * interpolate(alpha, stride), p["output.0.weight"], p["output.0.bias"]), p, "output.1")


def monai_form(x, g, p):
    theta = batch_norm(per_voxel(x, p["theta.0.weight"], p["theta.0.bias"]), p, "theta.1")
    phi = batch_norm(per_voxel(g, p["phi.0.weight"], p["phi.0.bias"]), p, "phi.1")
    return x * sigmoid(batch_norm(per_voxel(relu(theta + phi), p["psi.0.weight"], p["psi.0.bias"]), p, "psi.1"))


@pytest.mark.parametrize("rank", [2, 3])
@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("anisotropic", [False, True])
def test_oktay_form_equals_the_numpy_formula(rank, seed, anisotropic):
    stride = (1, 2, 4)[:rank] if anisotropic else (2,) * rank
    block = make("attention_gate", rank, stride=stride, seed=seed)
    x, signal = inputs("attention_gate", rank, stride)
    parameters = {key: value.numpy() for key, value in block.state_dict().items()}
    expected = oktay(x.numpy(), signal.numpy(), parameters, stride)
    np.testing.assert_allclose(block(x, signal).detach().numpy(), expected, rtol=0, atol=1e-10)


@pytest.mark.parametrize("rank", [2, 3])
@pytest.mark.parametrize("seed", range(4))
def test_fine_form_equals_the_numpy_formula(rank, seed):
    block = make("fine_attention_gate", rank, seed=seed)
    x, signal = inputs("fine_attention_gate", rank)
    expected = monai_form(x.numpy(), signal.numpy(), {key: value.numpy() for key, value in block.state_dict().items()})
    np.testing.assert_allclose(block(x, signal).detach().numpy(), expected, rtol=0, atol=1e-10)


@pytest.mark.parametrize("rank", [2, 3])
def test_same_weights_give_the_output_of_monai(rank):
    from monai.networks.nets.attentionunet import AttentionBlock

    theirs = AttentionBlock(rank, f_int=16, f_g=32, f_l=32).eval()
    ours = create_attention("fine_attention_gate", 32, rank, signal_channels=32, hidden=16).eval()
    assert sum(parameter.numel() for parameter in ours.parameters()) == 1139
    branches = {"theta": theirs.W_x, "phi": theirs.W_g, "psi": theirs.psi}
    for name, branch in branches.items():
        mine = ours.get_submodule(name)
        mine[0].load_state_dict(branch[0].conv.state_dict())
        mine[1].load_state_dict(branch[1].state_dict())
    x, signal = image(2, 32, (6, 5, 4)[:rank], dtype=torch.float32), image(2, 32, (6, 5, 4)[:rank], 9, torch.float32)
    torch.testing.assert_close(ours(x, signal), theirs(g=signal, x=x), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("rank", [2, 3])
@pytest.mark.parametrize("channels", [1, 8, 32, 320])
def test_parameter_counts(rank, channels):
    g, f = 2 * channels, max(1, channels // 2)
    oktay_count = 2**rank * channels * f + g * f + f + f + 1 + channels**2 + channels + 2 * channels
    for name, expected in (("attention_gate", oktay_count), ("fine_attention_gate", (g + channels + 7) * f + 3)):
        block = create_attention(name, channels, rank, signal_channels=g)
        assert sum(parameter.numel() for parameter in block.parameters()) == expected


@pytest.mark.parametrize("rank", [2, 3])
@pytest.mark.parametrize("name", FORMS)
def test_contract_of_both_forms(name, rank):
    block = make(name, rank)
    x, signal = (tensor.requires_grad_() for tensor in inputs(name, rank))
    gate = block.gate(x, signal)
    assert gate.shape == (2, 1, *x.shape[2:])
    assert ((gate > 0) & (gate < 1)).all()
    memory = torch.channels_last if rank == 2 else torch.channels_last_3d
    other = block(x.detach().to(memory_format=memory), signal.detach().to(memory_format=memory))
    torch.testing.assert_close(other, block(x, signal), rtol=0, atol=1e-12)
    assert torch.autograd.gradcheck(block, (x, signal), fast_mode=True)
    alone = torch.cat([block(x[i : i + 1], signal[i : i + 1]) for i in range(2)])
    torch.testing.assert_close(alone, block(x, signal), rtol=0, atol=1e-12)
    keys = {key: list(value.shape) for key, value in block.state_dict().items()}
    assert keys == json.loads(GOLDEN.read_text())[f"{name}-{rank}d"]


@pytest.mark.parametrize("rank", [2, 3])
@pytest.mark.parametrize("name", FORMS)
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_half_precision_is_finite(name, rank, dtype):
    y = make(name, rank).to(dtype)(*inputs(name, rank, dtype=dtype))
    assert y.dtype == dtype
    assert torch.isfinite(y).all()


@pytest.mark.parametrize("rank", [2, 3])
@pytest.mark.parametrize("name", FORMS)
def test_export_gives_equal_outputs(name, rank):
    block, both = make(name, rank).float(), inputs(name, rank, dtype=torch.float32)
    exported = torch.export.export(block, both).module()
    torch.testing.assert_close(exported(*both), block(*both), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("name", FORMS)
def test_identity_start_passes_the_skip_features_on_unchanged(name):
    block = create_attention(name, 6, 3, signal_channels=4, identity_start=True)
    x, signal = inputs(name, 3, dtype=torch.float32)
    assert torch.equal(block(x, signal), x)


@pytest.mark.parametrize("name", FORMS)
def test_a_missing_signal_is_told(name):
    with pytest.raises(ValueError, match="needs the features of the decoder"):
        make(name, 3)(inputs(name, 3)[0])
