"""Orientation, spacing, intensities and padding: forwards and back."""

import itertools

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from monai.data.meta_tensor import MetaTensor
from monai.transforms.spatial.array import SpatialResample
from nibabel.orientations import apply_orientation, inv_ornt_aff
from prepared_samples import blobs, plan_of, volume
from scipy.spatial.transform import Rotation

from se_med.data.padding import pad_to
from se_med.data.plan import Normalisation
from se_med.data.preparation import Preparation
from se_med.errors import ImageError, UsageError

ORIENTATIONS = [
    np.array(list(zip(axes, flips, strict=True)))
    for axes in itertools.permutations(range(3))
    for flips in itertools.product((1, -1), repeat=3)
]
RAW = Normalisation(method="ct", clip=(-1e6, 1e6), mean=0.0, std=1.0)
AFFINE = np.array([[0.8, 0, 0, -10.3], [0, 1.3, 0, 4.7], [0, 0, 2.1, 33.1], [0, 0, 0, 1]])


def turned(array, affine, orientation):
    """The same body in another voxel order."""
    return apply_orientation(array, orientation), affine @ inv_ornt_aff(orientation, array.shape)


@pytest.mark.parametrize("spacing", [(0.8, 1.3, 2.1), (1.0, 1.0, 1.5), (0.8, 1.3, 3.0)])
def test_all_48_orientations_give_the_same_prepared_volume_and_labels(spacing):
    preparation = Preparation(plan_of(spacing=spacing))
    image, label = blobs((11, 9, 7), 0)
    first = preparation.forward(volume(image, AFFINE))
    classes = preparation.forward_label(volume(label, AFFINE), first)
    logits = torch.from_numpy(np.random.default_rng(1).normal(size=(3, *first.array.shape[1:])).astype(np.float32))
    restored = preparation.restore(logits, first)
    for orientation in ORIENTATIONS:
        array, affine = turned(image, AFFINE, orientation)
        prepared = preparation.forward(volume(array, affine))
        assert np.array_equal(prepared.array, first.array)
        assert prepared.array.flags.c_contiguous
        np.testing.assert_allclose(prepared.affine, first.affine, atol=1e-9)
        like = volume(turned(label, AFFINE, orientation)[0], affine)
        assert np.array_equal(preparation.forward_label(like, prepared), classes)
        assert np.array_equal(preparation.restore(logits, prepared), apply_orientation(restored, orientation))


@pytest.mark.parametrize("orientation", ORIENTATIONS[::5])
def test_without_resampling_restore_is_exactly_the_argmax(orientation):
    preparation = Preparation(plan_of(spacing=(0.8, 1.3, 2.1)))
    image, _ = blobs((6, 8, 5), 0)
    prepared = preparation.forward(volume(*turned(image, AFFINE, orientation)))
    logits = torch.randint(0, 3, (3, 6, 8, 5), generator=torch.Generator().manual_seed(0)).float()  # full of ties
    expected = np.array([0, 1, 4])[np.argmax(logits.numpy(), axis=0)]  # numpy's argmax takes the first of equals
    assert np.array_equal(preparation.restore(logits, prepared), apply_orientation(expected, orientation))


def test_intensities_are_untouched_by_the_grid_where_spacing_is_equal_within_a_thousandth():
    image, _ = blobs((6, 8, 5), 0)
    prepared = Preparation(plan_of()).forward(volume(image, np.diag([1.0005, 1, 0.9995, 1])))
    expected = (image - np.float32(image.mean(dtype=np.float64))) / np.float32(image.std(dtype=np.float64))
    assert np.array_equal(prepared.array[0], expected)


