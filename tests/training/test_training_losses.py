"""Class weights and voxels without a reference, against sums written out by hand."""

import pytest
import torch
from monai.losses.dice import DiceCELoss, GeneralizedDiceFocalLoss
from monai.losses.tversky import TverskyLoss
from tiny_plan import tiny_plan

from se_med.config.training import TrainingConfig
from se_med.data.preparation import IGNORED
from se_med.training.losses import KnownVoxels, build_loss

SMOOTH = 1e-5


def sample(classes=3, size=6, seed=0, batch=2):
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randn(batch, classes, size, size, size, generator=generator, dtype=torch.float64)
    return logits, torch.randint(classes, (batch, 1, size, size, size), generator=generator)


def dice_by_structure(logits, target, axes):
    """1 - Dice of each structure, background left out."""
    probabilities = logits.softmax(1)[:, 1:]
    one_hot = torch.nn.functional.one_hot(target[:, 0], logits.shape[1]).movedim(-1, 1)[:, 1:].double()
    overlap = (probabilities * one_hot).sum(axes)
    return 1 - (2 * overlap + SMOOTH) / (probabilities.sum(axes) + one_hot.sum(axes) + SMOOTH)


def focal(logits, target):
    """Focal loss of each voxel and structure, gamma 2."""
    x = logits[:, 1:]
    y = torch.nn.functional.one_hot(target[:, 0], logits.shape[1]).movedim(-1, 1)[:, 1:].double()
    p = x.sigmoid()
    return -(y * (1 - p) ** 2 * p.log() + (1 - y) * p**2 * (1 - p).log())


@pytest.mark.parametrize("loss", ["dice_ce", "dice_focal", "generalised_dice"])
def test_weights_act_where_the_description_says(loss):
    logits, target = sample()
    weights = torch.tensor([0.2, 3.0, 0.7], dtype=torch.float64)
    found = build_loss(TrainingConfig(loss=loss), None, tiny_plan(class_weights=(0.2, 3.0, 0.7)))(logits, target)
    structures = (dice_by_structure(logits, target, (0, 2, 3, 4)) * weights[1:]).mean()
    by_focal = (focal(logits, target) * weights[1:].view(1, 2, 1, 1, 1)).mean()
    if loss == "dice_ce":
        voxels = -torch.log_softmax(logits, 1).gather(1, target)
        expected = structures + (weights[target] * voxels).sum() / weights[target].sum()
    elif loss == "dice_focal":
        expected = structures + by_focal
    else:
        plain = build_loss(TrainingConfig(loss=loss))(logits, target)
        expected = plain.double() - focal(logits, target).mean() + by_focal
    assert float(found) == pytest.approx(float(expected), rel=1e-5)


@pytest.mark.parametrize("loss", ["dice_ce", "dice_focal", "generalised_dice"])
def test_weights_of_a_single_structure(loss):
    logits, target = sample(classes=2)
    plan = tiny_plan(labels={"a": 1}, class_weights=(1.0, 4.0))
    plain = build_loss(TrainingConfig(loss=loss))(logits, target)
    weighted = build_loss(TrainingConfig(loss=loss), None, plan)(logits, target)
    assert torch.isfinite(weighted)
    assert abs(float(weighted - plain)) > 1e-3


def known_only(logits, target, known):
    """The voxels of one sample that are known, in a new order."""
    order = torch.randperm(int(known.sum()), generator=torch.Generator().manual_seed(1))
    return logits[:, known[0]][:, order][None], target[:, known[0]][:, order][None]


@pytest.mark.parametrize("make", [DiceCELoss, TverskyLoss])
def test_loss_is_that_of_the_other_voxels_alone(make):
    """In float64, and its gradient is zero at every voxel without a reference."""
    logits, target = sample(batch=1)
    logits.requires_grad_()
    known = torch.rand(target[:, 0].shape, generator=torch.Generator().manual_seed(2)) > 0.4
    marked = target.masked_fill(~known[:, None], IGNORED)
    term = make(softmax=True, to_onehot_y=True, include_background=False, batch=True)
    found = KnownVoxels(term, per_sample=False)(logits, marked)
    flat, flat_target = known_only(logits[0], target[0], known)
    assert found.item() == pytest.approx(term(flat, flat_target).item(), rel=1e-13)
    found.backward()
    moved = logits.grad.abs().sum(1)
    assert torch.all(moved[~known] == 0)
    assert torch.all(moved[known] > 0)


def test_loss_of_each_sample_is_that_of_its_own_voxels():
    logits, target = sample(batch=3)
    marked = target.clone()
    marked[0, 0, :2] = IGNORED
    marked[2] = IGNORED
    term = GeneralizedDiceFocalLoss(softmax=True, to_onehot_y=True, include_background=False)
    found = KnownVoxels(term, per_sample=True)(logits, marked)
    parts = [term(logits[:1, :, 2:], target[:1, :, 2:]), term(logits[1:2], target[1:2])]
    assert float(found) == pytest.approx(float(sum(parts) / 2), rel=1e-6)


@pytest.mark.parametrize("loss", ["dice_ce", "dice_focal", "generalised_dice", "tversky"])
def test_whole_loss_does_not_see_ignored_voxels(loss):
    """With deep supervision: what the network says at such voxels and their neighbours' nearest copies changes nothing."""
    built = build_loss(TrainingConfig(loss=loss), (1, 0.5), tiny_plan(ignore_label=9))
    logits, target = sample(size=8)
    coarse = sample(size=4, seed=3)[0]
    target[:, :, :4] = IGNORED
    other, other_coarse = logits.clone(), coarse.clone()
    other[:, :, :4] += torch.randn_like(other[:, :, :4])
    other_coarse[:, :, :2] -= 5
    assert torch.equal(built([logits, coarse], target), built([other, other_coarse], target))
    assert not torch.equal(built([logits, coarse], target), built([logits + torch.randn_like(logits), coarse], target))
    unmarked = sample(size=8)[1]
    plain = build_loss(TrainingConfig(loss=loss), (1, 0.5))
    assert torch.equal(built([logits, coarse], unmarked), plain([logits, coarse], unmarked))


@pytest.mark.parametrize("loss", ["dice_ce", "generalised_dice"])
def test_batch_without_any_reference_has_no_loss_and_no_gradient(loss):
    logits, target = sample()
    logits.requires_grad_()
    found = build_loss(TrainingConfig(loss=loss), None, tiny_plan(ignore_label=9))(logits, torch.full_like(target, IGNORED))
    found.backward()
    assert found.item() == 0
    assert torch.all(logits.grad == 0)
