from __future__ import annotations

import warnings

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy.spatial import KDTree

from se_med.errors import ImageError
from se_med.evaluation.metrics import SLACK, score_case

ONE = {"blob": 1}


def surface(mask: np.ndarray) -> np.ndarray:
    """Voxels with a face neighbour outside of the mask, written with slices alone."""
    padded = np.pad(mask, 1)
    inner = np.ones_like(mask)
    for axis in range(mask.ndim):
        for step in (-1, 1):
            shifted = np.roll(padded, step, axis)
            inner &= shifted[tuple(slice(1, -1) for _ in range(mask.ndim))]
    return mask & ~inner


def surface_scores(first: np.ndarray, second: np.ndarray, spacing, tolerance: float) -> tuple[float, float]:
    """HD95 and NSD by a KD-tree on the whole grid: no crop, no MONAI."""
    one, two = (np.argwhere(surface(mask)) * np.array(spacing) for mask in (first, second))
    forth, back = KDTree(two).query(one)[0], KDTree(one).query(two)[0]
    hd95 = max(np.percentile(forth, 95), np.percentile(back, 95))
    near = (forth <= tolerance * (1 + SLACK)).sum() + (back <= tolerance * (1 + SLACK)).sum()
    return float(hd95), float(near / (len(forth) + len(back)))


def blobs(seed: int, shape=(22, 19, 17)) -> tuple[np.ndarray, np.ndarray]:
    generator = np.random.default_rng(seed)
    grid = np.indices(shape)
    maps = []
    for _ in range(2):
        label = np.zeros(shape, np.uint8)
        for value in (1, 2):
            centre = generator.uniform(2, np.array(shape) - 2)
            radius = generator.uniform(2, 6)
            label[sum((axis - middle) ** 2 for axis, middle in zip(grid, centre, strict=True)) < radius**2] = value
        maps.append(label)
    return maps[0], maps[1]


@pytest.mark.parametrize("spacing", [(1.0, 1.0, 1.0), (1.0, 0.8, 2.5), (0.4, 3.0, 0.9)])
@pytest.mark.parametrize("seed", range(6))
def test_surface_scores_are_those_of_an_independent_kd_tree_without_cropping(seed, spacing):
    prediction, reference = blobs(seed)
    for score in score_case("a", prediction, reference, spacing, {"one": 1, "two": 2}, 1.3):
        value = {"one": 1, "two": 2}[score.structure]
        if score.status == "present":
            hd95, nsd = surface_scores(prediction == value, reference == value, spacing, 1.3)
            assert score.hd95 == pytest.approx(hd95, rel=1e-5)
            assert score.nsd == pytest.approx(nsd, rel=1e-5)


@settings(max_examples=60, deadline=None)
@given(
    st.tuples(*[st.integers(2, 5)] * 3).flatmap(
        lambda shape: st.tuples(arrays(np.bool_, shape), arrays(np.bool_, shape), st.tuples(*[st.floats(0.3, 4)] * 3))
    ),
    st.floats(0.2, 5),
)
def test_any_two_masks_have_the_scores_of_their_definition(masks, tolerance):
    first, second, spacing = masks
    (score,) = score_case("a", first.astype(np.uint8), second.astype(np.uint8), spacing, ONE, tolerance)
    (swapped,) = score_case("a", second.astype(np.uint8), first.astype(np.uint8), spacing, ONE, tolerance)
    assert (score.dice, score.nsd) == (swapped.dice, swapped.nsd)
    assert score.hd95 == swapped.hd95
    assert score.volume_error_ml == -swapped.volume_error_ml
    voxel = np.prod(spacing) / 1000
    assert score.volume_error_ml == pytest.approx((int(first.sum()) - int(second.sum())) * voxel, abs=1e-9)
    if not first.any() and not second.any():
        assert (score.status, score.dice, score.hd95, score.nsd) == ("absent", None, None, None)
    elif first.any() and second.any():
        assert score.status == "present"
        assert score.dice == pytest.approx(2 * (first & second).sum() / (first.sum() + second.sum()))
        assert score.hd95 == pytest.approx(
            surface_scores(first, second, spacing, tolerance)[0], abs=1e-4
        )  # MONAI takes percentiles in float32
        assert 0 <= score.nsd <= 1
        # No distance on the grid is longer than the diagonal that a miss is given.
        assert score.hd95 < np.linalg.norm(np.array(first.shape) * spacing)
        if np.array_equal(first, second):
            assert (score.dice, score.hd95, score.nsd) == (1, 0, 1)
    else:
        assert score.status == ("spurious" if first.any() else "missed")
        assert (score.dice, score.nsd) == (0, 0)
        assert score.hd95 == pytest.approx(np.linalg.norm(np.array(first.shape) * spacing))


