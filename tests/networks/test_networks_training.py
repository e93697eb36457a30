"""A few steps of gradient descent lower the loss, whatever the block, rank and unit."""

import pytest
import torch
import torch.nn.functional as F
from network_cases import build, image

from se_med.attention import attention_class, list_attention
from se_med.networks.placement import sites_of
from se_med.networks.units import UNITS

CASES = [
    # All units with a few blocks and one unit with all blocks; the other combinations take half a minute.
    pytest.param(block, unit, marks=() if unit == "plain" or block in (None, "cse", "se_norm") else pytest.mark.slow)
    for block in (None, *list_attention())
    for unit in UNITS
]


@pytest.mark.parametrize("rank", [2, 3])
@pytest.mark.parametrize(("block", "unit"), CASES)
def test_a_few_steps_lower_the_loss(block, rank, unit):
    if block is not None and rank not in attention_class(block).ranks:
        pytest.skip("the block is not defined in this rank")
    sites = sites_of(block) if block and sites_of(block) == ("skip",) else ("encoder", "decoder")
    net = build(rank, attention=block and dict.fromkeys(sites, block), unit=unit, num_classes=2, features=(4, 6))
    x = image(rank, size=8 if rank == 2 else 4)
    target = (F.avg_pool2d(x, 3, 1, 1) if rank == 2 else F.avg_pool3d(x, 3, 1, 1))[:, 0].gt(0).long()
    optimizer = torch.optim.SGD(net.parameters(), lr=0.2, momentum=0.9)
    losses = []
    for _ in range(8):
        loss = F.cross_entropy(net(x), target)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.95 * losses[0]
    for gate in net.gates.values():
        gradients = [parameter.grad for parameter in gate.parameters()]
        assert all(gradient is not None and torch.isfinite(gradient).all() for gradient in gradients)
        assert not gradients or any(gradient.any() for gradient in gradients)
