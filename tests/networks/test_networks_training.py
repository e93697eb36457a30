"""A few steps of gradient descent lower the loss, whatever the block, rank and unit."""

import pytest
import torch
import torch.nn.functional as F
from network_cases import build, image

from se_med.attention import attention_class, list_attention


@pytest.mark.parametrize("unit", ["plain", "residual"])
@pytest.mark.parametrize("rank", [2, 3])
@pytest.mark.parametrize("block", [None, *list_attention()])
def test_a_few_steps_lower_the_loss(block, rank, unit):
    if block is not None and rank not in attention_class(block).ranks:
        pytest.skip("the block is not defined in this rank")
    net = build(rank, attention=block, unit=unit, num_classes=2)
    x = image(rank)
    target = (F.avg_pool2d(x, 3, 1, 1) if rank == 2 else F.avg_pool3d(x, 3, 1, 1))[:, 0].gt(0).long()
    optimizer = torch.optim.SGD(net.parameters(), lr=0.05, momentum=0.9)
    losses = []
    for _ in range(8):
        loss = F.cross_entropy(net(x), target)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.9 * losses[0]
    assert all(parameter.grad.abs().max() > 0 for name, parameter in net.named_parameters() if "gates" in name)
