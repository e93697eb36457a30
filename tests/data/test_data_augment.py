"""Random transforms: what each does, and that nothing but the key decides."""

import numpy as np
import pytest
import torch
from monai.data.meta_obj import get_track_meta
from prepared_samples import augmentation, blobs, no_augmentation, plan_of, slice_plan
from scipy.interpolate import BSpline

from se_med.data.augment import make_augmentation

KEYS = [(0, 2, epoch, position) for epoch in range(4) for position in range(10)]


class Source:
    """A large volume whose middle is the patch."""

    def __init__(self, patch=(12, 16, 8), seed=0, size=41):
        self.patch = patch
        self.image, self.label = blobs((size, size, size), seed)
        if len(patch) == 2:
            self.image, self.label = self.image[..., 0], self.label[..., 0]
        self.image = self.image[None] / 500
        self.margins = []

    def __call__(self, margin):
        self.margins.append(margin)
        slices = tuple(
            slice(20 - size // 2 - more, 20 - size // 2 + size + more) for size, more in zip(self.patch, margin, strict=True)
        )
        return self.image[(slice(None), *slices)].copy(), self.label[slices].copy()

    @property
    def crop(self):
        return self((0,) * len(self.patch))


def run(config, keys=KEYS, plan=None, **source):
    read = Source(**source)
    sampler = make_augmentation(config, plan or plan_of())
    return [sampler(read, key) for key in keys], read


def test_without_transforms_the_patch_is_an_exact_crop():
    samples, read = run(no_augmentation())
    image, label = read.crop
    for found, found_label in samples:
        assert np.array_equal(found, image)
        assert np.array_equal(found_label[0], label)
        assert found_label.dtype == torch.uint8
    assert set(read.margins) == {(0, 0, 0)}


def test_flips_turn_image_and_label_together_along_allowed_axes_only():
    samples, read = run(no_augmentation(flip={"probability": 0.5, "axes": (0, 2)}))
    image, label = read.crop
    wanted = {axes: image[0] if not axes else np.flip(image[0], axes) for axes in ((), (0,), (2,), (0, 2))}
    seen = set()
    for found, found_label in samples:
        (axes,) = [axes for axes, flipped in wanted.items() if np.array_equal(found[0], flipped)]
        assert np.array_equal(found_label[0], label if not axes else np.flip(label, axes))
        seen.add(axes)
    assert seen == set(wanted)


def test_a_slice_is_flipped_along_the_axis_that_the_volume_names():
    plan = slice_plan(slice_axis=0, patch=(16, 8))
    samples, read = run(no_augmentation(flip={"probability": 1.0, "axes": (0, 2)}), plan=plan, patch=(16, 8))
    assert np.array_equal(samples[0][0][0], read.crop[0][0][:, ::-1])  # axis 2 is the second of the slice; axis 0 is not in it


@pytest.mark.parametrize("interpolation", ["linear", "cubic"])
def test_turned_corners_show_the_real_image(interpolation):
    affine = {"probability": 1.0, "rotation": 30.0, "scale": (0.8, 1.25)}
    config = no_augmentation(affine=affine, interpolation=interpolation)
    sampler = make_augmentation(config, plan_of())
    ramp = np.arange(61, dtype=np.float32).reshape(-1, 1, 1).repeat(61, 1).repeat(61, 2)

    def read(margin):
        slices = tuple(
            slice(30 - size // 2 - more, 30 - size // 2 + size + more) for size, more in zip((12, 16, 8), margin, strict=True)
        )
        return ramp[slices][None].copy(), np.zeros(ramp[slices].shape, np.uint8)

    for key in KEYS:
        image, _ = sampler(read, key)
        # A linear ramp stays linear wherever it was not clamped at a border.
        for axis in (1, 2, 3):
            second = image.diff(dim=axis).diff(dim=axis)
            assert second.abs().max() < 0.02


def test_splines_keep_the_detail_that_linear_samples_lose():
    noise = np.random.default_rng(0).normal(size=(1, 60, 60, 60)).astype(np.float32)

    def read(margin):
        slices = tuple(
            slice(30 - size // 2 - more, 30 - size // 2 + size + more) for size, more in zip((12, 16, 8), margin, strict=True)
        )
        return noise[(slice(None), *slices)].copy(), np.zeros(noise[(0, *slices)].shape, np.uint8)

    kept = {}
    for interpolation in ("linear", "cubic"):
        config = no_augmentation(affine={"probability": 1.0, "rotation": 30.0, "scale": (1, 1)}, interpolation=interpolation)
        kept[interpolation] = np.mean([make_augmentation(config, plan_of())(read, key)[0].var() for key in KEYS])
    assert kept["linear"] < 0.4  # (2 / 3) ** 3 on average over positions
    assert kept["cubic"] > 0.6


def test_rotation_and_scale_stay_in_their_ranges_and_turn_the_body_in_mm():
    spacing = (1.0, 1.0, 2.0)
    config = no_augmentation(affine={"probability": 1.0, "rotation": 20.0, "scale": (0.8, 1.25)})
    sampler = make_augmentation(config, plan_of(spacing=spacing))
    scales = []
    for number in range(200):
        matrix = sampler._draw_matrix(np.random.RandomState(number))
        in_mm = np.diag(spacing) @ matrix[:3, :3] @ np.diag(1 / np.array(spacing))
        product = in_mm.T @ in_mm
        np.testing.assert_allclose(product, product[0, 0] * np.eye(3), atol=1e-6)
        scales.append(product[0, 0] ** -0.5)
    assert 0.8 <= min(scales) < 0.85
    assert 1.18 < max(scales) <= 1.25


def test_slices_far_apart_are_not_mixed():
    config = no_augmentation(affine={"probability": 1.0, "rotation": 20.0, "scale": (1.0, 1.0)})
    sampler = make_augmentation(config, plan_of(spacing=(1.0, 1.0, 8.0)))
    matrix = sampler._draw_matrix(np.random.RandomState(0))
    np.testing.assert_allclose(matrix[2], [0, 0, 1, 0], atol=1e-12)
    assert abs(matrix[0, 1]) > 0.01


def test_stretch_scales_each_axis_on_its_own_and_shear_slants_it():
    config = no_augmentation(affine={"probability": 1.0, "rotation": 0, "scale": (1, 1), "stretch": (0.8, 1.25), "shear": 0.2})
    sampler = make_augmentation(config, plan_of())
    matrices = np.stack([sampler._draw_matrix(np.random.RandomState(number))[:3, :3] for number in range(200)])
    factors = 1 / np.diagonal(matrices, axis1=1, axis2=2)
    assert 0.8 <= factors.min() < 0.81
    assert 1.23 < factors.max() <= 1.25
    assert abs(np.corrcoef(np.log(factors.T))[np.triu_indices(3, 1)]).max() < 0.25
    slants = matrices[:, ~np.eye(3, dtype=bool)]
    assert 0.19 < slants.max() <= 0.2
    assert -0.2 <= slants.min() < -0.19


def test_stretch_and_shear_leave_the_other_draws_alone():
    affine = {"probability": 0.7, "rotation": 20.0, "scale": (0.8, 1.2)}
    former = make_augmentation(no_augmentation(affine=affine), plan_of())
    later = make_augmentation(no_augmentation(affine=affine | {"stretch": (1.1, 1.1)}), plan_of())
    for number in range(20):
        first, second = (each._draw_matrix(np.random.RandomState(number)) for each in (former, later))
        assert (first is None) == (second is None)
        if first is not None:
            np.testing.assert_allclose(second[:3, :3] * 1.1, first[:3, :3], rtol=1e-12)


def elastic(**settings):
    return no_augmentation(elastic={"probability": 1.0} | settings)


@pytest.mark.parametrize("rank", [2, 3])
def test_bending_is_the_cubic_spline_through_its_control_points(rank):
    plan = plan_of() if rank == 3 else slice_plan(patch=(12, 16))
    sampler = make_augmentation(elastic(spacing=5.0, displacement=(2.0, 2.0)), plan)
    field = sampler._draw_field(np.random.RandomState(3)).double().numpy()
    assert field.shape == (rank, *plan.patch)
    assert np.abs(field).max() <= 2
    state = np.random.RandomState(3)
    state.random_sample()
    state.uniform(2.0, 2.0)
    counts = [int((length - 1) / 5) + 4 for length in plan.patch]
    wanted = state.uniform(-2, 2, size=(rank, *counts))
    for axis, (length, count) in enumerate(zip(plan.patch, counts, strict=True), start=1):
        knots = np.arange(-3, count + 1) * 5.0
        spline = BSpline(knots, np.moveaxis(wanted, axis, 0), 3)
        wanted = np.moveaxis(spline(np.arange(length)), 0, axis)
    np.testing.assert_allclose(field, wanted, atol=1e-6)


@pytest.mark.parametrize("rank", [2, 3])
def test_bending_moves_image_and_label_together(rank):
    plan, patch = (plan_of(), (12, 16, 8)) if rank == 3 else (slice_plan(patch=(12, 16)), (12, 16))
    sampler = make_augmentation(elastic(spacing=6.0, displacement=(3.0, 3.0)), plan)
    read = Source(patch=patch)
    read.label = (read.label > 0).astype(np.uint8)
    read.image = read.label[None].astype(np.float32)
    moved = 0
    for key in KEYS[:10]:
        image, label = sampler(read, key)
        sure = (image < 0.1) | (image > 0.9)  # the nearest of eight voxels weighs an eighth at least
        assert torch.equal((image > 0.5)[sure], label.bool()[sure])
        moved += int((label[0].numpy() != read.crop[1]).sum())
    assert moved > 0
    assert all(0 < more <= 4 for margin in read.margins[::2] for more in margin)


def test_bending_does_not_mix_slices_far_apart():
    field = make_augmentation(elastic(), plan_of(spacing=(1.0, 1.0, 8.0)))._draw_field(np.random.RandomState(0))
    assert field[2].abs().max() == 0
    assert field[:2].abs().amax(dim=(1, 2, 3)).min() > 0.01


@pytest.mark.parametrize(
    ("name", "settings", "check"),
    [
        ("noise", {"std": (0.1, 0.1)}, lambda new, old: 0.09 < np.std(new - old) < 0.11),
        ("blur", {"sigma": (0.8, 0.8)}, lambda new, old: np.abs(np.diff(new)).mean() < 0.95 * np.abs(np.diff(old)).mean()),
        ("brightness", {"factor": (1.2, 1.2)}, lambda new, old: np.allclose(new, 1.2 * old, atol=1e-5)),
        (
            "contrast",
            {"factor": (0.5, 0.5)},
            lambda new, old: np.allclose(new, old.mean() + 0.5 * (old - old.mean()), atol=1e-4),
        ),
        ("low_resolution", {"zoom": (0.5, 0.5)}, lambda new, old: 0 < np.abs(new - old).mean() < old.std()),
        (
            "gamma",
            {"gamma": (1.4, 1.4)},
            lambda new, old: (
                np.isclose(new.mean(), old.mean(), atol=1e-4)
                and np.isclose(new.std(), old.std(), rtol=1e-3)
                and not np.allclose(new, old, atol=1e-2)
                and (np.argsort(new.ravel()) == np.argsort(old.ravel())).mean() > 0.9
            ),
        ),
    ],
)
@pytest.mark.parametrize("rank", [2, 3])
def test_each_intensity_transform_does_what_its_field_says(name, settings, check, rank):
    plan, patch = (plan_of(), (12, 16, 8)) if rank == 3 else (slice_plan(), (12, 16))
    if rank == 2 and name == "noise":
        plan, patch = slice_plan(patch=(40, 40)), (40, 40)
    samples, read = run(no_augmentation(**{name: {"probability": 1.0} | settings}), keys=KEYS[:3], plan=plan, patch=patch)
    image, label = read.crop
    for found, found_label in samples:
        assert check(found.numpy().astype(np.float64), image.astype(np.float64))
        assert np.array_equal(found_label[0], label)


def test_probabilities_are_kept():
    samples, read = run(no_augmentation(brightness={"probability": 0.3, "factor": (1.5, 1.5)}), [(0, i) for i in range(400)])
    changed = sum(not np.array_equal(found, read.crop[0]) for found, _ in samples)
    assert 80 < changed < 160


def test_the_key_alone_decides():
    always = augmentation(
        **{name: {"probability": 1.0} for name in ("affine", "elastic", "noise", "blur", "contrast", "low_resolution", "gamma")}
    )
    read = Source()
    first = make_augmentation(always, plan_of())
    samples = [first(read, key) for key in KEYS[:8]]
    np.random.seed(7)  # noqa: NPY002 - the global generator is what must not matter
    torch.manual_seed(7)
    threads = torch.get_num_threads()
    other = make_augmentation(always, plan_of())
    try:
        torch.set_num_threads(2 if threads == 1 else 1)
        for key, (image, label) in reversed(list(zip(KEYS[:8], samples, strict=True))):
            again, again_label = other(read, key)
            assert torch.equal(image, again)
            assert torch.equal(label, again_label)
    finally:
        torch.set_num_threads(threads)
    assert not any(torch.equal(samples[0][0], image) for image, _ in samples[1:])


def test_global_generators_and_switches_are_left_alone():
    threads, tracking = torch.get_num_threads(), get_track_meta()
    before = torch.get_rng_state(), np.random.get_state()[1].copy()  # noqa: NPY002
    run(augmentation())
    assert torch.equal(torch.get_rng_state(), before[0])
    assert np.array_equal(np.random.get_state()[1], before[1])  # noqa: NPY002
    assert (torch.get_num_threads(), get_track_meta()) == (threads, tracking)


def test_switching_a_transform_off_does_not_shift_the_others():
    flips = {"flip": {"probability": 0.5, "axes": (0, 1, 2)}}
    with_blur, _ = run(no_augmentation(**flips, brightness={"probability": 0.5}, blur={"probability": 1e-9}))
    without, _ = run(no_augmentation(**flips, brightness={"probability": 0.5}))
    assert all(torch.equal(first[0], second[0]) for first, second in zip(with_blur, without, strict=True))


def test_an_unresolved_configuration_is_refused():
    with pytest.raises(ValueError, match=r"augmentation\.flip\.axes is not resolved"):
        make_augmentation(augmentation(flip={}), plan_of())
