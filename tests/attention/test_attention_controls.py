"""Controls: what they do while training and at inference."""

import pytest
import torch
from attention_cases import image, make

from se_med.attention import create_attention


def pair(name, rank=3):
    """A control and a cse with the same weights."""
    control = make(name, 6, rank, {}).train()
    control.batches.zero_()
    cse = create_attention("cse", 6, rank).double()
    cse.load_state_dict({key.removeprefix("channel."): v for key, v in control.state_dict().items() if "channel" in key})
    return control, cse


@pytest.mark.parametrize("rank", [2, 3])
def test_mean_trains_as_cse_and_infers_with_the_mean_of_its_training_gates(rank):
    control, cse = pair("mean", rank)
    batches = [image(3, 6, (5, 4, 3)[:rank], seed=seed) * (1 + seed) for seed in range(5)]
    gates = []
    for x in batches:
        assert torch.equal(control(x), cse(x))
        gates.append(cse.gate(x).mean(0).flatten())
    expected = torch.stack(gates).mean(0)
    control.eval()
    for x in batches:
        torch.testing.assert_close(control.gate(x).flatten(), expected, rtol=0, atol=1e-12)


def test_running_mean_forgets_after_many_batches():
    control, cse = pair("mean")
    first, later = image(2, 6, (4, 4, 4)), 5 * image(2, 6, (4, 4, 4), seed=2)
    control(first)
    for _ in range(400):
        control(later)
    torch.testing.assert_close(control.eval().gate(later).flatten(), cse.gate(later).mean(0).flatten(), rtol=0, atol=1e-6)


@pytest.mark.parametrize("rank", [2, 3])
def test_shuffled_weighs_each_case_by_the_gates_of_the_one_before(rank):
    control, cse = pair("shuffled", rank)
    x = image(3, 6, (5, 4, 3)[:rank])
    own = cse.gate(x)
    assert torch.equal(control(x), x * torch.stack([own[2], own[0], own[1]]))
    torch.testing.assert_close(control.eval().gate(x).flatten(), own.mean(0).flatten(), rtol=0, atol=1e-12)


def test_shuffled_refuses_a_training_batch_of_one():
    control = create_attention("shuffled", 6, 3)
    x = torch.randn(1, 6, 4, 4, 4)
    with pytest.raises(ValueError, match=r"batch size 1: .* at least 2"):
        control(x)
    assert torch.equal(control.eval()(x), 0.5 * x)


def test_controls_have_the_parameters_of_cse():
    count = {
        name: sum(p.numel() for p in create_attention(name, 32, 3).parameters())
        for name in ("cse", "no_squeeze", "shuffled", "mean")
    }
    assert set(count.values()) == {count["cse"]}


def test_no_squeeze_on_a_constant_map_is_cse():
    control, cse = make("no_squeeze", 6, 3, {}), create_attention("cse", 6, 3).double()
    weights = control.state_dict()
    cse.load_state_dict({f"fc{i}.{key}": weights[f"conv{i}.{key}"].squeeze() for i in (1, 2) for key in ("weight", "bias")})
    x = image(2, 6, (1, 1, 1)).expand(2, 6, 4, 3, 2)
    torch.testing.assert_close(control(x), cse(x), rtol=0, atol=1e-12)
