"""Labels against a plain pipeline of MONAI on real volumes, and of resampled volumes against their originals."""

from __future__ import annotations

import os
from pathlib import Path

import nibabel
import numpy as np
import pytest
import torch
from monai.inferers.utils import sliding_window_inference
from nibabel.processing import resample_to_output
from tiny_model import make_plan, make_predictor

from se_med.inference.predictor import Predictor
from se_med.io.volume import Volume

DATA = os.environ.get("SE_MED_DATA")
RUN = os.environ.get("SE_MED_RUN")
TRAINED = pytest.mark.skipif(RUN is None, reason="SE_MED_RUN is not set: it names the folder of a run trained on hippocampus")


def real_volumes(count: int) -> list[Path]:
    if DATA is None:
        pytest.skip("SE_MED_DATA is not set: it names the folder of the real data sets")
    return sorted((Path(DATA) / "hippocampus" / "imagesTr").glob("hippocampus_*.nii.gz"))[:count]


def by_monai(predictor: Predictor, path: Path) -> tuple[np.ndarray, np.ndarray]:
    """Labels of a volume in RAS order at the plan's spacing, with nothing of ours but the network, and by how much they won."""
    from monai.transforms.intensity.array import NormalizeIntensity
    from monai.transforms.io.array import LoadImage

    image = NormalizeIntensity()(LoadImage(image_only=True, ensure_channel_first=True, dtype=np.float32)(path))
    patch = predictor.plan.patch
    missing = [max(0, size - length) for size, length in zip(patch, image.shape[1:], strict=True)]
    pads = [(number // 2, number - number // 2) for number in missing]
    padded = np.pad(np.asarray(image), [(0, 0), *pads], constant_values=float(image.min()))
    with torch.inference_mode():
        logits = sliding_window_inference(torch.from_numpy(padded)[None], patch, 2, predictor.network.eval(), 0.5, "gaussian")[0]
    inside = tuple(slice(before, before + length) for (before, _), length in zip(pads, image.shape[1:], strict=True))
    values = np.array([0, *predictor.plan.labels.values()])
    highest, second = logits.topk(2, 0).values.numpy()
    return values[logits.argmax(0).numpy()[inside]], (highest - second)[inside]


def test_labels_of_ten_real_volumes_are_those_of_a_plain_monai_pipeline():
    """A random network has voxels at which two classes are as good as equal: there, rounding decides."""
    predictor = make_predictor(make_plan(patch=(24, 32, 24)), whole_volume="never")
    for path in real_volumes(10):
        assert nibabel.aff2axcodes(nibabel.load(path).affine) == ("R", "A", "S")
        labels = predictor.predict(path).labels
        expected, lead = by_monai(predictor, path)
        assert len(np.unique(labels)) > 1
        assert np.array_equal(labels[lead > 1e-4], expected[lead > 1e-4]), path.name
        assert (labels != expected).sum() <= 5


@TRAINED
def test_labels_of_a_trained_network_are_those_of_monai_to_the_voxel():
    loaded = Predictor.load(Path(str(RUN)), "cpu")
    plain = {"test_time_shifts": 1, "test_time_flips": False, "whole_volume": "never", "precision": "fp32", "overlap": 0.5}
    config = loaded.config.model_copy(update={"inference": loaded.config.inference.model_copy(update=plain)})
    predictor = Predictor(loaded.network, config, loaded.plan)
    for path in real_volumes(10):
        assert np.array_equal(predictor.predict(path).labels, by_monai(predictor, path)[0]), path.name


@TRAINED
def test_a_resampled_volume_gets_the_labels_of_its_original(tmp_path):
    """The network is trained, since random ones follow noise that interpolation takes away."""
    predictor = Predictor.load(Path(str(RUN)), "cpu")
    overlaps = []
    for path in real_volumes(10):
        original = nibabel.load(path)
        finer = resample_to_output(original, (0.7, 0.7, 2.0), order=3)
        volume = Volume(np.asarray(finer.dataobj, dtype=np.float32)[None], finer.affine)
        found = predictor.predict(volume).labels
        prepared = predictor.preparation.forward(Volume(np.asarray(original.dataobj, np.float32)[None], original.affine))
        logits = predictor.segment(prepared.array)
        # The original's logits on the finer grid, by torch's own sampling at the world positions of its voxels.
        index = np.stack(np.meshgrid(*map(np.arange, finer.shape), indexing="ij"), -1).reshape(-1, 3)
        position = nibabel.affines.apply_affine(np.linalg.inv(prepared.affine) @ finer.affine, index)
        scaled = 2 * position[:, ::-1] / (np.array(logits.shape[:0:-1]) - 1) - 1
        grid = torch.from_numpy(np.ascontiguousarray(scaled, dtype=np.float32))[None, :, None, None]
        sampled = torch.nn.functional.grid_sample(logits[None], grid, padding_mode="border", align_corners=True)
        expected = sampled[0].argmax(0).reshape(finer.shape).numpy()
        for index_, value in enumerate(predictor.plan.labels.values(), start=1):
            a, b = found == value, expected == index_
            overlaps.append(2 * (a & b).sum() / (a.sum() + b.sum()))
    assert np.mean(overlaps) >= 0.95
    assert min(overlaps) >= 0.9
