"""How the outputs of a network become classes and labels."""

from itertools import product

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from prepared_samples import plan_of, volume

from se_med.data.preparation import Preparation
from se_med.data.structures import regions_of
from se_med.data.targets import Exclusive, Regions, class_table, make_target

BRATS = {"whole": [1, 2, 3], "core": [1, 3], "enhancing": 3}


def region_plan(regions, written=None, **changes):
    structures = regions_of(regions, written)
    return plan_of(labels=structures.labels, values=structures.values, regions=True, **changes)


@st.composite
def nested_regions(draw):
    """Regions of which each holds the next, over shuffled values, in any order."""
    values = draw(st.permutations(range(1, 9)))
    sizes = sorted(draw(st.sets(st.integers(1, 8), min_size=1, max_size=5)), reverse=True)
    regions = {f"r{size}": list(values[:size]) for size in sizes}
    return dict(draw(st.permutations(list(regions.items()))))


def masks_of(labels, regions):
    return {name: np.isin(labels, entry) for name, entry in regions.items()}


@settings(max_examples=30, deadline=None)
@given(nested_regions(), st.integers(0, 1000))
def test_prediction_to_label_to_regions_is_a_round_trip_of_nested_regions(regions, seed):
    plan = region_plan(regions)
    generator = np.random.default_rng(seed)
    inside = generator.integers(0, len(regions) + 1, (5, 4, 3))  # how many of the nested regions a voxel is in
    logits = torch.stack([torch.from_numpy(np.where(inside > rank, 1.0, -1.0)) for rank in range(len(regions))]).float()
    logits *= torch.from_numpy(generator.uniform(0.1, 5, logits.shape)).float()
    preparation = Preparation(plan)
    prepared = preparation.forward(volume(np.ones(inside.shape), np.eye(4)))
    labels = preparation.restore(logits, prepared)
    for (name, values), output in zip(plan.structures.values.items(), logits, strict=True):
        assert np.array_equal(np.isin(labels, values), output.numpy() > 0), name
    # And the label is what a reference would have: its prepared classes are those that were chosen.
    again = preparation.forward_label(volume(labels, np.eye(4)), prepared)
    assert np.array_equal(np.array(plan.label_values)[again], labels)


@pytest.mark.parametrize(
    "regions", [BRATS, {"a": [1, 2], "b": [2, 3]}, {"a": [1, 4], "b": [2, 4], "c": [3, 4]}, {"only": [1, 2]}]
)
def test_references_survive_the_way_to_regions_and_back(regions):
    plan = region_plan(regions)
    labels = np.random.default_rng(0).integers(0, 5, (6, 5, 4)).astype(np.uint8)
    labels[~np.isin(labels, [value for entry in plan.values.values() for value in entry])] = 0
    preparation = Preparation(plan)
    prepared = preparation.forward(volume(np.ones(labels.shape), np.eye(4)))
    classes = preparation.forward_label(volume(labels, np.eye(4)), prepared)
    outputs = torch.from_numpy(plan.structures.membership[classes]).movedim(-1, 0).float() - 0.5
    found = preparation.restore(outputs, prepared)
    assert all(np.array_equal(np.isin(found, values), np.isin(labels, values)) for values in plan.values.values())


def test_combination_that_no_value_expresses_is_the_last_region_that_is_in_it():
    table = class_table(region_plan(BRATS).structures).tolist()
    by_value = {
        combination: table[sum(bit << k for k, bit in enumerate(combination))] for combination in product((0, 1), repeat=3)
    }
    # whole, core, enhancing; the classes are the values 1, 2 and 3
    assert by_value == {
        (0, 0, 0): 0,
        (1, 0, 0): 2,
        (1, 1, 0): 1,
        (0, 1, 0): 1,
        (1, 1, 1): 3,
        (0, 0, 1): 3,
        (1, 0, 1): 3,
        (0, 1, 1): 3,
    }
    kits = region_plan({"kidney": [1, 2, 3], "masses": [2, 3], "tumor": 2}, {"kidney": 1, "masses": 3, "tumor": 2})
    written = np.array(kits.label_values)[class_table(kits.structures)]
    assert written.tolist() == [0, 1, 3, 3, 2, 2, 2, 2]


@given(st.integers(1, 6), st.integers(0, 1000))
def test_exclusive_is_the_argmax(classes, seed):
    logits = torch.randint(-3, 4, (classes, 3, 4, 5), generator=torch.Generator().manual_seed(seed)).float()
    kept = logits.clone()
    assert torch.equal(Exclusive().choose(iter(logits)).long(), torch.from_numpy(logits.numpy().argmax(0)))
    assert torch.equal(logits, kept)


@pytest.mark.parametrize("target", [Exclusive(), Regions(regions_of(BRATS))])
def test_mean_of_probabilities_as_logits(target):
    passes = 5 * torch.randn(4, 3, 6, 5, 4, generator=torch.Generator().manual_seed(0))
    mean = torch.stack([target.probabilities(logits) for logits in passes]).mean(0)
    logits = target.to_logits_(mean.clone())
    assert torch.allclose(target.probabilities(logits), mean, atol=1e-6)
    extreme = target.to_logits_(torch.tensor([0.0, 1.0]))
    assert torch.isfinite(extreme).all()
    assert extreme[0] < 0 <= extreme[1]


def test_regions_know_no_softmax():
    target = make_target(region_plan(BRATS))
    probabilities = target.probabilities(torch.full((3, 2, 2, 2), 3.0))
    assert torch.allclose(probabilities, torch.tensor(3.0).sigmoid())


def test_resampled_regions_are_each_what_it_would_be_alone():
    """A nested region comes back as a structure of its own would, whose logit is compared with that of a background."""
    plan = region_plan(BRATS)
    distance = np.linalg.norm(np.indices((16, 15, 11)).T - 6.5, axis=-1).T
    affine = np.diag([-0.7, 0.8, 1.3, 1.0])
    preparation = Preparation(plan)
    prepared = preparation.forward(volume(distance.astype(np.float32), affine))
    levels = np.quantile(prepared.array, [0.5, 0.3, 0.1])
    outputs = torch.stack([torch.from_numpy(level - prepared.array[0]) for level in levels]).float()
    found = preparation.restore(outputs, prepared)
    for output, values in zip(outputs, plan.values.values(), strict=True):
        alone = Preparation(plan_of(labels={"one": 1}))
        expected = alone.restore(torch.stack([torch.zeros_like(output), output]), prepared)
        assert 0 < expected.mean() < 1
        assert np.array_equal(np.isin(found, values), expected == 1)
