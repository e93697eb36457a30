"""Convolutions in fewer passes or products than oneDNN makes: by matrix tiles (AMX) in bf16, by Winograd's tiles in float32.

In bf16 only the gradient of the weights is computed here. What is left to torch goes to oneDNN, which torch does not ask for a
single small map in float32: 10x14x10, 128 to 64 channels, took 9.8 ms its own way and 2.9 ms by oneDNN.
"""

from __future__ import annotations

import ctypes
import math
from collections.abc import Sequence
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from se_med.fused import winograd
from se_med.fused.kernels import library, memory_format

FEWEST = 24
"""Channels of either map from which on the tiles, which hold 32, gain anything."""
SMALLEST = 9
"""Voxels of the smallest kernel for which turning the maps round is worth it."""
BLOCK = 32


class _Convolution(ctypes.Structure):
    """``Convolution`` of convolution.c."""

    _fields_ = (
        *((name, ctypes.c_int64) for name in ("samples", "inputs", "outputs")),
        ("size", ctypes.c_int64 * 3),
        ("kernel", ctypes.c_int64 * 3),
        *((name, ctypes.c_int32) for name in ("threads", "unused")),
        *((name, ctypes.c_void_p) for name in ("x", "dy", "partial", "dw")),
    )


@lru_cache(maxsize=1)
def has_tiles() -> bool:
    """Return whether the processor has matrix tiles for bf16 and the kernels are compiled for them."""
    kernels = library()
    return hasattr(kernels, "se_med_tiles") and bool(kernels.se_med_tiles())  # type: ignore[union-attr]


