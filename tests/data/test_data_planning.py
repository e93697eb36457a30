from __future__ import annotations

import dataclasses
from typing import Any

import data_sets
import pytest

from se_med.config.experiment import Config
from se_med.data.axes import GIVEN
from se_med.data.case import Dataset
from se_med.data.fingerprint import Fingerprint, Intensities, take_fingerprint
from se_med.data.layouts import find_dataset
from se_med.data.plan import Plan
from se_med.data.planning import make_plan, resolve
from se_med.errors import UsageError

HIPPOCAMPUS = {"shape": (35, 50, 36), "labels": {"Anterior": 1, "Posterior": 2}}


def plan(config: Config | None = None, dataset: Dataset | None = None, **facts: Any) -> Plan:
    return make_plan(config or data_sets.config(), dataset or data_sets.dataset(), data_sets.fingerprint(**facts))


def with_spacings(spacings: list[tuple[float, float, float]], shape: tuple[int, int, int]) -> Fingerprint:
    base = data_sets.fingerprint(shape=shape, count=len(spacings))
    cases = [dataclasses.replace(case, spacing=spacing) for case, spacing in zip(base.cases, spacings, strict=True)]
    return dataclasses.replace(base, cases=tuple(cases))


def test_small_volumes_get_a_stem_and_a_patch_that_covers_them():
    made = plan(**HIPPOCAMPUS)
    assert (made.spacing, made.median_shape) == ((1, 1, 1), (35, 50, 36))
    assert (made.patch, made.batch_size, made.stem) == ((40, 56, 40), 4, (2, 2, 2))
    assert made.features == (32, 64, 128)
    assert made.strides == ((2, 2, 2), (2, 2, 2))
    assert (made.cases, made.num_classes, made.slice_axis) == (10, 3, None)


def test_a_plan_survives_its_file():
    made = plan(**HIPPOCAMPUS)
    assert Plan.model_validate_json(made.model_dump_json()) == made


def test_every_decision_has_a_reason_of_one_line():
    for dims in (2, 3):
        made = plan(data_sets.config(network={"spatial_dims": dims}))
        decisions = {"spacing", "normalisation", "patch", "batch_size", "features", "strides", "kernels", "stem", "flip_axes"}
        assert decisions | {"labels"} <= set(made.reasons)
        assert all(reason and "\n" not in reason for reason in made.reasons.values())


def test_spacing_is_the_median_of_the_cases():
    found = with_spacings([(1.0, 1.0, 2.0)] * 3 + [(2.0, 1.5, 2.5)] * 2, (50, 50, 40))
    made = make_plan(data_sets.config(), data_sets.dataset(), found)
    assert made.spacing == (1.0, 1.0, 2.0)
    assert made.median_shape == (50, 50, 40)


def test_a_much_coarser_axis_gets_a_finer_spacing_than_the_median():
    spacings = [(1.0, 1.0, 4.0)] * 2 + [(1.0, 1.0, 8.0)] * 8
    made = make_plan(data_sets.config(), data_sets.dataset(), with_spacings(spacings, (200, 200, 20)))
    assert made.spacing == (1.0, 1.0, 4.0)
    assert made.median_shape == (200, 200, 40)
    thick = make_plan(data_sets.config(), data_sets.dataset(), with_spacings(spacings, (200, 200, 180)))
    assert thick.spacing == (1.0, 1.0, 8.0)


def test_noise_of_single_precision_is_not_kept():
    assert plan(spacing=(0.9765625119, 0.9765625119, 3.26999998)).spacing == (0.976563, 0.976563, 3.27)


def test_anisotropic_volumes():
    made = plan(shape=(216, 256, 9), spacing=(1.5, 1.5, 10.0))
    assert made.stem == (2, 2, 1)
    assert made.kernels[0] == (3, 3, 1)
    assert made.kernels[-1] == (3, 3, 3)
    assert made.strides[0] == (2, 2, 1)
    assert made.patch[2] >= 8


def test_fine_structures_get_no_stem():
    made = plan(voxels=40)
    assert made.stem == (1, 1, 1)
    assert "smallest structure is 3.4 voxels wide" in made.reasons["stem"]


