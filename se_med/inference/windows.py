"""A prepared volume through the network: in one pass where it fits the patch, else in overlapping windows."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from monai.inferers.utils import sliding_window_inference
from numpy.typing import NDArray
from torch import Tensor, nn

from se_med.config.inference import InferenceConfig
from se_med.data.padding import pad_to
from se_med.data.plan import Plan
from se_med.errors import RunError
from se_med.inference.precision import autocast, resolve_precision


def segment(
    network: nn.Module,
    image: NDArray[np.float32],
    plan: Plan,
    inference: InferenceConfig,
    device: torch.device,
) -> Tensor:
    """Compute the logits of a prepared volume.

    Volumes smaller than the patch are padded as in training (`se_med.data.padding.pad_to`). Windows have the size of the
    patch; where they overlap, logits are averaged with Gaussian weights. A 2D network takes the slices across
    `plan.slice_axis`, several at a time.

    Args:
        network: takes (B, C, *S) and returns logits (B, classes, *S); in evaluation mode.
        image: (C, X, Y, Z), normalised, in RAS order at the plan's spacing.
        plan: gives the patch and, for 2D networks, the slice axis.
        inference: overlap of the windows, how many pass through the network together, and with which arithmetic.
        device: where the network is. The volume and its logits stay in main memory.

    Returns:
        Logits (classes, X, Y, Z), float32, on the CPU.

    Raises:
        RunError: the logits are not finite.
    """
    precision = resolve_precision(inference.precision, device)

    def forward(batch: Tensor) -> Tensor:
        with autocast(precision, device):
            logits: Tensor = network(batch.to(device))
        return logits.float()

    axis = plan.slice_axis
    size = list(plan.patch)
    if axis is not None:
        size.insert(axis, 1)
    with torch.inference_mode():
        padded, inside = pad_to(image, size)
        volume = _tensor(padded)
        batch = volume[None] if axis is None else torch.movedim(volume, 1 + axis, 0)
        logits = _windows(forward, batch, plan.patch, inference)
        logits = (logits[0] if axis is None else torch.movedim(logits, 0, 1 + axis))[inside]
        # Any NaN or infinity makes the sum one, without a mask of the size of the logits.
        if not bool(torch.isfinite(logits.sum(dtype=torch.float64))):
            raise RunError(f"the network's output is not finite in {precision}; try inference.precision=fp32, or train again")
        return logits


def _windows(forward: Any, batch: Tensor, patch: tuple[int, ...], inference: InferenceConfig) -> Tensor:
    """Take (B, C, *S), no smaller than the patch, to logits (B, classes, *S)."""
    if tuple(batch.shape[2:]) == patch:
        return torch.cat([forward(part).cpu() for part in torch.split(batch, inference.window_batch)])
    logits: Tensor = sliding_window_inference(
        batch,
        roi_size=patch,
        sw_batch_size=inference.window_batch,
        predictor=forward,
        overlap=inference.overlap,
        mode="gaussian",
        device="cpu",
    )
    return logits


def _tensor(array: NDArray[np.float32]) -> Tensor:
    # Prepared volumes may be read-only memory maps, which torch cannot wrap without a copy.
    return torch.from_numpy(array if array.flags.writeable and not isinstance(array, np.memmap) else np.array(array))