def weight_gradient(x: Tensor, grad: Tensor, kernel: Sequence[int]) -> Tensor:
    """Return the gradient of the weights of a convolution with stride 1 and half the kernel as padding.

    Args:
        x: its input, ``(B, I, *spatial)`` bf16, channels last.
        grad: gradient of its output, ``(B, O, *spatial)`` bf16, channels last.
        kernel: odd sizes.

    Returns:
        ``(O, I, *kernel)`` float32, channels last. Products are summed up in float32, those of a sample in the same order at
        any number of threads.

    Raises:
        MemoryError: there is no room for the maps in the order of the tiles.
    """
    samples, inputs, outputs = x.shape[0], x.shape[1], grad.shape[1]
    taps, ones = math.prod(kernel), (1,) * (3 - len(kernel))
    partial = torch.empty(samples * taps * (-(-inputs // BLOCK) * BLOCK) * (-(-outputs // BLOCK) * BLOCK))
    dw = torch.empty(outputs, *kernel, inputs)
    work = _Convolution(
        samples=samples,
        inputs=inputs,
        outputs=outputs,
        size=(*ones, *x.shape[2:]),
        kernel=(*ones, *kernel),
        threads=torch.get_num_threads(),
        x=x.data_ptr(),
        dy=grad.data_ptr(),
        partial=partial.data_ptr(),
        dw=dw.data_ptr(),
    )
    if not library().se_med_weight_gradient(ctypes.byref(work)):  # type: ignore[union-attr]  # has_tiles has seen it
        raise MemoryError("no room for the gradient of a convolution's weights; use smaller patches or batches")
    return dw.movedim(-1, 1)


class _Convolve(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, padding: Sequence[int]) -> Tensor:
        half, weights = x.to(torch.bfloat16).contiguous(memory_format=memory_format(x.ndim - 2)), weight.to(torch.bfloat16)
        ctx.save_for_backward(half, weights)
        ctx.padding, ctx.format = list(padding), x.dtype
        convolve = torch.conv3d if x.ndim == 5 else torch.conv2d
        return convolve(half, weights, padding=ctx.padding)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, Tensor | None, None]:
        x, weight = ctx.saved_tensors
        rank = x.ndim - 2
        grad = grad.to(torch.bfloat16).contiguous(memory_format=memory_format(rank))
        ones, zeros = [1] * rank, [0] * rank
        grad_x = None
        if ctx.needs_input_grad[0]:
            backward = torch.ops.aten.convolution_backward
            found = backward(grad, x, weight, None, ones, ctx.padding, ones, False, zeros, 1, [True, False, False])
            grad_x = found[0].to(ctx.format)
        return grad_x, weight_gradient(x, grad, weight.shape[2:]) if ctx.needs_input_grad[1] else None, None


def _fits(convolution: nn.Conv2d | nn.Conv3d, x: Tensor) -> bool:
    """Return whether the tiles gain anything in training this convolution."""
    kernel = convolution.kernel_size
    return (
        torch.is_grad_enabled()
        and convolution.weight.requires_grad
        and torch.is_autocast_enabled("cpu")
        and torch.get_autocast_dtype("cpu") == torch.bfloat16
        and type(x) is Tensor
        and x.device.type == "cpu"
        and x.numel() > 0
        and min(convolution.in_channels, convolution.out_channels) >= FEWEST
        and math.prod(kernel) >= SMALLEST
        and convolution.bias is None
        and convolution.groups == 1
        and {*convolution.stride, *convolution.dilation} == {1}
        and convolution.padding == tuple(size // 2 for size in kernel)
        and all(size % 2 for size in kernel)
        and convolution.padding_mode == "zeros"
        and convolution.weight.dtype == torch.float32
        and not torch.compiler.is_compiling()
        and not torch.compiler.is_exporting()
        and library() is not None
        and has_tiles()
    )


def _is_slow(convolution: nn.Conv2d | nn.Conv3d, x: Tensor) -> bool:
    """Return whether torch might take its own way, for a single small map in float32, which is slower than oneDNN."""
    return bool(
        type(x) is Tensor
        and x.device.type == "cpu"
        and x.ndim == convolution.weight.ndim
        and x.shape[0] == 1
        and x.shape[1] == convolution.in_channels
        and x.numel() > 0
        and x.dtype == convolution.weight.dtype == torch.float32
        and not torch.is_grad_enabled()
        and not torch.is_autocast_enabled("cpu")
        and convolution.padding_mode == "zeros"
        and not isinstance(convolution.padding, str)
        and torch.backends.mkldnn.is_available()  # type: ignore[no-untyped-call]
        and not torch.compiler.is_compiling()
        and not torch.compiler.is_exporting()
    )


def _by_onednn(convolution: nn.Conv2d | nn.Conv3d, x: Tensor) -> Tensor:
    steps, dilation = list(convolution.stride), list(convolution.dilation)
    padding = list(convolution.padding)
    return torch.ops.aten.mkldnn_convolution(  # type: ignore[no-any-return]
        x, convolution.weight, convolution.bias, padding, steps, dilation, convolution.groups
    )


class Conv2d(nn.Conv2d):
    """torch's layer, computed by tiles where they gain something."""

    def forward(self, input: Tensor) -> Tensor:  # noqa: A002  (the name in torch)
        """Map ``(B, C, *spatial)``."""
        if _fits(self, input):
            return _Convolve.apply(input, self.weight, self.padding)  # type: ignore[no-untyped-call,no-any-return]
        if winograd.fits(self, input):
            return winograd.apply(input, self.weight)
        if _is_slow(self, input):
            return _by_onednn(self, input)
        return super().forward(input)


class Conv3d(nn.Conv3d):
    """torch's layer, computed by tiles where they gain something."""

    def forward(self, input: Tensor) -> Tensor:  # noqa: A002  (the name in torch)
        """Map ``(B, C, *spatial)``."""
        if _fits(self, input):
            return _Convolve.apply(input, self.weight, self.padding)  # type: ignore[no-untyped-call,no-any-return]
        if winograd.fits(self, input):
            return winograd.apply(input, self.weight)
        if _is_slow(self, input):
            return _by_onednn(self, input)
        return super().forward(input)
