"""Blocks in MONAI's networks: which modules match, how many channels they give, and what stays as it was."""

import copy

import pytest
import torch
from monai.networks.nets.dynunet import DynUNet
from monai.networks.nets.segresnet import SegResNet
from monai.networks.nets.unet import UNet
from torch import nn

from se_med.attention import attention_class, list_attention
from se_med.attention.insertion import insert_attention

RANKS = (2, 3)
INSERTABLE = [name for name in list_attention() if attention_class(name).kind not in ("skip", "normalisation")]


def dynunet(rank):
    return DynUNet(rank, 1, 2, [3, 3, 3], [1, 2, 2], [2, 2], filters=[4, 6, 8], deep_supervision=False)


def unet(rank):
    return UNet(rank, 1, 2, channels=(4, 6, 8), strides=(2, 2), num_res_units=1)


def unet_of_sequentials(rank):
    return UNet(rank, 1, 2, channels=(4, 6, 8), strides=(2, 2), num_res_units=0)


def segresnet(rank):
    widths = {"init_filters": 4, "in_channels": 1, "out_channels": 2, "norm": ("GROUP", {"num_groups": 2})}
    return SegResNet(rank, blocks_down=(1, 1), blocks_up=(1,), **widths)


UNITS = ["model.0", "model.1.submodule.0", "model.1.submodule.1.submodule", "model.1.submodule.2.1", "model.2.1"]
NETWORKS = [
    (dynunet, "downsamples.*", ["downsamples.0"]),
    (dynunet, "upsamples.*.conv_block", ["upsamples.0.conv_block", "upsamples.1.conv_block"]),
    (unet, "**.conv.unit0", [f"{unit}.conv.unit0" for unit in UNITS]),
    (unet_of_sequentials, "model.?", ["model.0", "model.1", "model.2"]),
    (segresnet, "down_layers.*.1", ["down_layers.0.1", "down_layers.1.1"]),
    (segresnet, "up_layers.*", ["up_layers.0"]),
]
networks = pytest.mark.parametrize(("make", "pattern", "names"), NETWORKS, ids=lambda value: getattr(value, "__name__", None))


def image(rank, size=8):
    return torch.randn(2, 1, *(size,) * rank, generator=torch.Generator().manual_seed(3))


@networks
@pytest.mark.parametrize("rank", RANKS)
def test_output_of_each_matching_module_passes_through_its_own_block(make, pattern, names, rank):
    torch.manual_seed(0)
    network, x = make(rank).eval(), image(rank)
    given, taken = {}, {}
    inserted = insert_attention(network, pattern, "cse", rank, probe=x)
    assert inserted == names
    modules = dict(network.named_modules())
    blocks = [modules[f"{name}.attention"] for name in names]
    assert len({id(block) for block in blocks}) == len(names)
    for name, block in zip(names, blocks, strict=True):
        block.register_forward_hook(
            lambda module, inputs, output, name=name: given.setdefault(name, []).append((inputs[0], output))
        )
        modules[name].register_forward_hook(lambda module, inputs, output, name=name: taken.update({name: output}))
    network(x)
    for name, block in zip(names, blocks, strict=True):
        ((before, after),) = given[name]
        assert torch.equal(after, block(before))
        assert torch.equal(taken[name], after)
        assert not torch.equal(before, after)


@networks
def test_identity_start_leaves_a_trained_network_as_it_is(make, pattern, names):
    torch.manual_seed(0)
    plain, x = make(3).eval(), image(3)
    network = make(3).eval()
    insert_attention(network, pattern, "scse", 3, probe=x, identity_start=True)
    missing, unexpected = network.load_state_dict(plain.state_dict(), strict=False)
    assert not unexpected
    assert missing
    assert all(".attention." in key for key in missing)
    with torch.no_grad():
        assert torch.equal(network(x), plain(x))


@pytest.mark.parametrize("block", INSERTABLE)
def test_every_block_trains_where_it_was_put(block):
    torch.manual_seed(0)
    network, x = unet(2).train(), image(2)
    insert_attention(network, "model.0", block, 2, probe=x)
    optimizer = torch.optim.SGD(network.parameters(), lr=0.05)
    losses = []
    for _ in range(6):
        loss = network(x).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < losses[0]


