"""Every registered block keeps the contract: formula, geometry, number formats, export. A new block joins by registering."""

import inspect
import itertools
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from attention_cases import (
    CASES,
    RANKED,
    attenuates,
    constant,
    image,
    is_factor,
    label,
    lacks,
    local,
    make,
    sizes,
    zeroed,
)
from attention_formulas import COUNTS, FORMULAS
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from se_med.attention import attention_class, create_attention, list_attention

ranked = pytest.mark.parametrize(("name", "options", "rank"), RANKED, ids=label)
TIGHT = 1e-10
CHANNELS = (8, 16, 20, 32, 100, 256, 320)
GOLDEN = Path(__file__).with_name("state_dict_keys.json")


def difference(a, b):
    return (a - b).abs().max().item()


def test_each_block_has_a_formula_a_parameter_count_and_a_description():
    for name in list_attention():
        block = attention_class(name)
        if block.kind != "skip":
            assert name in FORMULAS
            assert name in COUNTS
        assert block.kind in {"channel", "spatial", "both", "normalisation", "skip", "control"}
        assert set(block.ranks) <= {2, 3}
        assert "\n" not in block.formula
        assert block.source


@ranked
@settings(max_examples=8, deadline=None)
@given(data=st.data())
def test_output_equals_the_numpy_formula(name, options, rank, data):
    batch, channels = data.draw(st.integers(1, 3)), data.draw(st.sampled_from([1, 2, 3, 5, 8, 20]))
    spatial = data.draw(st.tuples(*[st.integers(1, 7)] * rank))
    assume(name != "se_norm" or max(spatial) > 1)
    block = make(name, channels, rank, options, seed=data.draw(st.integers(0, 99)))
    x = image(batch, channels, spatial, seed=data.draw(st.integers(0, 99)))
    parameters = {key: value.detach().numpy() for key, value in block.state_dict().items()}
    formula_options = {key: value for key, value in options.items() if key not in ("reduction", "min_hidden")}
    expected = FORMULAS[name](x.numpy(), parameters, **formula_options)
    tolerance = TIGHT * max(1, np.abs(expected).max())
    with torch.no_grad():
        frozen = block(x)
    np.testing.assert_allclose(block(x).detach().numpy(), expected, rtol=0, atol=tolerance)
    np.testing.assert_allclose(frozen.numpy(), expected, rtol=0, atol=tolerance)


@ranked
def test_gate_is_the_factor_on_the_input(name, options, rank):
    block, x = make(name, 6, rank, options), image(2, 6, sizes(rank))
    gate = block.gate(x)
    assert gate.shape[0] == (1 if constant(name) else 2)
    assert gate.shape[1] in ((12,) if options.get("aggregation") == "concat" else (1, 6))
    assert all(have in (1, full) for have, full in zip(gate.shape[2:], x.shape[2:], strict=True))
    if block.kind == "channel":
        assert set(gate.shape[2:]) == {1}
    if block.kind == "spatial":
        assert gate.shape == (2, 1, *x.shape[2:])
    if is_factor(name, options):
        assert difference(block(x), x * gate) < TIGHT


@ranked
@pytest.mark.parametrize("layout", ["strided", "transposed", "channels_last"])
def test_memory_layout_does_not_matter(name, options, rank, layout):
    block, x = make(name, 6, rank, options), image(2, 6, sizes(rank))
    if layout == "strided":
        other = torch.repeat_interleave(x, 2, dim=-1)[..., ::2]
    elif layout == "transposed":
        other = x.transpose(0, 1).contiguous().transpose(0, 1)
    else:
        other = x.to(memory_format=torch.channels_last if rank == 2 else torch.channels_last_3d)
    assert not other.is_contiguous()
    for tensor in (x, other):
        tensor.requires_grad_()
    first, second = block(x), block(other)
    assert difference(first, second) < 1e-12
    weights = torch.linspace(-1, 1, first.numel(), dtype=first.dtype).reshape(first.shape)
    (grad_x,) = torch.autograd.grad((first * weights).sum(), x)
    (grad_other,) = torch.autograd.grad((second * weights).sum(), other)
    assert difference(grad_x, grad_other) < 1e-12


@ranked
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_half_precision_is_finite_and_close(name, options, rank, dtype):
    block, half, x = make(name, 6, rank, options), make(name, 6, rank, options, dtype=dtype), image(2, 6, sizes(rank))
    y, expected = half(x.to(dtype)), block(x)
    assert y.dtype == dtype
    assert difference(y.double(), expected) < 0.05 * expected.abs().max()
    large = 1000 if attenuates(name, options) else 20
    assert torch.isfinite(half((large * x).to(dtype))).all()


