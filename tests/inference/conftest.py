from __future__ import annotations

import numpy as np
import pytest
import torch
from tiny_model import make_plan, make_predictor

from se_med.inference.predictor import Predictor


@pytest.fixture(autouse=True)
def one_thread():
    """Networks this small are slower with more threads."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture
def noise() -> np.ndarray:
    """A volume with structure at several scales, so that a random network gives all classes."""
    generator = np.random.default_rng(0)
    coarse = np.kron(generator.normal(size=(5, 6, 4)), np.ones((4, 4, 4)))
    return (coarse[:18, :21, :13] + 0.3 * generator.normal(size=(18, 21, 13))).astype(np.float32)


@pytest.fixture
def predictor() -> Predictor:
    return make_predictor(make_plan())