def test_modules_that_say_their_width_need_no_probe():
    network = nn.Sequential(nn.Conv2d(1, 6, 3), nn.ReLU(), nn.BatchNorm2d(6), nn.GroupNorm(2, 6))
    names = [insert_attention(network, name, "sse", 2)[0] for name in ("0", "2", "3")]
    assert names == ["0", "2", "3"]
    assert network[2].attention.channels == 6
    with pytest.raises(ValueError, match="1: ReLU does not say how many channels"):
        insert_attention(network, "1", "sse", 2)


def test_a_module_under_several_names_gets_one_block():
    network, x = dynunet(3), image(3)
    inserted = insert_attention(network, "**.downsample", "cse", 3, probe=x)
    assert inserted == ["skip_layers.downsample", "skip_layers.next_layer.downsample"]
    assert network.downsamples[0].attention is network.skip_layers.next_layer.downsample.attention
    with pytest.raises(ValueError, match=r"downsamples\.0: the module has a part named 'attention' already"):
        insert_attention(network, "downsamples.0", "cse", 3, probe=x)


def test_a_copy_has_blocks_of_its_own():
    torch.manual_seed(0)
    network, x = dynunet(3).eval(), image(3)
    insert_attention(network, "downsamples.*", "cse", 3, probe=x)
    other, expected = copy.deepcopy(network), network(x)
    with torch.no_grad():
        for parameter in network.downsamples[0].attention.parameters():
            parameter.fill_(3.0)
    assert torch.equal(other(x), expected)
    assert not torch.equal(network(x), expected)


def test_a_network_with_blocks_can_be_exported():
    torch.manual_seed(0)
    network, x = unet(3).eval(), image(3)
    insert_attention(network, "model.0", "cse", 3, probe=x)
    exported = torch.export.export(network, (x,)).module()
    other = image(3) * 2 + 1
    assert (exported(other) - network(other)).abs().max() < 1e-5


def test_blocks_take_number_format_and_mode_of_the_network():
    network = unet(2).double().eval()
    insert_attention(network, "model.0", "cse", 2, probe=image(2).double())
    assert network.model[0].attention.fc1.weight.dtype == torch.float64
    assert not network.model[0].attention.training


def test_the_probe_leaves_the_network_as_it_was():
    network = nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.Sequential(nn.Conv2d(4, 4, 1), nn.Dropout(0.5)))
    network[2].eval()
    before = copy.deepcopy(network.state_dict())
    insert_attention(network, "2", "cse", 2, probe=image(2))
    assert [module.training for module in (network, network[1], network[2])] == [True, True, False]
    after = network.state_dict()
    assert all(torch.equal(after[key], value) for key, value in before.items())
    assert not network[1]._forward_hooks


@pytest.mark.parametrize(
    ("pattern", "block", "message"),
    [
        ("downsample.*", "cse", r"no module matches 'downsample\.\*'; near it are .*downsamples"),
        ("conv1", "cse", "no module matches"),
        ("downsamples", "cse", "downsamples: the probe does not pass through"),
        ("downsamples.0", "attention_gate", "needs a second input"),
        ("downsamples.0", "se_norm", "takes the place of a norm"),
        ("downsamples.0", "csee", "did you mean 'cse'"),
        ("downsamples.0.norm1", "cse", "right behind an instance norm"),
        ("downsamples.0.norm1", "scse", "right behind an instance norm"),
    ],
)
def test_what_cannot_be_done_is_refused_and_changes_nothing(pattern, block, message):
    network = dynunet(3)
    keys = set(network.state_dict())
    with pytest.raises(ValueError, match=message):
        insert_attention(network, pattern, block, 3, probe=image(3))
    assert set(network.state_dict()) == keys


def test_maximum_and_voxels_are_free_behind_an_instance_norm():
    network = dynunet(3)
    insert_attention(network, "downsamples.0.norm1", "cse", 3, squeeze="max")
    insert_attention(network, "downsamples.0.norm2", "sse", 3)
    gates = [network.downsamples[0].norm1.attention.gate, network.downsamples[0].norm2.attention.gate]
    images = torch.group_norm(torch.rand(2, 6, 4, 4, 4).pow(torch.tensor([1.0, 4.0]).reshape(2, 1, 1, 1, 1)), 6)
    assert all((gate(images)[0] - gate(images)[1]).abs().max() > 1e-4 for gate in gates)


def test_maps_of_another_rank_are_refused():
    network = nn.Sequential(nn.Conv2d(1, 4, 3), nn.Flatten(2))
    with pytest.raises(ValueError, match=r"1: gives \[2, 4, 36\], not a map \(B, C, X, Y\)"):
        insert_attention(network, "1", "cse", 2, probe=image(2))
