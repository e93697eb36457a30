"""Blocks that squeeze channels: from another map, and without the padding."""

import pytest
import torch
import torch.nn.functional as F
from attention_cases import RANKED, image, label, make, sizes
from hypothesis import given, settings
from hypothesis import strategies as st

from se_med.attention import attention_class
from se_med.attention.squeeze import SQUEEZES, maximum, mean, std
from se_med.attention.squeezing import SqueezingGate

SQUEEZING = [case for case in RANKED if issubclass(attention_class(case[0]), SqueezingGate)]
squeezing = pytest.mark.parametrize(("name", "options", "rank"), SQUEEZING, ids=label)


def trained(name, options, rank):
    """A block as it trains: the controls use the mean gate at inference, whatever the input."""
    return make(name, 6, rank, options).train()


def test_blocks_that_squeeze_channels_are_known():
    assert {name for name, _, _ in SQUEEZING} == {"cse", "scse", "eca", "mean", "shuffled"}


@squeezing
def test_source_is_what_is_squeezed(name, options, rank):
    x, source = image(2, 6, sizes(rank)), image(2, 6, sizes(rank), seed=8) * 3
    block = trained(name, options, rank)
    if name == "scse":
        c, t = x * block.channel.gate(source), x * block.spatial.gate(x)
        expected = {
            "max": lambda: torch.maximum(c, t),
            "add": lambda: c + t,
            "multiply": lambda: c * t,
            "gate_multiply": lambda: c * block.spatial.gate(x),
            "concat": lambda: block.projection(torch.cat((c, t), 1)),
        }[options["aggregation"]]()
    else:
        expected = x * block.gate(source)
    torch.testing.assert_close(block(x, source), expected, rtol=0, atol=1e-12)
    assert (block(x, source) - block(x)).abs().max() > 1e-3


@squeezing
@settings(max_examples=10, deadline=None)
@given(data=st.data())
def test_masked_padding_moves_no_gate_whatever_it_holds(name, options, rank, data):
    spatial = data.draw(st.tuples(*[st.integers(1, 4)] * rank))
    before = data.draw(st.tuples(*[st.integers(0, 3)] * rank))
    after = data.draw(st.tuples(*[st.integers(0, 3)] * rank))
    value = data.draw(st.sampled_from([0.0, -7.0, 1e6, float("inf"), float("nan")]))
    x = image(2, 6, spatial, seed=data.draw(st.integers(0, 99)))
    pads = [size for pair in zip(reversed(before), reversed(after), strict=True) for size in pair]
    padded, mask = F.pad(x, pads, value=value), F.pad(torch.ones(1, 1, *spatial, dtype=torch.float64), pads)
    inside = (..., *(slice(start, start + size) for start, size in zip(before, spatial, strict=True)))
    block = trained(name, options, rank)
    torch.testing.assert_close(block(padded, None, mask)[inside], block(x), rtol=0, atol=1e-10)
    torch.testing.assert_close(block(padded, None, mask.bool())[inside], block(x), rtol=0, atol=1e-10)


@squeezing
def test_each_case_has_its_own_mask(name, options, rank):
    x = image(2, 6, sizes(rank))
    mask = torch.rand(2, 1, *sizes(rank), generator=torch.Generator().manual_seed(2)) > 0.5
    block = trained(name, options, rank)
    channel = getattr(block, "channel", block)
    together = channel.gate(x, None, mask)
    alone = torch.cat([channel.gate(x[i : i + 1], None, mask[i : i + 1]) for i in range(2)])
    torch.testing.assert_close(together, alone, rtol=0, atol=1e-12)
    assert (together - channel.gate(x)).abs().max() > 1e-4


@squeezing
def test_gradients_of_masked_gates_are_those_of_finite_differences(name, options, rank):
    if name in ("mean", "shuffled"):
        options, name = {}, "cse"  # what is inside of them; their running mean is no function of the input
    block, x = make(name, 3, rank, options), image(2, 3, sizes(rank, (3, 3, 2))).requires_grad_()
    mask = torch.rand(2, 1, *x.shape[2:], generator=torch.Generator().manual_seed(2)) > 0.4
    assert torch.autograd.gradcheck(lambda x: block(x, None, mask), (x,), fast_mode=True)


@pytest.mark.parametrize("squeeze", [mean, maximum, std])
def test_squeezes_agree_with_the_voxels_that_count(squeeze):
    x = image(2, 3, (4, 5))
    mask = torch.rand(2, 1, 4, 5, generator=torch.Generator().manual_seed(4)) > 0.5
    for case in range(2):
        voxels = x[case][:, mask[case, 0]]
        torch.testing.assert_close(squeeze(x, mask)[case], squeeze(voxels[None, :, :, None], None)[0], rtol=0, atol=1e-12)


@pytest.mark.parametrize("squeeze", [mean, maximum])
def test_a_case_of_which_nothing_counts_is_squeezed_to_zero(squeeze):
    x = image(2, 3, (4, 5)).requires_grad_()
    mask = torch.stack([torch.zeros(1, 4, 5), torch.ones(1, 4, 5)])
    squeezed = squeeze(x, mask)
    assert torch.equal(squeezed[0], torch.zeros(3, dtype=torch.float64))
    torch.testing.assert_close(squeezed[1], squeeze(x)[1], rtol=0, atol=1e-12)
    squeezed.sum().backward()
    assert x.grad.isfinite().all()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
@pytest.mark.parametrize("name", SQUEEZES)
def test_masked_half_precision_is_finite(name, dtype):
    x = torch.full((1, 2, 40, 40, 40), 100.0, dtype=dtype)
    mask = torch.ones(1, 1, 40, 40, 40)
    mask[..., :3] = 0
    for squeeze in SQUEEZES[name]:
        squeezed = squeeze(x, mask)
        assert squeezed.dtype == torch.float32
        assert squeezed.isfinite().all()


@pytest.mark.parametrize("shape", [(2, 3, 4, 5), (1, 4, 5), (3, 1, 4, 5), (2, 1, 4, 4)])
def test_a_mask_that_does_not_fit_is_refused(shape):
    with pytest.raises(ValueError, match=r"mask \[.*: a map \[2, 3, 4, 5\] needs one of \[2, 1, 4, 5\]"):
        make("cse", 3, 2, {})(image(2, 3, (4, 5)), None, torch.ones(shape))