def test_empty_space_around_changes_nothing():
    prediction, reference = blobs(1)
    padding = [(9, 3), (0, 11), (30, 2)]
    labels = {"one": 1, "two": 2}
    # Blobs that the image's border cuts would have other surfaces beyond it.
    prediction, reference = (np.pad(label, 1) for label in (prediction, reference))
    tight = score_case("a", prediction, reference, (1, 2, 3), labels, 2.0)
    loose = score_case("a", np.pad(prediction, padding), np.pad(reference, padding), (1, 2, 3), labels, 2.0)
    assert [score for score in tight if score.status == "present"]
    assert tight == loose


def test_scoring_says_nothing_on_the_side():
    prediction, reference = blobs(1)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        scores = score_case("a", prediction, reference, (1, 2, 3), {"one": 1, "two": 2, "three": 3}, 2.0)
    assert {score.status for score in scores} >= {"present", "absent"}


def test_hd95_is_the_larger_of_both_directions():
    reference = np.zeros((60, 5, 5), np.uint8)
    reference[2:4, 2, 2] = 1
    prediction = reference.copy()
    prediction[40:58, 2, 2] = 1  # far from the reference, while all of the reference is matched
    (score,) = score_case("a", prediction, reference, (1, 1, 1), ONE, 1.0)
    assert score.hd95 == pytest.approx(np.percentile([0, 0, *range(37, 55)], 95))


def test_a_shift_by_one_voxel_within_the_tolerance_is_perfect_even_with_float32_spacing():
    reference = np.zeros((9, 9, 9), np.uint8)
    reference[3:6, 3:6, 3:6] = 1
    shifted = np.roll(reference, 1, axis=0)
    for edge in (1.0000001, 0.9999999, 1.0):
        (score,) = score_case("a", shifted, reference, (edge, 1, 1), ONE, 1.0)
        assert score.nsd == 1.0
    (score,) = score_case("a", shifted, reference, (1.01, 1, 1), ONE, 1.0)
    assert score.nsd < 1.0


def test_a_volume_of_one_slice_has_the_scores_of_that_slice():
    reference = np.zeros((22, 19, 3), np.uint8)
    reference[4:12, 5:14, 1] = 1
    reference[14:18, 5:14, 1] = 2
    prediction = np.roll(reference, 2, axis=1)
    flat = score_case("a", prediction[:, :, 1], reference[:, :, 1], (1.0, 2.0), {"one": 1, "two": 2}, 2.0)
    thick = score_case("a", prediction[:, :, 1:2], reference[:, :, 1:2], (1.0, 2.0, 10.0), {"one": 1, "two": 2}, 2.0)
    assert [score.status for score in flat] == ["present", "present"]
    assert [score.hd95 for score in flat] == [4.0, 4.0]
    for one, other in zip(flat, thick, strict=True):
        assert (one.dice, one.hd95, one.nsd) == (other.dice, other.hd95, other.nsd)
        assert other.prediction_ml == pytest.approx(one.prediction_ml * 10)


def test_without_surfaces_only_dice_and_volumes_are_computed():
    prediction, reference = blobs(0)
    full = score_case("a", prediction, reference, (1, 1, 1), {"one": 1, "two": 2, "three": 3}, 1.0)
    quick = score_case("a", prediction, reference, (1, 1, 1), {"one": 1, "two": 2, "three": 3}, 1.0, surfaces=False)
    for one, other in zip(full, quick, strict=True):
        assert (one.status, one.dice, one.prediction_ml, one.reference_ml) == (
            *(other.status, other.dice, other.prediction_ml, other.reference_ml),
        )
        assert other.hd95 is other.nsd is None


def test_scores_are_in_the_order_of_the_labels_and_know_their_case():
    prediction, reference = blobs(0)
    scores = score_case("a", prediction, reference, (1, 2.5, 1), {"z": 2, "a": 1}, 1.0)
    assert [(score.case, score.structure, score.max_spacing_mm) for score in scores] == [("a", "z", 2.5), ("a", "a", 2.5)]


@pytest.mark.parametrize("which", ["prediction", "reference"])
def test_undeclared_values_are_refused_with_their_counts(which):
    maps = {"prediction": np.zeros((3, 3, 3), np.uint16), "reference": np.zeros((3, 3, 3), np.uint8)}
    maps[which][0, 0] = (9, 9, 200)
    with pytest.raises(ImageError, match=rf"a: {which}: undeclared label values 9 \(2 voxels\), 200 \(1 voxels\); .* 1 \(blob\)"):
        score_case("a", maps["prediction"], maps["reference"], (1, 1, 1), ONE, 1.0)


def test_shapes_that_differ_are_refused_with_both():
    with pytest.raises(ImageError, match=r"a: .*\(2, 3, 4\).*\(2, 3, 5\)"):
        score_case("a", np.zeros((2, 3, 4), np.uint8), np.zeros((2, 3, 5), np.uint8), (1, 1, 1), ONE, 1.0)
