"""The compiled kernels of norm.c, lines.c, cascade.c and loss.c: where they are, whether they can be used here, and the calls.

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
MODES = ("plain", "channel", "spatial", "larger", "sum")
"""How a map is gated; see norm.c."""
OFF = "SE_MED_NO_KERNELS"
"""Environment variable that turns the kernels off."""

_POINTERS = ("x", "mean", "rstd", "weight", "bias", "gate", "w", "s", "dz", "out", "partial")


class _Map(ctypes.Structure):
    """``Map`` of norm.c."""

    _fields_ = (
        *((name, ctypes.c_int64) for name in ("samples", "voxels", "channels")),
        *((name, ctypes.c_int32) for name in ("format", "mode", "threads", "width")),
        ("slope", ctypes.c_float),
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
            address, number = ctypes.c_void_p, ctypes.c_float
            kernels.se_med_chunks.argtypes, kernels.se_med_chunks.restype = [ctypes.c_int64], ctypes.c_int64
            kernels.se_med_widest.argtypes, kernels.se_med_widest.restype = [], ctypes.c_int64
            kernels.se_med_most_classes.argtypes, kernels.se_med_most_classes.restype = [], ctypes.c_int64
            kernels.se_med_loss_chunks.argtypes, kernels.se_med_loss_chunks.restype = [ctypes.c_int64], ctypes.c_int64
            kernels.se_med_dice_sums.argtypes, kernels.se_med_dice_gradient.argtypes = [address, address], [address]
            kernels.se_med_moments.argtypes = [address, number, address, address]
            kernels.se_med_slopes.argtypes = kernels.se_med_sums.argtypes = [address, address]
            kernels.se_med_forward.argtypes = kernels.se_med_backward.argtypes = [address]
            kernels.se_med_line_partial.argtypes, kernels.se_med_line_partial.restype = [address], ctypes.c_int64
            kernels.se_med_line_slopes.argtypes, kernels.se_med_line_sums.argtypes = [address, address], [address] * 3
            kernels.se_med_line_forward.argtypes = kernels.se_med_line_backward.argtypes = [address]
            kernels.se_med_cascade_partial.argtypes, kernels.se_med_cascade_partial.restype = [address], ctypes.c_int64
            kernels.se_med_cascade_squeeze.argtypes = kernels.se_med_cascade_sums.argtypes = [address, address]
            for name in ("pool", "forward", "voxels", "backward"):
                getattr(kernels, f"se_med_cascade_{name}").argtypes = [address]
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
    """One pass of the kernels over a map: its shape and buffers, as norm.c expects them.

    Args:
        x: the map, ``(B, C, *spatial)``, channels last.
        slope: of the activation on negative values.
        mode: one of ``MODES``.
        **buffers: the other fields of ``Map``, each contiguous float32 or a channels-last map like ``x``.

    On tensors without values nothing is computed.
    """

    def __init__(self, x: Tensor, slope: float, mode: str = "plain", **buffers: Tensor | None) -> None:
        kernels = library()
        if kernels is None:
            raise RuntimeError("the kernels are not compiled")
        self.kernels = kernels
        self.samples, self.channels = x.shape[:2]
        self.voxels = x.numel() // (self.samples * self.channels)
        self.buffers = {"x": x}
        self.map = _Map(
            samples=self.samples,
            voxels=self.voxels,
            channels=self.channels,
            format=FORMATS[x.dtype],
            mode=MODES.index(mode),
            threads=torch.get_num_threads(),
            width=kernels.se_med_width(),
            slope=slope,
        )
        for name, buffer in {"x": x, **buffers}.items():
            if buffer is not None:
                self._set(name, buffer)

    def moments(self, epsilon: float) -> tuple[Tensor, Tensor]:
        """Return mean and 1 / sqrt(variance + epsilon) of each channel of each sample, both ``(B, C)`` float32."""
        self._partial(2 * self.channels)
        mean, rstd = torch.empty(self.samples, self.channels), torch.empty(self.samples, self.channels)
        self._run("moments", epsilon, mean, rstd)
        return mean, rstd

    def slopes(self) -> Tensor:
        """Return sums over voxels of the activation's slope and of slope times normalised x, ``(B, 2, C)``."""
        self._partial(2 * self.channels)
        total = torch.empty(self.samples, 2, self.channels)
        self._run("slopes", total)
        return total

    def forward(self) -> None:
        """Fill ``out`` with the gated map, and ``s`` with the voxel gates where the mode has them."""
        self._run("forward")

    def sums(self) -> Tensor:
        """Return sums over voxels of the gradients, ``(B, 4 C + 1)``: du, du times normalised x, gate, w, w0."""
        self._partial(4 * self.channels + 1)
        total = torch.empty(self.samples, 4 * self.channels + 1)
        self._run("sums", total)
        return total

    def backward(self, corrections: Tensor) -> None:
        """Fill ``out`` with the gradient of ``x``; ``corrections`` is ``(B, 3, C)`` float32, see norm.c."""
        self._set("partial", corrections)
        self._run("backward")

    def _partial(self, width: int) -> None:
        self._set("partial", torch.empty(self.samples * self.kernels.se_med_chunks(self.voxels) * width))

    def _set(self, name: str, buffer: Tensor) -> None:
        self.buffers[name] = buffer
        if not isinstance(buffer, FakeTensor):
            setattr(self.map, name, buffer.data_ptr())

    def _run(self, kernel: str, *arguments: float | Tensor) -> None:
        if not isinstance(self.buffers["x"], FakeTensor):
            addresses = (argument.data_ptr() if isinstance(argument, Tensor) else argument for argument in arguments)
            getattr(self.kernels, f"se_med_{kernel}")(ctypes.addressof(self.map), *addresses)
