"""The fast samplers equal MONAI's resampling."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from monai.transforms.spatial.array import AffineGrid, Resample
from monai.transforms.utils import create_rotate
from prepared_samples import blobs
from scipy.ndimage import map_coordinates

from se_med.data import sampling
from se_med.data.sampling import sample_affine, sample_grid, sample_image
from se_med.fused.kernels import library


@pytest.fixture(params=["kernel", "torch"])
def way(request, monkeypatch):
    """Both ways of taking samples."""
    if request.param == "kernel" and library() is None:
        pytest.skip("the kernels are not compiled")
    if request.param == "torch":
        monkeypatch.setattr(sampling, "usable", lambda image, label=None: False)


@pytest.mark.parametrize(
    ("size", "source"),
    [
        *(((9, 12, 7), (15, 13, 11)), ((6, 8, 5), (6, 8, 1)), ((5, 6, 7), (1, 8, 9)), ((4, 5, 70), (9, 1, 60))),
        *(((9, 12), (14, 13)), ((5, 6), (1, 1))),
    ],
)
def test_affine_samples_equal_those_of_monai(size, source, way):
    rank = len(size)
    matrix = create_rotate(rank, [0.3, -0.2, 0.4] if rank == 3 else 0.3) @ np.diag([1.2] * rank + [1.0])
    volumes = [blobs((*source, 1)[:3], seed) for seed in range(2)]
    image = torch.from_numpy(np.stack([volume[0].reshape(source) for volume in volumes]))
    label = torch.from_numpy(volumes[0][1].reshape(1, *source))
    sampled, nearest = sample_affine(image, label, matrix, size)
    grid, _ = AffineGrid(affine=torch.from_numpy(matrix), dtype=np.float64)(size)
    expected = Resample(mode="bilinear", padding_mode="border", dtype=np.float64)(image, grid)
    assert sampled.dtype == torch.float32
    np.testing.assert_allclose(sampled, expected, atol=1e-3 * max(1.0, float(image.max() - image.min())))
    expected = Resample(mode="nearest", padding_mode="border", dtype=np.float64)(label, grid)
    assert nearest.dtype == torch.uint8
    assert nearest.shape == (1, *size)
    assert (nearest != expected).float().mean() < 0.01  # ties


@given(st.integers(2, 3), st.integers(0, 10_000), st.booleans(), st.booleans())
def test_the_kernel_takes_the_samples_that_scipy_and_torch_take(rank, seed, bent, cubic):
    if library() is None:
        pytest.skip("the kernels are not compiled")
    generator = np.random.default_rng(seed)
    size, source = generator.integers(1, 20, rank).tolist(), generator.integers(1, 24, rank).tolist()
    matrix = np.eye(rank + 1)
    matrix[:rank] = generator.normal(size=(rank, rank + 1))
    image = torch.from_numpy(generator.normal(size=(2, *source)).astype(np.float32))
    label = torch.from_numpy(generator.integers(0, 5, (1, *source)).astype(np.uint8))
    field = torch.from_numpy(generator.normal(scale=3, size=(rank, *size))).float() if bent else None
    sampled, nearest = sample_affine(image, label, matrix, size, field, cubic)
    positions = [position.expand(*size) for position in sampling.affine_positions(matrix, size, source, field)]
    order, mode = (3, "mirror") if cubic else (1, "nearest")
    expected = np.stack([map_coordinates(channel, positions, order=order, mode=mode) for channel in image.double().numpy()])
    np.testing.assert_allclose(sampled, expected, atol=1e-3)
    safe = torch.stack([((position % 1) - 0.5).abs() > 1e-4 for position in positions]).all(0)[None]
    assert torch.equal(nearest[safe], sampling.sample_nearest(label, positions)[safe])


@pytest.mark.parametrize("source", [(15, 13, 11), (6, 8, 1), (1, 8, 9), (2, 3, 4), (14, 13), (1, 1)])
def test_splines_go_through_the_voxels_and_equal_those_of_scipy(source, way):
    image = torch.from_numpy(blobs((*source, 1)[:3], 0)[0].reshape(1, *source))
    span = float(image.max() - image.min()) or 1.0
    matrix = np.eye(len(source) + 1)
    np.testing.assert_allclose(sample_image(image, matrix, source, cubic=True), image, atol=1e-5 * span)
    matrix[:-1] += np.random.default_rng(0).normal(scale=0.3, size=matrix[:-1].shape)
    positions = [each.expand(source) for each in sampling.affine_positions(matrix, source, source)]
    expected = map_coordinates(image[0].double().numpy(), positions, order=3, mode="mirror")
    np.testing.assert_allclose(sample_image(image, matrix, source, cubic=True)[0], expected, atol=1e-4 * span)


def test_grid_samples_equal_those_of_scipy():
    image = blobs((9, 12, 7), 0)[0]
    positions = [torch.linspace(-1, 9, 23).double(), torch.linspace(3, 4, 5).double(), torch.linspace(0, 6, 4).double()]
    expected = map_coordinates(image, np.meshgrid(*positions, indexing="ij"), order=1, mode="nearest")
    np.testing.assert_allclose(sample_grid(torch.from_numpy(image), positions), expected, rtol=1e-5, atol=1e-3)
