"""Learning rate, weight decay groups and weight average."""

import pytest
import torch
from torch import nn

from se_med.config.training import TrainingConfig
from se_med.training.optimisation import build_average, build_optimizer, learning_rate


def small_network() -> nn.Module:
    return nn.Sequential(nn.Conv3d(1, 4, 3, bias=True), nn.InstanceNorm3d(4, affine=True), nn.Conv3d(4, 2, 1))


@pytest.mark.parametrize("steps", [20, 137, 1000])
def test_one_cycle_is_torchs(steps):
    training = TrainingConfig(steps=steps, warmup=0.3, learning_rate=0.01, final_rate=0)
    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=1)
    # torch ends its warm-up at 0.3 * steps - 1 and its fall at steps - 1: one step earlier than a count of made steps.
    scheduler = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, 0.01, total_steps=steps + 1, pct_start=(0.3 * steps + 1) / (steps + 1)
    )
    for step in range(steps):
        assert learning_rate(step / steps, training) == pytest.approx(optimizer.param_groups[0]["lr"], rel=0.02, abs=1e-6)
        optimizer.step()
        scheduler.step()


@pytest.mark.parametrize("schedule", ["one_cycle", "cosine", "polynomial", "constant"])
def test_every_schedule_rises_to_the_top_and_never_above(schedule):
    training = TrainingConfig(steps=200, schedule=schedule, learning_rate=0.02, warmup=0.1, final_rate=0)
    rates = [learning_rate(step / 200, training) for step in range(200)]
    assert max(rates) == pytest.approx(0.02)
    assert rates[0] < 0.1 * max(rates)
    assert rates[:20] == sorted(rates[:20])
    if schedule != "constant":
        assert rates[20:] == sorted(rates[20:], reverse=True)
        assert rates[-1] < 0.02 * max(rates)


@pytest.mark.parametrize("schedule", ["one_cycle", "cosine", "polynomial"])
def test_a_schedule_ends_at_its_final_rate(schedule):
    training = TrainingConfig(steps=200, schedule=schedule, learning_rate=0.02, final_rate=0.3)
    rates = [learning_rate(step / 200, training) for step in range(200)]
    assert max(rates) == pytest.approx(0.02)
    assert rates[20:] == sorted(rates[20:], reverse=True)
    assert rates[-1] == pytest.approx(0.006, rel=0.05)
    assert rates[-1] >= 0.006


def test_norms_and_biases_are_not_decayed():
    network = small_network()
    optimizer = build_optimizer(network, TrainingConfig(weight_decay=0.1))
    decay = {id(p): group["weight_decay"] for group in optimizer.param_groups for p in group["params"]}
    for module in network:
        for name, parameter in module.named_parameters():
            convolution_weight = isinstance(module, nn.Conv3d) and name == "weight"
            assert decay[id(parameter)] == (0.1 if convolution_weight else 0.0)
    assert len(decay) == len(list(network.parameters()))


def test_average_follows_its_recurrence_and_forgets_the_start():
    network = nn.Linear(3, 1, bias=False)
    average = build_average(network, decay=0.9)
    expected = network.weight.detach().clone().double()
    generator = torch.Generator().manual_seed(0)
    for count in range(30):
        with torch.no_grad():
            network.weight.copy_(torch.randn(1, 3, generator=generator))
        average.update_parameters(network)
        if count == 0:
            expected = network.weight.detach().clone().double()
        else:
            decay = min(0.9, (1 + count) / (10 + count))
            expected = decay * expected + (1 - decay) * network.weight.detach().double()
    assert torch.allclose(average.module.weight.double(), expected, atol=1e-6)


def test_average_of_batch_norm_counts_batches():
    network = nn.BatchNorm1d(2)
    average = build_average(network, decay=0.9)
    for _ in range(3):
        network(torch.randn(8, 2))
        average.update_parameters(network)
    assert int(average.module.num_batches_tracked) == 3
    assert torch.isfinite(average.module.running_var).all()