@ranked
def test_autocast_returns_the_format_of_its_input_and_trains(name, options, rank):
    block = make(name, 6, rank, options, dtype=torch.float32)
    x = image(2, 6, sizes(rank), dtype=torch.bfloat16).requires_grad_()
    with torch.autocast("cpu", torch.bfloat16):
        y = block(x)
    y.float().square().sum().backward()
    assert y.dtype == torch.bfloat16
    gradients = [
        x.grad,
        *(parameter.grad for parameter in block.parameters() if not constant(name) or parameter.grad is not None),
    ]
    assert all(torch.isfinite(gradient).all() for gradient in gradients)


@ranked
def test_gradients_are_those_of_finite_differences(name, options, rank):
    block, x = make(name, 3, rank, options), image(2, 3, sizes(rank, (3, 3, 2))).requires_grad_()
    names = [key for key, _ in block.named_parameters()]

    def call(x, *values):
        return torch.func.functional_call(block, dict(zip(names, values, strict=True)), (x,))

    assert torch.autograd.gradcheck(call, (x, *block.parameters()), fast_mode=True)


@ranked
def test_export_gives_equal_outputs(name, options, rank):
    block, x = make(name, 6, rank, options, dtype=torch.float32).eval(), image(2, 6, sizes(rank), dtype=torch.float32)
    exported = torch.export.export(block, (x,)).module()
    other = image(2, 6, sizes(rank), seed=5, dtype=torch.float32)
    assert difference(exported(other), block(other)) < 1e-6


