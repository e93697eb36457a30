"""Segments volumes with a trained network and gives labels on each volume's own grid."""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from se_med.config.experiment import Config
from se_med.data.plan import Plan
from se_med.data.preparation import Preparation, Prepared
from se_med.inference.flips import choose_test_time_flips, mean_over_flips
from se_med.inference.model import load_model
from se_med.inference.precision import resolve_precision
from se_med.inference.shifts import choose_shifts, mean_over_shifts
from se_med.inference.windows import segment
from se_med.io.images import read_image, read_images
from se_med.io.nifti import Volume

Source = str | os.PathLike[str] | Sequence[str | os.PathLike[str]] | Volume
"""What can be segmented: a file (3D, or 4D with the channels last), one file per channel, or a volume already read."""


@dataclass(frozen=True, eq=False)
class Segmentation:
    """Labels of one volume.

    Attributes:
        labels: (X, Y, Z) label values in the smallest unsigned type, in the volume's own shape and orientation.
        native: the volume that was segmented, as it was stored.
        volumes: volume of each structure in ml, in class order.
        seconds: time that preparation, network and restoring took; reading is not in it when a volume was given.
    """

    labels: NDArray[np.integer[Any]]
    native: Volume
    volumes: dict[str, float]
    seconds: float

    @property
    def affine(self) -> NDArray[np.float64]:
        """Voxel index -> mm in the RAS+ world, (4, 4)."""
        return self.native.affine


class Predictor:
    """Segments volumes with one network, which is loaded once.

    Training validates with it, `se-med predict` runs it over files::

        predictor = Predictor.load("runs/hippocampus")
        segmentation = predictor.predict("subject.nii.gz")

    Args:
        network: takes (B, C, *S) and returns logits (B, classes, *S). It runs where its weights are.
        config: effective configuration of the run (its `inference` part is used).
        plan: plan of the run.
        digest: the model's digest, for records; empty for a network in training.

    Attributes:
        flips: axes (RAS) of the test-time flips.
        shifts: test-time shifts, voxels per axis (RAS); one for a single pass.

    Raises:
        UsageError: test-time flips along an axis that was not flipped in training.
    """

    def __init__(self, network: nn.Module, config: Config, plan: Plan, digest: str = "") -> None:
        self.network = network
        self.config = config
        self.plan = plan
        self.digest = digest
        self.device = next((parameter.device for parameter in network.parameters()), torch.device("cpu"))
        self.precision = resolve_precision(config.inference.precision, self.device)
        self.flips = choose_test_time_flips(config)
        self.shifts = choose_shifts(self._blocks(), config.inference.test_time_shifts)
        self.preparation = Preparation(plan)

    @classmethod
    def load(
        cls, run: str | os.PathLike[str], device: str | torch.device = "auto", test_time_flips: bool | Sequence[int] | None = None
    ) -> Self:
        """Load the model of a finished run.

        Args:
            run: the run folder.
            device: `auto`, `cpu`, `gpu`, or a torch device.
            test_time_flips: axes to flip, or all or none of those that were flipped in training; by default as the run's
                configuration says.

        Raises:
            UsageError: there is no such folder, no such device, or a test-time flip that was not trained.
            ConfigError: the run's `config.yaml` is not valid.
            RunError: a file is missing or damaged, or does not belong to the others.
        """
        model = load_model(Path(run), device)
        config = model.config
        if test_time_flips is not None:
            flips = test_time_flips if isinstance(test_time_flips, bool) else tuple(test_time_flips)
            config = config.model_copy(update={"inference": config.inference.model_copy(update={"test_time_flips": flips})})
        return cls(model.network, config, model.plan, model.digest)

    def predict(self, source: Source) -> Segmentation:
        """Segment one volume.

        Raises:
            ImageError: the volume cannot be read, or has another number of channels than the network.
            RunError: the network's output is not finite.
        """
        start = time.perf_counter()
        native = _read(source)
        prepared = self.preparation.forward(native)
        labels = self.restore(self.segment(prepared.array), prepared)
        return Segmentation(labels, native, self.volumes(labels, native), time.perf_counter() - start)

    def segment(self, array: NDArray[np.float32]) -> Tensor:
        """Compute the logits of a prepared volume.

        Args:
            array: (C, X, Y, Z), as `Preparation.forward` or the cache of prepared cases gives it.

        Returns:
            Logits (classes, X, Y, Z), float32, on the CPU; with test-time flips or shifts the logarithms of the mean
            probabilities. The network's training mode is left as it was.

        Raises:
            RunError: the logits are not finite.
        """
        training = self.network.training
        self.network.eval()
        try:
            return mean_over_flips(self._segment_shifted, array, self.flips)
        finally:
            self.network.train(training)

    def _blocks(self) -> tuple[int, ...]:
        """Return the blocks of the stem along the three axes of the volume; 1 where there is none."""
        blocks = list(self.config.network.stem or (1,) * len(self.plan.patch))
        if self.plan.slice_axis is not None:
            blocks.insert(self.plan.slice_axis, 1)
        return tuple(blocks)

    def _segment_shifted(self, array: NDArray[np.float32]) -> Tensor:
        return mean_over_shifts(self._segment_once, array, self.shifts)

    def _segment_once(self, array: NDArray[np.float32]) -> Tensor:
        return segment(self.network, array, self.plan, self.config.inference, self.device)

    def restore(self, logits: Tensor, prepared: Prepared) -> NDArray[np.integer[Any]]:
        """Take logits to label values (X, Y, Z) on the volume's own grid."""
        return self.preparation.restore(logits, prepared)

    def volumes(self, labels: NDArray[np.integer[Any]], native: Volume) -> dict[str, float]:
        """Return the volume of each structure in ml, in class order."""
        voxel = float(abs(np.linalg.det(native.affine[:3, :3]))) / 1000.0
        return {name: int(np.count_nonzero(labels == value)) * voxel for name, value in self.plan.labels.items()}


def _read(source: Source) -> Volume:
    if isinstance(source, Volume):
        return source
    if isinstance(source, str | os.PathLike):
        return read_image(source)
    return read_images(source)
