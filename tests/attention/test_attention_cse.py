"""Channel excitation: its squeeze, its numerical format under autocast, and agreement with MONAI."""

import pytest
import torch
from attention_cases import image, make

from se_med.attention import create_attention


@pytest.mark.parametrize("rank", [2, 3])
def test_same_weights_give_the_output_of_monai(rank):
    from monai.networks.blocks.squeeze_and_excitation import ChannelSELayer

    theirs = ChannelSELayer(rank, 16, r=4).double()
    ours = create_attention("cse", 16, rank, reduction=4, min_hidden=1).double()
    ours.load_state_dict(
        {f"fc{layer}.{kind}": getattr(theirs.fc[2 * layer - 2], kind) for layer in (1, 2) for kind in ("weight", "bias")}
    )
    x = image(2, 16, (7, 6, 5)[:rank])
    assert torch.equal(ours(x), theirs(x))


def test_fewer_channels_than_the_reduction_still_make_a_gate_that_follows_its_input():
    block = make("cse", 3, 3, {"reduction": 16})
    assert block.fc1.out_features == 8
    gates = torch.cat([block.gate(image(1, 3, (4, 4, 4), seed=seed) * seed) for seed in (1, 2, 3)])
    assert gates.std(0).min() > 1e-4


def test_se_resnet_50_has_2514944_gate_weights_at_reduction_16():
    blocks = {256: 3, 512: 4, 1024: 6, 2048: 3}
    weights = sum(
        count * (block.fc1.weight.numel() + block.fc2.weight.numel())
        for channels, count in blocks.items()
        for block in [create_attention("cse", channels, 2, reduction=16, min_hidden=1)]
    )
    assert weights == 2_514_944


def test_autocast_does_not_round_away_small_differences_between_cases():
    block = make("cse", 16, 3, {}, dtype=torch.float32)
    x = image(1, 16, (4, 4, 4), dtype=torch.float32)
    with torch.autocast("cpu", torch.bfloat16):
        gates = torch.cat([block.gate(x * (1 + step * 1e-4)) for step in range(5)])
    assert gates.dtype == torch.float32
    assert gates.flatten(1).unique(dim=0).shape[0] == 5


def test_mean_of_a_large_half_precision_map_does_not_overflow():
    block = make("cse", 2, 3, {}, dtype=torch.float16)
    assert torch.isfinite(block(torch.full((1, 2, 64, 64, 64), 100.0, dtype=torch.float16))).all()
