"""A mask reaches every gate that squeezes channels, at its stage's resolution, and leaves padding out."""

import pytest
import torch
from network_cases import SITES, build, image

from se_med.attention.squeezing import SqueezingGate
from se_med.networks.masks import mask_pyramid
from se_med.networks.units import UNITS


def padded_mask(rank=3, size=8, inside=5):
    mask = torch.zeros(1, 1, *(size,) * rank)
    mask[(..., *(slice(0, inside),) * rank)] = 1
    return mask


def test_a_coarse_voxel_counts_where_a_fine_one_does():
    mask = torch.rand(2, 1, 8, 12, generator=torch.Generator().manual_seed(0)) > 0.8
    masks = mask_pyramid(mask, [(1, 1), (2, 1), (2, 4)])
    assert list(masks) == [(8, 12), (4, 12), (2, 3)]
    for (height, width), coarse in masks.items():
        blocks = mask.reshape(2, 1, height, 8 // height, width, 12 // width)
        assert torch.equal(coarse.bool(), blocks.any(5).any(3))


@pytest.mark.parametrize("stem", [1, 2])
@pytest.mark.parametrize("unit", UNITS)
def test_every_squeezing_gate_gets_the_mask_of_its_resolution(unit, stem):
    inside = {"block": "cse", "placement": "standard"}
    attention = {**dict.fromkeys(SITES, "cse"), "encoder": inside, "decoder": inside, "skip": "sse"}
    net = build(unit=unit, norm="batch", attention=attention, stem=(stem,) * 3).eval()
    seen = {}
    for name, gate in net.gates.items():
        gate.register_forward_hook(lambda gate, inputs, output, name=name: seen.update({name: inputs}))
    x = image(size=8 * stem)
    net(x, padded_mask(size=8 * stem, inside=5 * stem))
    assert len(seen) == len(net.gates)
    for name, gate in net.gates.items():
        if isinstance(gate, SqueezingGate):
            weighed, source, mask = seen[name]
            assert source is None
            assert mask.shape == (1, 1, *weighed.shape[2:])
            size = weighed.shape[2]
            assert mask.sum() == (-(-5 * size // 8)) ** 3
        else:
            assert len(seen[name]) == 1


def test_a_mask_of_ones_changes_nothing_and_padding_moves_no_gate():
    net = build(attention="cse").eval()
    x = image()
    torch.testing.assert_close(net(x, torch.ones(2, 1, 8, 8, 8)), net(x), rtol=1e-5, atol=1e-6)
    first = net.gate("encoder", 0)
    gates = []
    first.register_forward_hook(lambda gate, inputs, output: gates.append(gate.gate(*inputs)))
    unit = net.encoder[0][0]
    unit.norm = torch.nn.Identity()  # whose statistics see the padding
    mask = padded_mask(inside=6)
    other = x.clone()
    other[..., 7:] += 100  # beyond the reach of a 3x3x3 kernel from voxels that count
    net(x, mask)
    net(other, mask)
    net(other)
    torch.testing.assert_close(gates[0], gates[1], rtol=0, atol=1e-6)
    assert (gates[2] - gates[0]).abs().max() > 1e-3


def test_gradients_pass_a_masked_network():
    gate = {"block": "scse", "placement": "standard"}
    net = build(attention={"encoder": gate, "decoder": {"block": "cse", "squeeze": "avg+max", "placement": "standard"}})
    net(image(), padded_mask().expand(2, -1, -1, -1, -1)).square().mean().backward()
    assert all(parameter.grad is not None and parameter.grad.isfinite().all() for parameter in net.parameters())


@pytest.mark.parametrize("shape", [(1, 8, 8, 8), (2, 2, 8, 8, 8), (3, 1, 8, 8, 8), (2, 1, 8, 8, 4)])
def test_a_mask_of_another_shape_is_refused(shape):
    with pytest.raises(ValueError, match=r"mask \[.*an image \[2, 1, 8, 8, 8\] needs one of \[2, 1, 8, 8, 8\]"):
        build(attention="cse")(image(), torch.ones(shape))
