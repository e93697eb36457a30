from __future__ import annotations

import data_sets
import numpy as np
import pytest

from se_med.data.symmetry import choose_flips, find_sides


def two_organs(steps: list[tuple[float, float, float]]) -> list[dict[int, tuple[float, float, float]]]:
    """Centres of organ 1 at (50, 50, 50) and organ 2 a step away, one case per step."""
    return [{1: (50.0, 50.0, 50.0), 2: (50 + x, 50 + y, 50 + z)} for x, y, z in steps]


def flips(centroids: list[dict[int, tuple[float, float, float]]], labels: dict[str, int], axes: tuple[int, ...] = (0, 1, 2)):
    return choose_flips(data_sets.fingerprint(labels=labels, centroids=centroids), axes)


PAIR = {"head": 1, "tail": 2}


def test_an_axis_with_a_consistent_order_is_not_flipped():
    steps = [(5.0 if number % 2 else -5.0, -8.0, 6.0 if number % 3 else -6.0) for number in range(20)]
    allowed, reason = flips(two_organs(steps), PAIR)
    assert allowed == (0, 2)
    assert "not posterior-anterior (head and tail in the same order in 100% of 20 cases)" in reason


@pytest.mark.parametrize(("ordered", "allowed"), [(14, True), (15, True), (16, False), (20, False)])
def test_the_threshold_is_four_cases_of_five(ordered, allowed):
    steps = [(5.0 if number < ordered else -5.0, 0.0, 0.0) for number in range(20)]
    assert (0 in flips(two_organs(steps), PAIR)[0]) is allowed


def test_centres_in_the_same_place_have_no_order():
    """A shell around a core is not on any side of it, however consistent a tiny offset is."""
    assert flips(two_organs([(0.4, 0.4, 0.4)] * 20), PAIR)[0] == (0, 1, 2)


def test_the_distance_is_measured_in_voxels():
    coarse = data_sets.fingerprint(labels=PAIR, spacing=(10.0, 1.0, 1.0), centroids=two_organs([(4.0, 4.0, 0.0)] * 9))
    assert choose_flips(coarse, (0, 1, 2))[0] == (0, 2)


def test_one_consistent_pair_of_many_is_enough():
    rng = np.random.default_rng(0)
    centroids = [{1: (20.0, 50.0, 50.0), 2: (80.0, 50.0, 50.0), 3: tuple(rng.uniform(0, 100, 3))} for _ in range(30)]
    assert flips(centroids, {"left": 1, "right": 2, "lesion": 3})[0] == (1, 2)


def test_a_single_structure_allows_all_axes():
    allowed, reason = flips([{1: (10.0, 50.0, 50.0)}] * 10, {"organ": 1})
    assert (allowed, "single structure" in reason) == ((0, 1, 2), True)


def test_a_declared_structure_that_never_occurs_is_no_second_one():
    assert flips([{1: (10.0, 50.0, 50.0)}] * 10, PAIR)[0] == (0, 1, 2)


def test_structures_that_never_meet_forbid_all_flips():
    """Left and right of an organ, one per volume: a flip would turn one into the other."""
    allowed, reason = flips([{1: (5.0, 5.0, 5.0)}, {2: (5.0, 5.0, 5.0)}] * 10, {"left_knee": 1, "right_knee": 2})
    assert allowed == ()
    assert "left_knee and right_knee never occur in the same case" in reason


def test_only_the_axes_asked_for_are_judged():
    steps = [(5.0, (-1.0) ** number * 5, (-1.0) ** number * 5) for number in range(20)]
    assert flips(two_organs(steps), PAIR, axes=(0, 2))[0] == (2,)


def test_sides_count_only_cases_with_both():
    centroids = [*two_organs([(5.0, 0.0, 0.0)] * 6), {1: (1.0, 1.0, 1.0)}]
    (side,) = find_sides(data_sets.fingerprint(labels=PAIR, centroids=centroids), 0)
    assert (side.cases, side.share) == (6, 1.0)