def test_a_gpu_gets_full_resolution_and_a_larger_patch():
    shape = (256, 256, 200)
    on_gpu = plan(data_sets.config(training={"device": "gpu"}), shape=shape)
    on_cpu = plan(shape=shape)
    assert on_gpu.stem == (1, 1, 1)
    assert (on_cpu.patch, on_cpu.batch_size) == ((64, 64, 64), 2)
    assert on_gpu.patch == (128, 128, 128)
    assert on_gpu.features == (32, 64, 128, 256, 320, 320)


@pytest.mark.parametrize(
    ("spacing", "axis"), [((1.0, 1.0, 1.0), 2), ((5.0, 1.0, 1.0), 0), ((1.0, 3.0, 3.0), 2), ((3.0, 3.001, 1.0), 1)]
)
def test_slices_are_taken_across_the_largest_spacing(spacing, axis):
    made = plan(data_sets.config(network={"spatial_dims": 2}), spacing=spacing)
    assert made.slice_axis == axis
    assert len(made.patch) == len(made.stem) == len(made.kernels[0]) == 2
    assert made.flip_axes == tuple(other for other in range(3) if other != axis)


def test_a_2d_network_has_more_features_at_most():
    made = plan(data_sets.config(network={"spatial_dims": 2}), shape=(512, 512, 30))
    assert made.features[-1] == 512
    assert made.stem == (2, 2)
    assert 320 <= min(made.patch) <= max(made.patch) <= 384


@pytest.mark.parametrize(
    ("settings", "channels", "methods"),
    [
        ({}, ("CT",), ["ct"]),
        ({}, ("MRI",), ["zscore"]),
        ({}, (), ["zscore"]),
        ({}, ("CT", "PET"), ["ct", "zscore"]),
        ({"modality": "ct"}, ("MRI", "PET"), ["ct", "ct"]),
        ({"modality": "mr"}, ("CT",), ["zscore"]),
    ],
)
def test_normalisation_by_modality(settings, channels, methods):
    dataset = data_sets.dataset(channels=channels)
    made = plan(data_sets.config(data=settings), dataset, channels=max(1, len(channels)))
    assert [entry.method for entry in made.normalisation] == methods
    for entry in made.normalisation:
        expected = ((-90, 210), 60, 40) if entry.method == "ct" else (None, None, None)
        assert (entry.clip, entry.mean, entry.std) == expected
    assert made.channels == (channels or ("channel_0",))


def test_ct_with_a_constant_foreground_is_scaled_per_volume():
    found = dataclasses.replace(data_sets.fingerprint(), foreground=(Intensities(5, 5, 5, 0),))
    made = make_plan(data_sets.config(), data_sets.dataset(channels=("CT",)), found)
    assert made.normalisation[0].method == "zscore"


def test_declared_structures_that_no_case_has_are_said():
    centroids = [{1: (5.0, 5.0, 5.0)}] * 4
    assert "no case has tumour" in plan(labels={"liver": 1, "tumour": 2}, centroids=centroids).reasons["labels"]


USER = [
    ("data", "spacing", (2.0, 2.0, 2.0), "spacing"),
    ("network", "features", (8, 16), "features"),
    ("network", "strides", ((2, 2, 2), (2, 2, 1)), "strides"),
    ("network", "kernels", ((1, 1, 1), (3, 3, 3)), "kernels"),
    ("network", "stem", (4, 4, 1), "stem"),
    ("training", "patch", (32, 48, 32), "patch"),
    ("training", "batch_size", 7, "batch_size"),
]


@pytest.mark.parametrize(("part", "key", "value", "planned"), USER)
def test_a_setting_of_the_user_wins_and_the_rest_fits(part, key, value, planned):
    config = data_sets.config(**{part: {key: value}})
    made = plan(config, **HIPPOCAMPUS)
    assert getattr(made, planned) == value
    assert made.reasons[planned] == GIVEN
    check_fits(resolve(config, made))


def check_fits(config: Config) -> None:
    network, patch = config.network, config.training.patch
    assert patch is not None
    assert len(network.features) == len(network.strides) + 1 == len(network.kernels)
    for axis, extent in enumerate(patch):
        multiple = network.stem[axis]
        for stride in network.strides:
            multiple *= stride[axis]
        assert extent % multiple == 0


