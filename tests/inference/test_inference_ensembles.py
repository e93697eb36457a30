"""Ensembles: the mean of probabilities, on shared windows and on the volume's own grid; what cannot be averaged."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from tiny_model import make_config, make_network, make_plan, write_image
from torch import Tensor

from se_med.data.plan import Normalisation, Plan
from se_med.data.preparation import Preparation
from se_med.errors import UsageError
from se_med.inference.model import Model, save_model
from se_med.inference.predictor import Predictor
from se_med.io.volume import Volume


def model(plan: Plan, seed: int = 0, name: str = "tiny", **inference) -> Model:
    config = make_config(plan, **inference).model_copy(update={"seed": seed, "name": name})
    return Model(make_network(config, plan).eval(), config, plan, f"digest {seed}")


def ensemble(*models: Model) -> Predictor:
    first, *others = models
    return Predictor(first.network, first.config, first.plan, first.digest, others)


def on_native_grid(one: Model, volume: Volume) -> Tensor:
    """Probabilities of one network on the grid of a volume in RAS order, by torch's own interpolation."""
    predictor = ensemble(one)
    prepared = Preparation(one.plan).forward(volume)
    logits = predictor.segment(prepared.array)
    if logits.shape[1:] == volume.shape:
        return logits.softmax(0)
    # Where prepared voxels lie, in native voxels; the affines are diagonal here.
    grids = []
    for axis, length in enumerate(volume.shape):
        spacing, offset = prepared.affine[axis, axis], prepared.affine[axis, 3] - volume.affine[axis, 3]
        position = (torch.arange(length) * volume.affine[axis, axis] - offset) / spacing
        grids.append(2 * position / (logits.shape[1 + axis] - 1) - 1)
    grid = torch.stack(torch.meshgrid(*[one.float() for one in grids], indexing="ij")[::-1], -1)
    resampled = torch.nn.functional.grid_sample(logits[None], grid[None], padding_mode="border", align_corners=True)[0]
    return resampled.softmax(0)


def by_maximum(probabilities: Tensor) -> np.ndarray:
    return np.array([0, 3, 7])[probabilities.argmax(0).numpy()]


@pytest.mark.parametrize("inference", [{}, {"whole_volume": "never"}, {"window_batch": 1, "overlap": 0.25}])
def test_networks_of_one_plan_are_averaged_on_shared_windows(noise, inference):
    models = [model(make_plan(), seed, **inference) for seed in range(3)]
    volume = Volume(noise[None], np.eye(4))
    found = ensemble(*models).predict(volume, probabilities=True)
    mean = torch.stack([on_native_grid(one, volume) for one in models]).mean(0)
    if inference.get("whole_volume") != "never" and "overlap" not in inference:  # one piece: the mean of probabilities, exactly
        np.testing.assert_allclose(found.probabilities / 255, mean, atol=0.5 / 255 + 1e-5)
    else:  # windows are weighed as probabilities here, as logits there
        assert np.abs(found.probabilities / 255 - mean.numpy()).max() < 0.1
    assert (found.labels == by_maximum(mean)).mean() > 0.99
    assert set(np.unique(found.labels)) == {0, 3, 7}


def test_networks_of_other_spacings_and_patches_are_averaged_on_the_own_grid(noise):
    plans = [
        make_plan(),
        make_plan(spacing=(2.0, 1.0, 1.5)),
        make_plan(patch=(8, 24, 12)),
        make_plan(2),
    ]
    models = [model(plan, seed) for seed, plan in enumerate(plans)]
    volume = Volume(noise[None], np.eye(4))
    found = ensemble(*models).predict(volume, probabilities=True)
    mean = torch.stack([on_native_grid(one, volume) for one in models]).mean(0)
    np.testing.assert_allclose(found.probabilities / 255, mean, atol=0.5 / 255 + 1e-4)
    assert (found.labels == by_maximum(mean)).mean() > 0.999


def test_each_network_sees_intensities_as_in_its_training(noise):
    def ct(mean: float) -> Plan:
        return make_plan().model_copy(
            update={"normalisation": (Normalisation(method="ct", clip=(-3.0, 3.0), mean=mean, std=0.7),)}
        )

    models = [model(ct(0.0), 0), model(ct(0.9), 1)]
    volume = Volume(noise[None, :16, :16], np.eye(4))
    found = ensemble(*models).predict(volume, probabilities=True)
    mean = torch.stack([on_native_grid(one, volume) for one in models]).mean(0)
    np.testing.assert_allclose(found.probabilities / 255, mean, atol=0.5 / 255 + 1e-5)


def test_an_ensemble_of_one_network_twice_is_that_network(noise):
    one = model(make_plan())
    volume = Volume(noise[None], np.eye(4))
    assert np.array_equal(ensemble(one, one).predict(volume).labels, ensemble(one).predict(volume).labels)


def test_members_keep_their_own_flips_and_the_digest_names_them_all(noise):
    plain, flipping = model(make_plan()), model(make_plan(), 1, test_time_flips=True)
    flip = flipping.config.augmentation.flip.model_copy(update={"axes": (0, 2), "probability": 0.5})
    augmentation = flipping.config.augmentation.model_copy(update={"flip": flip})
    flipping = Model(flipping.network, flipping.config.model_copy(update={"augmentation": augmentation}), flipping.plan, "other")
    both = ensemble(plain, flipping)
    assert [member.count for member in both.members] == [1, 4]
    assert len({both.digest, ensemble(plain).digest, ensemble(flipping, plain).digest}) == 3
    volume = Volume(noise[None, :16, :16], np.eye(4))
    apart = [ensemble(one).predict(volume, probabilities=True).probabilities.astype(float) for one in (plain, flipping)]
    found = both.predict(volume, probabilities=True).probabilities
    np.testing.assert_allclose(found, np.mean(apart, 0), atol=1.001)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"labels": {"front": 3, "back": 8}}, r"second: cannot be averaged with first: its structures are front 3, back 8"),
        ({"labels": {"back": 7, "front": 3}}, r"its structures are back 7, front 3, those of first are front 3, back 7"),
        ({"channels": ("T2",)}, r"its channels are T2, those of first are c0"),
    ],
)
def test_networks_of_other_structures_or_channels_are_refused(change, message):
    with pytest.raises(UsageError, match=message):
        ensemble(model(make_plan(), name="first"), model(make_plan().model_copy(update=change), name="second"))


def test_runs_are_loaded_together(tmp_path, noise):
    models = [model(make_plan(), seed) for seed in range(2)]
    for index, one in enumerate(models):
        (tmp_path / str(index)).mkdir()
        save_model(tmp_path / str(index), one.network.state_dict(), one.config, one.plan)
    path = write_image(tmp_path / "a.nii.gz", noise)
    loaded = Predictor.load([tmp_path / "0", tmp_path / "1"], "cpu")
    assert np.array_equal(loaded.predict(path).labels, ensemble(*models).predict(path).labels)
    assert loaded.digest != Predictor.load(tmp_path / "0", "cpu").digest
    with pytest.raises(UsageError, match="no run given"):
        Predictor.load([])
