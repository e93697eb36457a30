"""Largest components and holes."""

from __future__ import annotations

import numpy as np
import pytest
from tiny_model import make_plan, make_predictor

from se_med.errors import UsageError
from se_med.inference.components import correct, fill_holes, keep_largest, left_of
from se_med.io.volume import Volume


def test_only_the_largest_piece_stays_and_corners_connect():
    labels = np.zeros((9, 9, 9), np.uint8)
    labels[1:3, 1:3, 1:3] = 2
    labels[3, 3, 3] = 2  # touches at a corner
    labels[6:8, 6:8, 6] = 2
    labels[8, 0, 0] = 5
    keep_largest(labels, (2,))
    assert (labels == 2).sum() == 9
    assert labels[8, 0, 0] == 5
    keep_largest(labels, (9,))
    assert (labels == 2).sum() == 9


def test_a_region_of_several_values_is_one_piece():
    labels = np.zeros((8, 4, 4), np.uint8)
    labels[0:2] = 1
    labels[2:4] = 3
    labels[6:] = 1
    keep_largest(labels, (1, 3))
    assert np.array_equal(labels[:, 0, 0], [1, 1, 3, 3, 0, 0, 0, 0])


WHOLE, CORE, ENHANCING = (2, 1, 3), (1, 3), (3,)
REGIONS = [WHOLE, CORE, ENHANCING]


def test_a_dropped_piece_of_an_inner_region_stays_in_the_region_around_it():
    labels = np.zeros((12, 4, 4), np.uint8)
    labels[1:11] = 2
    labels[2:6] = 1
    labels[3:5] = 3
    labels[8:9] = 1  # a small piece of core
    labels[9:10] = 3  # that enhances
    before = labels > 0
    correct(labels, [CORE], [], REGIONS)
    assert np.array_equal(labels[:, 0, 0], [0, 2, 1, 3, 3, 1, 2, 2, 2, 2, 2, 0])
    assert np.array_equal(labels > 0, before)
    labels[10, 0, 0] = 3
    correct(labels, [ENHANCING], [], REGIONS)
    assert labels[10, 0, 0] == 1  # what does not enhance is still core


def test_a_dropped_piece_of_the_whole_takes_along_what_is_in_it():
    labels = np.zeros((9, 3, 3), np.uint8)
    labels[:5] = 2
    labels[7:] = 2
    labels[7, 1, 1] = 3
    correct(labels, [WHOLE], [], REGIONS)
    assert not labels[5:].any()


def test_a_value_that_stands_for_just_what_is_left():
    assert [left_of(value, CORE, REGIONS) for value in CORE] == [2, 2]
    assert left_of(3, ENHANCING, REGIONS) == 1
    assert left_of(1, (1, 3), [(1, 3), (4,)]) == 0
    assert left_of(2, (1, 2), [(1, 2), (2, 3)]) == 3  # two that overlap
    assert left_of(2, (2,), [(1, 2), (2,), (1, 3)]) == 0  # 1 would be in the third too


def test_enclosed_background_is_filled_and_other_structures_are_not():
    labels = np.zeros((7, 7, 7), np.uint8)
    labels[1:6, 1:6, 1:6] = 4
    labels[3, 3, 3] = 0
    labels[2, 2, 2] = 1
    labels[1, 3, 3] = 0  # open to the outside
    fill_holes(labels, (4,))
    assert labels[3, 3, 3] == 4
    assert labels[2, 2, 2] == 1
    assert labels[1, 3, 3] == 0


def test_holes_are_filled_after_pieces_are_dropped():
    labels = np.zeros((9, 5, 5), np.uint8)
    labels[:5] = 1
    labels[1:4, 1:4, 1:4] = 0
    labels[2, 2, 2] = 1
    correct(labels, [(1,)], [(1,)])
    assert (labels[:5] == 1).all()


def test_the_configuration_names_the_structures(noise):
    volume = Volume(noise[None], np.eye(4))
    plain = make_predictor(make_plan()).predict(volume).labels
    found = make_predictor(make_plan(), largest_component=["back"], fill_holes=["front"]).predict(volume).labels
    expected = plain.copy()
    correct(expected, [(7,)], [(3,)])
    assert np.array_equal(found, expected)
    assert not np.array_equal(found, plain)
    with pytest.raises(UsageError, match=r"inference\.fill_holes: 'liver' is no structure of the run; it has front, back"):
        make_predictor(make_plan(), fill_holes=["liver"])