def test_depth_follows_from_any_setting_per_stage():
    for settings in ({"encoder_units": (1, 1, 1, 1)}, {"decoder_units": (1, 1, 1)}, {"kernels": ((3, 3, 3),) * 4}):
        config = data_sets.config(network=settings)
        made = plan(config, shape=(64, 64, 64))
        assert len(made.features) == 4
        check_fits(resolve(config, made))


def test_axes_of_flips_are_kept():
    config = data_sets.config(augmentation={"flip": {"axes": [1]}})
    made = plan(config)
    assert (made.flip_axes, made.reasons["flip_axes"]) == ((1,), GIVEN)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"training": {"patch": (40, 50, 40)}}, r"training\.patch: 50 \(axis 1\) is not a multiple of 8"),
        ({"training": {"patch": (40, 48)}}, r"training\.patch: \[40, 48\] has 2 values, a 3D network needs 3"),
        ({"training": {"patch": (4, 4, 4)}}, r"training\.patch: 4x4x4 voxels are too small for two stages"),
        ({"training": {"patch": (32, 32, 32)}, "network": {"features": (8,) * 8}}, "8 stages are too many"),
        ({"network": {"strides": ((2, 2, 2),), "encoder_units": (1, 1, 1)}}, "strides says 2, encoder_units says 3"),
        ({"network": {"kernels": ((3, 3, 3),)}}, r"network\.kernels: a U-Net needs two stages at least"),
        ({"data": {"slice_axis": 2}}, r"data\.slice_axis: a 3D network takes no slices"),
        ({"network": {"spatial_dims": 2}, "augmentation": {"flip": {"axes": [0, 2]}}}, r"flip\.axes: .* across axis 2"),
    ],
)
def test_settings_that_contradict_are_refused(settings, message):
    with pytest.raises(UsageError, match=message) as error:
        plan(data_sets.config(**settings))
    assert error.value.exit_code == 2


def test_resolve_completes_the_configuration_and_keeps_what_was_set():
    config = data_sets.config(network={"features": (8, 16, 32), "norm": "batch"}, data={"fold": 3}, attention="scse")
    made = plan(config, **HIPPOCAMPUS)
    complete = resolve(config, made)
    planned = {"spatial_dims", "strides", "kernels", "stem"}
    assert complete.network.model_dump(exclude=planned) == config.network.model_dump(exclude=planned)
    assert complete.network.spatial_dims == made.spatial_dims == 3
    assert complete.attention == config.attention
    assert (complete.network.strides, complete.network.stem) == (made.strides, made.stem)
    assert (complete.training.patch, complete.training.batch_size) == (made.patch, made.batch_size)
    assert (complete.data.labels, complete.data.spacing, complete.data.fold) == (made.labels, made.spacing, 3)
    assert complete.augmentation.flip.axes == made.flip_axes
    assert resolve(complete, made) == complete


@pytest.mark.parametrize("dims", [2, 3])
def test_a_complete_configuration_plans_itself_again(dims):
    config = data_sets.config(network={"spatial_dims": dims})
    found = data_sets.fingerprint(shape=(100, 80, 30), spacing=(1.0, 1.0, 3.0))
    made = make_plan(config, data_sets.dataset(), found)
    complete = resolve(config, made)
    again = make_plan(complete, data_sets.dataset(labels=complete.data.labels), found)
    assert again.model_dump(exclude={"reasons"}) == made.model_dump(exclude={"reasons"})


def test_resolve_refuses_what_the_plan_does_not_allow():
    config = data_sets.config(network={"deep_supervision": (1.0, 0.5, 0.25, 0.125)})
    with pytest.raises(UsageError, match="network: deep_supervision: 4 weights, 3 features allow 1 to 2"):
        resolve(config, plan(config, **HIPPOCAMPUS))


@pytest.mark.parametrize(
    ("name", "patch", "stem", "flips"),
    [
        ("hippocampus", (40, 56, 40), (2, 2, 2), ()),
        ("acdc", None, (2, 2, 1), (1, 2)),
        ("sts_ct", None, (2, 2, 1), (0, 1, 2)),
    ],
)
def test_real_data(name, patch, stem, flips):
    config = data_sets.config(data={"root": data_sets.real_data(name)})
    dataset = find_dataset(config.data)
    made = make_plan(config, dataset, take_fingerprint(dataset))
    assert patch in (None, made.patch)
    assert (made.stem, made.flip_axes) == (stem, flips)
    check_fits(resolve(config, made))