def test_an_oblique_volume_keeps_its_rotation_and_every_voxel_its_place():
    rotation = Rotation.from_euler("xyz", [12, -20, 8], degrees=True).as_matrix()
    affine = np.eye(4)
    affine[:3, :3] = rotation @ np.diag([-1.0, 2.0, 1.5])[:, [1, 0, 2]]
    affine[:3, 3] = 5, -7, 11
    image, _ = blobs((9, 14, 8), 3)
    prepared = Preparation(plan_of(spacing=(1.0, 1.0, 1.0))).forward(volume(image, affine))
    np.testing.assert_allclose(np.linalg.norm(prepared.affine[:3, :3], axis=0), 1.0, rtol=1e-5)
    np.testing.assert_allclose(prepared.affine[:3, :3], rotation, atol=1e-5)
    # Interpolate the original at the world position of a prepared voxel.
    position = np.linalg.solve(affine, prepared.affine @ [4, 6, 5, 1])[:3]
    below = np.floor(position).astype(int)
    value = 0.0
    for corner in itertools.product((0, 1), repeat=3):
        weight = np.prod(np.where(corner, position - below, 1 - (position - below)))
        value += weight * image[tuple(np.minimum(below + corner, np.array(image.shape) - 1))]
    raw = Preparation(plan_of(normalisation=(RAW,)))
    assert raw.forward(volume(image, affine)).array[0][4, 6, 5] == pytest.approx(value, rel=1e-4)


def test_resampling_forwards_and_back_is_that_of_monai():
    plan = plan_of(spacing=(1.2, 0.7, 1.5), normalisation=(RAW,))
    preparation = Preparation(plan)
    image, _ = blobs((13, 12, 17), 2)
    stored, affine = turned(image, AFFINE, ORIENTATIONS[29])
    prepared = preparation.forward(volume(stored, affine))
    resample = SpatialResample(padding_mode="border", dtype=np.float64)
    native = MetaTensor(torch.from_numpy(stored[None].copy()), affine=torch.from_numpy(affine))
    shape = prepared.array.shape[1:]
    resampled = resample(native, dst_affine=torch.from_numpy(prepared.affine), spatial_size=shape)
    np.testing.assert_allclose(prepared.array, resampled.numpy(), atol=0.05)  # of a range of several hundred
    logits = torch.from_numpy(np.stack([blobs(shape, seed)[0] for seed in range(3)]))
    back = resample.inverse(MetaTensor(logits, meta=resampled.meta, applied_operations=resampled.applied_operations))
    expected = np.array([0, 1, 4])[back.numpy().argmax(axis=0)]
    assert (preparation.restore(logits, prepared) != expected).mean() < 1e-3


@given(native=st.tuples(*[st.floats(0.4, 6.0)] * 3), planned=st.tuples(*[st.floats(0.4, 6.0)] * 3))
@settings(max_examples=30, deadline=None)
def test_the_prepared_grid_is_centred_and_as_long_as_the_volume(native, planned):
    array = np.random.default_rng(0).normal(size=(5, 4, 6))
    affine = np.diag([*native, 1.0])
    prepared = Preparation(plan_of(spacing=planned)).forward(volume(array, affine))
    ends = np.array([[0, 0, 0, 1], [*np.array(prepared.array.shape[1:]) - 1, 1]]) @ prepared.affine.T
    native_ends = np.array([[0, 0, 0, 1], [4, 3, 5, 1]]) @ affine.T
    np.testing.assert_allclose(ends.mean(axis=0), native_ends.mean(axis=0), atol=1e-4)
    assert (np.abs(ends - native_ends)[:, :3] <= 0.25 * np.array(planned) + 2e-3 * np.maximum(native, planned)).all()


def there_and_back(inside, orientation, native, planned):
    """Prepare a structure as a label, restore it from its one-hot logits, and return it in the orientation it was made in."""
    stored, affine = turned(np.where(inside, 4, 0).astype(np.uint8), np.diag([*native, 1.0]), orientation)
    preparation = Preparation(plan_of(spacing=planned))
    prepared = preparation.forward(volume(stored.astype(np.float32), affine))
    classes = preparation.forward_label(volume(stored, affine), prepared)
    one_hot = torch.nn.functional.one_hot(torch.from_numpy(classes).long(), 3).movedim(-1, 0).float()
    restored = preparation.restore(one_hot, prepared)
    assert restored.shape == stored.shape
    return apply_orientation(restored, _inverse(orientation)) == 4


