"""The fast samplers equal MONAI's resampling."""

import numpy as np
import pytest
import torch
from monai.transforms.spatial.array import AffineGrid, Resample
from monai.transforms.utils import create_rotate
from prepared_samples import blobs
from scipy.ndimage import map_coordinates

from se_med.data.sampling import affine_positions, sample_grid, sample_linear, sample_nearest


@pytest.mark.parametrize(
    ("size", "source"), [((9, 12, 7), (15, 13, 11)), ((6, 8, 5), (6, 8, 1)), ((5, 6, 7), (1, 8, 9)), ((9, 12), (14, 13))]
)
def test_affine_samples_equal_those_of_monai(size, source):
    rank = len(size)
    matrix = create_rotate(rank, [0.3, -0.2, 0.4] if rank == 3 else 0.3) @ np.diag([1.2] * rank + [1.0])
    volumes = [blobs((*source, 1)[:3], seed) for seed in range(2)]
    image = torch.from_numpy(np.stack([volume[0].reshape(source) for volume in volumes]))
    label = torch.from_numpy(volumes[0][1].reshape(1, *source))
    positions = affine_positions(matrix, size, source)
    grid, _ = AffineGrid(affine=torch.from_numpy(matrix), dtype=np.float64)(size)
    expected = Resample(mode="bilinear", padding_mode="border", dtype=np.float64)(image, grid)
    sampled = sample_linear(image, positions)
    assert sampled.dtype == torch.float32
    np.testing.assert_allclose(sampled, expected, atol=1e-3 * float(image.max() - image.min()))
    expected = Resample(mode="nearest", padding_mode="border", dtype=np.float64)(label, grid)
    nearest = sample_nearest(label, positions)
    assert nearest.dtype == torch.uint8
    assert (nearest != expected).float().mean() < 0.01  # ties


def test_grid_samples_equal_those_of_scipy():
    image = blobs((9, 12, 7), 0)[0]
    positions = [torch.linspace(-1, 9, 23).double(), torch.linspace(3, 4, 5).double(), torch.linspace(0, 6, 4).double()]
    expected = map_coordinates(image, np.meshgrid(*positions, indexing="ij"), order=1, mode="nearest")
    np.testing.assert_allclose(sample_grid(torch.from_numpy(image), positions), expected, rtol=1e-5, atol=1e-3)
