"""The compiled kernels of norm.c, lines.c and so on: where they are, whether they can be used here, and the calls.

They are compiled when se-med is installed. Without a compiler they are missing, and torch computes the same, more slowly.
"""

from __future__ import annotations

import ctypes
import os
from functools import lru_cache
from importlib.machinery import EXTENSION_SUFFIXES
from pathlib import Path

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensor

FORMATS = {torch.bfloat16: 0, torch.float32: 1}
"""Number formats that the kernels know."""
MODES = ("channel", "spatial", "larger", "sum")
"""How a map is gated; see norm.c."""
WIDEST = 1024
"""Units of the widest hidden layer that the kernels have room for."""
OFF = "SE_MED_NO_KERNELS"
"""Environment variable that turns the kernels off."""

MOMENTS, SLOPES, EXCITE, FORWARD = 1, 2, 4, 8
"""Steps of ``Pass.forward``; see norm.c."""
SUMS, CORRECT, EXCITE_BACK, BACKWARD = 1, 2, 4, 8
"""Steps of ``Pass.backward``; see norm.c."""

_POINTERS = (
    *("x", "mean", "rstd", "weight", "bias", "slopes", "pooled", "units", "gate", "w1", "b1", "w2", "b2", "w", "s", "dz", "ds"),
    *("totals", "dunits", "dlogits", "corrections", "out", "partial"),
)


class _Map(ctypes.Structure):
    """``Map`` of map.h."""

    _fields_ = (
        *((name, ctypes.c_int64) for name in ("samples", "voxels", "channels", "hidden")),
        *((name, ctypes.c_int32) for name in ("format", "mode", "threads", "width")),
        *((name, ctypes.c_float) for name in ("slope", "epsilon")),
        *((name, ctypes.c_void_p) for name in _POINTERS),
    )


@lru_cache(maxsize=1)
def library() -> ctypes.CDLL | None:
    """Return the compiled kernels; None where there are none or ``SE_MED_NO_KERNELS`` is set."""
    if os.environ.get(OFF):
        return None
    for path in (Path(__file__).parent / f"_kernels{suffix}" for suffix in EXTENSION_SUFFIXES):
        if path.is_file():
            # torch is loaded by now, and its OpenMP runtime with it: both share one set of threads.
            kernels = ctypes.CDLL(str(path))
            address = ctypes.c_void_p
            kernels.se_med_chunks.argtypes, kernels.se_med_chunks.restype = [ctypes.c_int64], ctypes.c_int64
            kernels.se_med_widest.argtypes, kernels.se_med_widest.restype = [], ctypes.c_int64
            kernels.se_med_most_classes.argtypes, kernels.se_med_most_classes.restype = [], ctypes.c_int64
            kernels.se_med_loss_chunks.argtypes, kernels.se_med_loss_chunks.restype = [ctypes.c_int64], ctypes.c_int64
            kernels.se_med_dice_sums.argtypes, kernels.se_med_dice_gradient.argtypes = [address, address], [address]
            kernels.se_med_norm_forward.argtypes = kernels.se_med_norm_backward.argtypes = [address, ctypes.c_int32]
            kernels.se_med_line_partial.argtypes, kernels.se_med_line_partial.restype = [address], ctypes.c_int64
            kernels.se_med_line_slopes.argtypes, kernels.se_med_line_sums.argtypes = [address, address], [address] * 3
            kernels.se_med_line_means.argtypes = [address, address]
            kernels.se_med_line_forward.argtypes = kernels.se_med_line_backward.argtypes = [address]
            kernels.se_med_cascade_partial.argtypes, kernels.se_med_cascade_partial.restype = [address], ctypes.c_int64
            kernels.se_med_cascade_squeeze.argtypes = kernels.se_med_cascade_sums.argtypes = [address, address]
            for name in ("pool", "forward", "voxels", "backward"):
                getattr(kernels, f"se_med_cascade_{name}").argtypes = [address]
            for name in ("forward_middle", "forward_wide", "gradient_middle", "gradient_wide"):
                if hasattr(kernels, f"se_med_winograd_{name}"):
                    getattr(kernels, f"se_med_winograd_{name}").argtypes = [address]
            return kernels
    return None


def memory_format(rank: int) -> torch.memory_format:
    """Return the channels-last format of maps with ``rank`` spatial axes."""
    return torch.channels_last_3d if rank == 3 else torch.channels_last


def usable(x: Tensor) -> bool:
    """Return whether the kernels can work on maps like ``x``, ``(B, C, *spatial)``: a tensor in main memory, bf16 or fp32.

    A tensor without values is let through like any other, so that what a network keeps in memory is counted as it is kept.
    """
    kernels = library()
    return (
        kernels is not None
        and type(x) in (Tensor, FakeTensor)
        and x.device.type == "cpu"
        and x.dtype in FORMATS
        and x.ndim in (4, 5)
        and 0 < x.shape[1] <= kernels.se_med_widest()
        and x.numel() > 0
        and not torch.compiler.is_compiling()
        and not torch.compiler.is_exporting()
    )


class Pass:
    """Passes of the kernels over a map: its shape and buffers, as map.h expects them.

    Args:
        x: the map, ``(B, C, *spatial)``, channels last.
        slope: of the activation on negative values.
        mode: one of ``MODES``.
        epsilon: added to the variance.
        **buffers: the other fields of ``Map``, each contiguous float32 or a channels-last map like ``x``.

    On tensors without values nothing is computed.
    """

    def __init__(self, x: Tensor, slope: float, mode: str = "channel", epsilon: float = 0.0, **buffers: Tensor | None) -> None:
        kernels = library()
        if kernels is None:
            raise RuntimeError("the kernels are not compiled")
        self.kernels = kernels
        samples, channels = x.shape[:2]
        voxels = x.numel() // (samples * channels)
        # Room for the sums of all chunks, of either direction.
        rows = samples * kernels.se_med_chunks(voxels) * (4 * channels + 1)
        self.buffers = {"x": x, "partial": torch.empty(rows), **buffers}
        self.empty = isinstance(x, FakeTensor)
        if self.empty:
            return
        units = buffers.get("units")
        self.map = _Map(
            samples=samples,
            voxels=voxels,
            channels=channels,
            hidden=0 if units is None else units.shape[1],
            format=FORMATS[x.dtype],
            mode=MODES.index(mode),
            threads=torch.get_num_threads(),
            width=kernels.se_med_width(),
            slope=slope,
            epsilon=epsilon,
            **{name: buffer.data_ptr() for name, buffer in self.buffers.items() if buffer is not None},
        )

    def forward(self, steps: int) -> None:
        """Fill the buffers that the steps ``MOMENTS``, ``SLOPES``, ``EXCITE`` and ``FORWARD`` give."""
        if not self.empty:
            self.kernels.se_med_norm_forward(ctypes.addressof(self.map), steps)

    def backward(self, steps: int) -> None:
        """Fill the buffers that the steps ``SUMS``, ``CORRECT``, ``EXCITE_BACK`` and ``BACKWARD`` give."""
        if not self.empty:
            self.kernels.se_med_norm_backward(ctypes.addressof(self.map), steps)


def moments(x: Tensor, epsilon: float) -> tuple[Tensor, Tensor]:
    """Return mean and 1 / sqrt(variance + epsilon) of each channel of each sample, both ``(B, C)`` float32."""
    mean, rstd = torch.empty(x.shape[:2]), torch.empty(x.shape[:2])
    Pass(x, 0.0, epsilon=epsilon, mean=mean, rstd=rstd).forward(MOMENTS)
    return mean, rstd