@settings(max_examples=40, deadline=None)
@given(
    orientation=st.sampled_from(ORIENTATIONS),
    native=st.tuples(*[st.floats(0.4, 6.0)] * 3),
    planned=st.tuples(*[st.floats(0.4, 6.0)] * 3),
    equal=st.booleans(),
    data=st.data(),
)
def test_a_box_comes_back_in_its_place(orientation, native, planned, equal, data):
    planned = native if equal else planned
    coarse, fine = np.maximum(native, planned), np.minimum(native, planned)
    edges = np.ceil(2 * coarse / native).astype(int)
    before = [data.draw(st.integers(0, 6)) for _ in range(3)]
    inside = np.zeros([low + edge + data.draw(st.integers(0, 6)) for low, edge in zip(before, edges, strict=True)], bool)
    inside[tuple(slice(low, low + edge) for low, edge in zip(before, edges, strict=True))] = True
    back = there_and_back(inside, orientation, native, planned)
    if equal:
        assert np.array_equal(back, inside)
        return
    moved = np.abs(np.argwhere(back).mean(axis=0) - np.argwhere(inside).mean(axis=0)) * native
    # A face is moved to the coarse grid and then to the fine one, all of its voxels together: the worst case there is.
    assert (moved <= 0.5 * (coarse + fine) + 1e-6).all()


def test_round_structures_move_by_less_than_half_a_coarser_voxel():
    generator = np.random.default_rng(0)
    shares = []
    for _ in range(50):
        native, planned = generator.uniform(0.4, 6.0, (2, 3))
        coarse = np.maximum(native, planned)
        radii = generator.uniform(1.3, 2.5, 3) * coarse / native
        before, after = generator.uniform(0, 6, (2, 3))
        shape = np.ceil(before + 2 * radii + after).astype(int)
        distance = [(np.arange(n) - low - radius) / radius for n, low, radius in zip(shape, before, radii, strict=True)]
        inside = sum(axis**2 for axis in np.meshgrid(*distance, indexing="ij")) < 1
        back = there_and_back(inside, ORIENTATIONS[generator.integers(48)], tuple(native), tuple(planned))
        shares.append(np.abs(np.argwhere(back).mean(axis=0) - np.argwhere(inside).mean(axis=0)) * native / coarse)
    assert np.max(shares) < 0.5
    assert np.mean(shares) < 0.1


def _inverse(orientation):
    inverse = np.empty_like(orientation)
    for axis, (target, flip) in enumerate(orientation):
        inverse[int(target)] = axis, flip
    return inverse


def test_volumes_larger_than_one_slab_are_the_same(monkeypatch):
    image, label = blobs((20, 9, 7), 0)
    preparation = Preparation(plan_of(spacing=(1.0, 1.0, 1.5)))
    whole = preparation.forward(volume(image, AFFINE))
    logits = torch.randn(3, *whole.array.shape[1:], generator=torch.Generator().manual_seed(0))
    restored = preparation.restore(logits, whole)
    monkeypatch.setattr("se_med.data.grids.SLAB_VOXELS", 200)
    parts = preparation.forward(volume(image, AFFINE))
    np.testing.assert_allclose(parts.array, whole.array, atol=1e-4)
    assert (preparation.restore(logits, parts) == restored).mean() > 0.999
    assert np.array_equal(
        preparation.forward_label(volume(label, AFFINE), parts), preparation.forward_label(volume(label, AFFINE), whole)
    )


def test_zscore_is_per_channel_and_a_constant_channel_becomes_zero():
    image = np.stack([blobs((6, 7, 8), 0)[0], 1e6 + blobs((6, 7, 8), 1)[0], np.full((6, 7, 8), 5, np.float32)])
    plan = plan_of(channels=("a", "b", "c"), normalisation=(Normalisation(method="zscore"),) * 3)
    array = Preparation(plan).forward(volume(image, np.eye(4))).array
    np.testing.assert_allclose(array[:2].mean(axis=(1, 2, 3)), 0, atol=1e-3)
    np.testing.assert_allclose(array[:2].std(axis=(1, 2, 3)), 1, atol=1e-3)
    assert not array[2].any()