@pytest.mark.parametrize("name", COUNTS)
def test_parameter_count_equals_the_formula(name):
    takes_reduction = "reduction" in inspect_options(name)
    for rank, channels, reduction in itertools.product(attention_class(name).ranks, CHANNELS, (1, 2, 4, 8, 16)):
        options = {"reduction": reduction, "min_hidden": 8} if takes_reduction else {}
        block = create_attention(name, channels, rank, **options)
        hidden = max(8, channels // reduction)
        assert sum(parameter.numel() for parameter in block.parameters()) == COUNTS[name](channels, hidden, rank)


def inspect_options(name):
    return inspect.signature(attention_class(name)).parameters


@ranked
def test_state_dict_keys_and_shapes_are_those_on_file(name, options, rank):
    """Weights saved by an earlier version must load: change the file only together with a migration."""
    have = {key: list(value.shape) for key, value in create_attention(name, 16, rank, **options).state_dict().items()}
    assert have == json.loads(GOLDEN.read_text())[f"{name}-{label(options)}-{rank}d"]


@ranked
def test_batch_elements_are_independent(name, options, rank):
    block, x = make(name, 6, rank, options), image(3, 6, sizes(rank))
    together = block(x)
    for index in range(3):
        assert difference(together[index : index + 1], block(x[index : index + 1])) < 1e-13


@ranked
def test_zero_weights(name, options, rank):
    block, x = create_attention(name, 6, rank, **options).double().eval(), image(2, 6, sizes(rank))
    with torch.no_grad():
        for parameter in block.parameters():
            parameter.zero_()
        expected = zeroed(name, options, x)
    if expected is None:
        assert not list(block.parameters())
    else:
        torch.testing.assert_close(block(x), expected, rtol=0, atol=1e-15)


@ranked
def test_permuted_channels_give_a_permuted_output(name, options, rank):
    channels = 11  # unlike every hidden width and kernel size: axes of 11 or 22 are those of channels
    order = torch.tensor([3, 7, 0, 10, 1, 9, 2, 8, 4, 6, 5])
    block, permuted = make(name, channels, rank, options), make(name, channels, rank, options)
    with torch.no_grad():
        for tensor in permuted.state_dict().values():
            for axis, size in enumerate(tensor.shape):
                if size == channels:
                    tensor.copy_(tensor.index_select(axis, order))
                elif size == 2 * channels:
                    tensor.copy_(tensor.index_select(axis, torch.cat((order, order + channels))))
    x = image(2, channels, sizes(rank))
    deviation = difference(permuted(x[:, order]), block(x)[:, order])
    assert deviation > 1e-3 if "channel order" in lacks(name, options) else deviation < 1e-13


@ranked
def test_permuted_voxels_give_a_permuted_output(name, options, rank):
    block, x = make(name, 6, rank, options), image(2, 6, sizes(rank))
    order = torch.randperm(x[0, 0].numel(), generator=torch.Generator().manual_seed(3))

    def shuffle(tensor):
        return tensor.flatten(2)[..., order].reshape(x.shape)

    deviation = difference(block(shuffle(x)), shuffle(block(x)))
    assert deviation > 1e-3 if "voxel order" in lacks(name, options) else deviation < 1e-13


@ranked
def test_flips_and_swapped_axes_pass_through(name, options, rank):
    block, x = make(name, 6, rank, options), image(2, 6, sizes(rank))
    deviation = max(
        difference(block(x.flip(2)), block(x).flip(2)), difference(block(x.transpose(2, 3)), block(x).transpose(2, 3))
    )
    assert deviation > 1e-3 if "flips" in lacks(name, options) else deviation < 1e-13


@ranked
def test_tiling_the_input_tiles_the_output(name, options, rank):
    block, x = make(name, 6, rank, options), image(2, 6, sizes(rank))
    twice = (1, 1, *(2,) * rank)
    deviation = difference(block(x.repeat(twice)), block(x).repeat(twice))
    assert deviation > 1e-3 if "tiling" in lacks(name, options) else deviation < 1e-13


@ranked
def test_zero_padding_changes_blocks_that_look_at_the_whole_map(name, options, rank):
    block, x = make(name, 6, rank, options), image(2, 6, sizes(rank))
    if name == "gather_excite" and "extent" in options:
        pytest.skip("the block looks at neighbourhoods, not at the whole map")
    padded = block(torch.nn.functional.pad(x, (0, 3)))[..., : x.shape[-1]]
    deviation = difference(padded, block(x))
    assert deviation < 1e-13 if local(name, options) else deviation > 1e-3


@ranked
def test_size_and_sign_of_the_output(name, options, rank):
    block, x = make(name, 6, rank, options), image(2, 6, sizes(rank))
    if not attenuates(name, options):
        pytest.skip("the gate is not a weight between 0 and 1")
    y = block(x)
    assert (y.abs() <= x.abs()).all()
    assert (y * x >= 0).all()


@pytest.mark.parametrize(("name", "options"), CASES, ids=label)
def test_a_volume_of_depth_one_is_an_image(name, options):
    if attention_class(name).ranks != (2, 3):
        pytest.skip("defined in one rank only")
    if name == "cbam":
        options = {"kernel": 3}
    flat, deep = make(name, 6, 2, options), make(name, 6, 3, options)
    with torch.no_grad():
        for key, value in deep.state_dict().items():
            flat_value = flat.state_dict()[key]
            if value.numel() == flat_value.numel():
                value.copy_(flat_value.reshape(value.shape))
            else:  # the plane of depth 0 is the central one of the kernel
                value.zero_()[..., value.shape[-1] // 2] = flat_value
    x = image(2, 6, (6, 5))
    deviation = difference(deep(x[..., None])[..., 0], flat(x))
    assert deviation > 1e-3 if "rank" in lacks(name, options) else deviation < 1e-13


@ranked
def test_gate_follows_its_input(name, options, rank):
    block = make(name, 6, rank, options)
    gates = torch.stack([block.gate(image(1, 6, sizes(rank), seed=seed) * (1 + seed)) for seed in range(4)])
    assert gates.std(0).max() < 1e-10 if constant(name) else gates.std(0).max() > 1e-3


@pytest.mark.parametrize("name", list_attention())
def test_impossible_sizes_are_refused(name):
    rank = attention_class(name).ranks[-1]
    signal = {"signal_channels": 8} if attention_class(name).kind == "skip" else {}
    for channels in (0, -4, 2.5, True):
        with pytest.raises(ValueError, match="channels"):
            create_attention(name, channels, rank, **signal)
    with pytest.raises(ValueError, match="spatial_dims: 4"):
        create_attention(name, 8, 4, **signal)


@ranked
def test_identity_start_returns_the_input_bit_for_bit_and_then_leaves_it(name, options, rank):
    if "identity_start" not in inspect_options(name):
        assert attention_class(name).kind == "normalisation"
        return
    block = create_attention(name, 6, rank, identity_start=True, **options)
    x = image(2, 6, sizes(rank), dtype=torch.float32)
    with torch.no_grad():
        assert torch.equal(block(x), x)
    optimizer = torch.optim.SGD(block.parameters(), lr=1e-3)
    block(x).square().sum().backward()
    optimizer.step()
    assert not torch.equal(block(x), x)
