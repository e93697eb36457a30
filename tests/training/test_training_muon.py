"""Muon: orthogonal updates of convolutions, AdamW for everything else, exact resuming."""

import io

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from se_med.config.attention import AttentionConfig
from se_med.config.network import NetworkConfig
from se_med.config.training import TrainingConfig
from se_med.networks.build import build_network
from se_med.training.muon import ITERATIONS, QUINTIC, Muon, orthogonalise
from se_med.training.optimisation import build_optimizer


def drawn(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def scse_network(seed: int = 0) -> nn.Module:
    network = NetworkConfig(
        spatial_dims=3,
        features=(4, 8),
        strides=((2, 2, 2),),
        kernels=((3, 3, 3), (3, 3, 3)),
        stem=(1, 1, 1),
        deep_supervision=(1,),
    )
    return build_network(network, AttentionConfig.model_validate("scse"), in_channels=1, num_classes=2, seed=seed)


def by_its_definition(matrix: torch.Tensor) -> torch.Tensor:
    a, b, c = QUINTIC
    x = matrix.double()
    x = x / x.norm()
    for _ in range(ITERATIONS):
        gram = x @ x.T
        x = a * x + (b * gram + c * gram @ gram) @ x
    return x


@given(shapes=st.lists(st.tuples(st.integers(1, 24), st.integers(1, 60)), min_size=1, max_size=5), seed=st.integers(0, 2**31))
def test_orthogonalise_is_the_newton_schulz_iteration(shapes, seed):
    matrices = [drawn(*shape, seed=seed + index) * 10.0 ** (index - 2) for index, shape in enumerate(shapes)]
    for matrix, found in zip(matrices, orthogonalise(matrices), strict=True):
        assert found.shape == matrix.shape
        assert torch.allclose(found.double(), by_its_definition(matrix), atol=2e-3)


@pytest.mark.parametrize("shape", [(32, 864), (64, 256), (200, 16)])
def test_singular_values_become_about_one(shape):
    matrix = drawn(*shape)
    (found,) = orthogonalise([matrix])
    values = torch.linalg.svdvals(found.double())
    assert values.min() > 0.6
    assert values.max() < 1.3
    u, _, v = torch.linalg.svd(matrix.double(), full_matrices=False)
    seen = u.T @ found.double() @ v.T
    assert (seen - torch.diag(seen.diagonal())).abs().max() < 1e-3


def test_a_matrix_of_zeros_stays_one():
    assert torch.equal(orthogonalise([torch.zeros(3, 5)])[0], torch.zeros(3, 5))


def test_steps_are_those_of_torchs_muon():
    """Which knows matrices alone and iterates in bfloat16."""
    weight = nn.Parameter(drawn(16, 8, 3, 3, 3) * 0.1)
    matrix = nn.Parameter(weight.detach().flatten(1).clone())
    ours = Muon([weight], [], lr=0.02, share=0.5, momentum=0.9, weight_decay=0.1)
    theirs = torch.optim.Muon([matrix], lr=0.01, momentum=0.9, weight_decay=0.1, adjust_lr_fn="match_rms_adamw")
    for step in range(4):
        before = weight.detach().clone()
        weight.grad = drawn(16, 8, 3, 3, 3, seed=step + 1)
        matrix.grad = weight.grad.flatten(1).clone()
        ours.step()
        theirs.step()
        apart = (weight.detach().flatten(1) - matrix.detach()).norm()
        assert apart < 0.05 * (weight.detach() - before).norm() * (step + 1)


def test_layout_in_memory_changes_nothing():
    start, gradient = drawn(8, 6, 3, 3, 3), drawn(8, 6, 3, 3, 3, seed=1)
    ends = []
    for layout in (torch.contiguous_format, torch.channels_last_3d):
        weight = nn.Parameter(start.clone(memory_format=layout))
        weight.grad = gradient.clone(memory_format=layout)
        Muon([weight], [], lr=0.02, share=1, momentum=0.9, weight_decay=0).step()
        ends.append(weight.detach())
    assert torch.allclose(*ends, atol=1e-6)


def test_everything_else_is_trained_by_adamw():
    ours = [nn.Parameter(drawn(4, 3)), nn.Parameter(drawn(5))]
    theirs = [nn.Parameter(parameter.detach().clone()) for parameter in ours]
    groups = [[{"params": [some[0]], "weight_decay": 0.1}, {"params": [some[1]], "weight_decay": 0.0}] for some in (ours, theirs)]
    first = Muon([], groups[0], lr=0.01, share=1, momentum=0.9, weight_decay=0.1)
    second = torch.optim.AdamW(groups[1], lr=0.01, fused=True)
    for step in range(5):
        for mine, other in zip(ours, theirs, strict=True):
            mine.grad = drawn(*mine.shape, seed=step)
            other.grad = mine.grad.clone()
        first.step()
        second.step()
    assert all(torch.equal(mine, other) for mine, other in zip(ours, theirs, strict=True))


def test_convolutions_between_others_are_muons_and_nothing_else_is():
    network = scse_network()
    optimizer = build_optimizer(network, TrainingConfig(optimizer="muon", weight_decay=0.1))
    names = {id(parameter): name for name, parameter in network.named_parameters()}
    matrices = {names[id(p)] for group in optimizer.param_groups if group["momentum"] is not None for p in group["params"]}
    assert matrices == {
        name
        for name, parameter in network.named_parameters()
        if name.startswith(("encoder.", "upsample.", "decoder.")) and parameter.ndim == 5
    }
    assert any(name.startswith("gates.") for name in names.values())
    decay = {names[id(p)]: group["weight_decay"] for group in optimizer.param_groups for p in group["params"]}
    assert set(decay) == set(names.values())
    assert all(decay[name] == (0.1 if parameter.ndim > 1 else 0) for name, parameter in network.named_parameters())


def test_frozen_parameters_are_left_out():
    network = scse_network()
    network.encoder.requires_grad_(False)
    optimizer = build_optimizer(network, TrainingConfig(optimizer="muon"))
    trained = {id(p) for group in optimizer.param_groups for p in group["params"]}
    assert trained == {id(p) for p in network.parameters() if p.requires_grad}


def test_momentum_and_rates_are_those_of_the_configuration():
    optimizer = build_optimizer(scse_network(), TrainingConfig(optimizer="muon", learning_rate=0.002, muon_rate=0.05))
    first, *others = optimizer.param_groups
    assert first["momentum"] == 0.95
    assert first["lr"] * first["share"] == pytest.approx(0.05)
    assert all(group["lr"] * group["share"] == pytest.approx(0.002) for group in others)
    first, *_ = build_optimizer(scse_network(), TrainingConfig(learning_rate=0.002)).param_groups
    assert first["lr"] * first["share"] == pytest.approx(0.005)  # Muon is the default, and its rate follows the other one
    optimizer = build_optimizer(scse_network(), TrainingConfig(optimizer="muon", momentum=0.8))
    assert optimizer.param_groups[0]["momentum"] == 0.8


def test_state_comes_back_bit_for_bit():
    image = drawn(2, 1, 8, 8, 8)
    target = (image[:, 0] > 0).long()

    def steps(network, optimizer, count):
        for _ in range(count):
            optimizer.zero_grad()
            F.cross_entropy(network(image)[0], target).backward()
            optimizer.step()

    config = TrainingConfig(optimizer="muon")
    whole = scse_network()
    optimizer = build_optimizer(whole, config)
    steps(whole, optimizer, 3)
    file = io.BytesIO()
    torch.save({"network": whole.state_dict(), "optimizer": optimizer.state_dict()}, file)
    steps(whole, optimizer, 3)
    file.seek(0)
    stored = torch.load(file, weights_only=True)
    resumed = scse_network(seed=1)
    resumed.load_state_dict(stored["network"])
    optimizer = build_optimizer(resumed, config)
    optimizer.load_state_dict(stored["optimizer"])
    steps(resumed, optimizer, 3)
    assert all(torch.equal(a, b) for a, b in zip(whole.parameters(), resumed.parameters(), strict=True))