def test_ct_is_clipped_and_scaled_by_the_plan():
    image = np.array([-2000.0, -100.0, 0.0, 50.0, 3000.0], np.float32).reshape(5, 1, 1)
    plan = plan_of(normalisation=(Normalisation(method="ct", clip=(-100.0, 300.0), mean=50.0, std=25.0),))
    array = Preparation(plan).forward(volume(image, np.eye(4))).array
    np.testing.assert_allclose(array.ravel(), [-6, -6, -2, 0, 10])


def test_the_image_given_is_not_changed():
    image = volume(blobs((6, 7, 8), 0)[0], np.eye(4))
    before = image.array.copy()
    Preparation(plan_of()).forward(image)
    assert np.array_equal(image.array, before)


def test_errors_name_the_file_and_the_numbers():
    preparation = Preparation(plan_of())
    image, label = blobs((6, 7, 8), 0)
    prepared = preparation.forward(volume(image, np.eye(4)))
    with pytest.raises(ImageError, match=r"two.nii.gz: 2 channels, the plan has 1 \(T1\)"):
        preparation.forward(volume(np.stack([image, image]), np.eye(4), "two.nii.gz"))
    with pytest.raises(ImageError, match=r"seg.nii.gz: label and image differ: shape .*6x7x7.*6x7x8"):
        preparation.forward_label(volume(label[..., 1:], np.eye(4), "seg.nii.gz"), prepared)
    with pytest.raises(ImageError, match=r"seg.nii.gz: label and image differ: spacing"):
        preparation.forward_label(volume(label, np.diag([2, 1, 1, 1.0]), "seg.nii.gz"), prepared)
    wrong = np.zeros_like(label)
    wrong[0, 0, :3] = 3
    wrong[1, 1, 1] = 200
    with pytest.raises(
        ImageError, match=r"seg.nii.gz: undeclared label values 3 \(3 voxels\), 200 \(1 voxels\); declared are 0, 1, 4"
    ):
        preparation.forward_label(volume(wrong, np.eye(4), "seg.nii.gz"), prepared)
    with pytest.raises(ValueError, match=r"\(2, 6, 7, 8\).*\(3, 6, 7, 8\)"):
        preparation.restore(torch.zeros(2, 6, 7, 8), prepared)
    with pytest.raises(UsageError, match="256 structures"):
        Preparation(plan_of(labels={str(value): value for value in range(1, 257)}))


def test_label_values_above_255_come_back():
    preparation = Preparation(plan_of(labels={"b": 3000, "a": 7}))  # class order is that of the plan, not of the values
    label = np.array([0, 3000, 7, 0], np.uint16).reshape(4, 1, 1)
    prepared = preparation.forward(volume(label.astype(np.float32), np.eye(4)))
    classes = preparation.forward_label(volume(label, np.eye(4)), prepared)
    assert classes.ravel().tolist() == [0, 1, 2, 0]
    restored = preparation.restore(torch.nn.functional.one_hot(torch.from_numpy(classes).long()).movedim(-1, 0).float(), prepared)
    assert restored.dtype == np.uint16
    assert np.array_equal(restored, label)


@given(shape=st.tuples(*[st.integers(1, 9)] * 3), size=st.tuples(*[st.integers(1, 9)] * 3), channels=st.integers(1, 2))
@settings(max_examples=50, deadline=None)
def test_padding_adds_only_the_minimum_and_can_be_cut_off(shape, size, channels):
    array = np.random.default_rng(0).normal(size=(channels, *shape)).astype(np.float32)
    padded, inside = pad_to(array, size)
    assert padded.shape[1:] == tuple(map(max, shape, size))
    assert np.array_equal(padded[inside], array)
    for channel, original in zip(padded, array, strict=True):
        assert channel.min() == original.min()
        assert channel.sum(dtype=float) == pytest.approx(
            original.sum(dtype=float) + (channel.size - original.size) * float(original.min()), abs=1e-3
        )
