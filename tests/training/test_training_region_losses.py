"""Losses of regions, against sums written out by hand; nowhere a softmax."""

import pytest
import torch
from tiny_plan import tiny_plan

from se_med.config.training import TrainingConfig
from se_med.data.preparation import IGNORED
from se_med.data.structures import regions_of
from se_med.training.losses import build_loss

SMOOTH = 1e-5
LOSSES = ["dice_ce", "dice_focal", "generalised_dice", "tversky"]
BRATS = regions_of({"whole": [1, 2, 3], "core": [1, 3], "enhancing": 3})


def plan_of(structures=BRATS, **changes):
    return tiny_plan(labels=structures.labels, values=structures.values, regions=True, **changes)


def sample(outputs=3, classes=4, size=6, seed=0):
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randn(2, outputs, size, size, size, generator=generator)
    return logits, torch.randint(classes, (2, 1, size, size, size), generator=generator)


def inside(target):
    """Which region each voxel of classes 0 to 3 (the values) is in, (B, 3, *S)."""
    value = target[:, 0]
    return torch.stack([value > 0, (value == 1) | (value == 3), value == 3], 1).double()


def by_hand(logits, target, weights=(1.0, 1.0, 1.0)):
    x, y, w = logits.double(), inside(target), torch.tensor(weights, dtype=torch.float64)
    p = x.sigmoid()
    axes = (0, 2, 3, 4)
    dice = 1 - (2 * (p * y).sum(axes) + SMOOTH) / (p.sum(axes) + y.sum(axes) + SMOOTH)
    entropy = -(y * p.log() + (1 - y) * (1 - p).log())
    return float((dice * w).mean() + (entropy * w.view(1, 3, 1, 1, 1)).mean())


def test_dice_and_binary_cross_entropy():
    logits, target = sample()
    loss = build_loss(TrainingConfig(), None, plan_of())
    assert float(loss(logits, target)) == pytest.approx(by_hand(logits, target), rel=1e-5)
    weighted = build_loss(TrainingConfig(), None, plan_of(class_weights=(0.5, 2.0, 3.0)))
    assert float(weighted(logits, target)) == pytest.approx(by_hand(logits, target, (0.5, 2.0, 3.0)), rel=1e-5)


@pytest.mark.parametrize("loss", LOSSES)
def test_outputs_do_not_compete(loss):
    """The gradient of one region does not depend on the logits of another, as it would by a softmax."""
    logits, target = sample()
    other = logits.clone()
    other[:, 2] += 5
    gradients = []
    for values in (logits, other):
        values = values.clone().requires_grad_()
        build_loss(TrainingConfig(loss=loss), None, plan_of())(values, target).backward()
        gradients.append(values.grad[:, :2])
    if loss == "generalised_dice":  # its Dice is one fraction of all regions; the focal term, which is the rest, is not
        assert torch.isfinite(gradients[0]).all()
    else:
        assert torch.allclose(*gradients, atol=1e-9)
    perfect = 60 * inside(target).float() - 30
    assert float(build_loss(TrainingConfig(loss=loss), None, plan_of())(perfect, target)) == pytest.approx(0, abs=1e-4)


@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("dims", [2, 3])
def test_voxels_without_reference_are_left_out(loss, dims):
    logits, target = sample()
    logits, target = (logits, target) if dims == 3 else (logits[..., 0], target[..., 0])
    term = build_loss(TrainingConfig(loss=loss), None, plan_of(ignore_label=9))
    marked = target.clone()
    marked[:, :, 4:] = IGNORED
    changed = logits.clone()
    changed[:, :, 4:] = 7
    known = build_loss(TrainingConfig(loss=loss), None, plan_of())(logits[:, :, :4], target[:, :, :4])
    assert float(term(changed, marked)) == pytest.approx(float(known), rel=1e-5)
    assert float(term(logits, torch.full_like(target, IGNORED))) == 0


def test_deep_supervision_takes_classes_to_lower_resolutions():
    logits, target = sample(size=8)
    low = torch.nn.functional.avg_pool3d(logits, 2)
    loss = build_loss(TrainingConfig(), [1.0, 0.5], plan_of())
    expected = (by_hand(logits, target) + 0.5 * by_hand(low, target[..., ::2, ::2, ::2])) / 1.5
    assert float(loss([logits, low], target)) == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.filterwarnings("error")
def test_a_single_region(loss):
    plan = plan_of(regions_of({"all": [1, 2]}), class_weights=None if loss == "tversky" else (2.0,))
    logits, target = sample(outputs=1, classes=2)
    found = build_loss(TrainingConfig(loss=loss), None, plan)(logits, target)
    assert torch.isfinite(found)
    assert found > 0
