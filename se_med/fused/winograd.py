"""Convolutions in float32 with a third to a half of the products (Winograd's minimal filtering): where bf16 is not fast.

Lavin & Gray 2015, arXiv:1509.09308, in two and three dimensions, forward and backward; see winograd.h. oneDNN has none in three.
"""

from __future__ import annotations

import ctypes
import math
from collections.abc import Sequence
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from se_med.fused.kernels import library, memory_format

FEWEST = 16
"""Channels of either map from which on the products are what a convolution costs."""
FEWEST_OF_GRADIENT = 32
"""The same for the gradient of the weights."""
TILES_PER_CHANNEL = 2
"""Tiles for each channel of the wider map from which on the transformed weights are read often enough."""
MOST_SUMS = 64 * 96 * 96
"""Sums of the gradient of the weights that go through the cache fast enough: all of them do for each block of tiles."""
SIDE = 16
"""Numbers of the widest vector."""
CHUNKS = 8
"""Most sums of the gradient of the weights that are made side by side and then added in their order."""
ENOUGH = 256
"""Tiles that are worth sums of their own."""
WIDTHS = {2: "middle", 3: "wide"}
"""Names of the kernels by the width of the processor's vectors; see ``se_med_width``."""


class _Winograd(ctypes.Structure):
    """``Winograd`` of winograd.h."""

    _fields_ = (
        *((name, ctypes.c_int64) for name in ("samples", "inputs", "outputs")),
        ("size", ctypes.c_int64 * 3),
        ("chunks", ctypes.c_int64),
        *((name, ctypes.c_int32) for name in ("depth", "threads")),
        *((name, ctypes.c_void_p) for name in ("x", "w", "u", "y", "partial", "dw")),
    )


def _rounded(channels: int) -> int:
    return -(-channels // SIDE) * SIDE


def _call(
    step: Literal["forward", "gradient"], x: Tensor, y: Tensor, kernel: Sequence[int], chunks: int = 1, **buffers: Tensor
) -> None:
    kernels = library()
    width = WIDTHS[kernels.se_med_width()]  # type: ignore[union-attr]  # `fits` has seen it
    ones = (1,) * (3 - len(kernel))
    work = _Winograd(
        samples=x.shape[0],
        inputs=x.shape[1],
        outputs=y.shape[1],
        size=(*ones, *x.shape[2:]),
        chunks=chunks,
        depth=(*ones, *kernel)[0],
        threads=torch.get_num_threads(),
        x=x.data_ptr(),
        y=y.data_ptr(),
        **{name: buffer.data_ptr() for name, buffer in buffers.items()},
    )
    if not getattr(kernels, f"se_med_winograd_{step}_{width}")(ctypes.byref(work)):
        raise MemoryError("no room for the tiles of a convolution; use smaller patches or batches")


def _positions(kernel: Sequence[int]) -> int:
    return 64 if tuple(kernel) == (3, 3, 3) else 16


def _tiles(x: Tensor, kernel: Sequence[int]) -> int:
    axes = zip(x.shape[2:], kernel, strict=True)
    return x.shape[0] * math.prod(-(-size // 2) if taps == 3 else size for size, taps in axes)


def convolve(x: Tensor, weight: Tensor) -> Tensor:
    """Return the convolution of a map with stride 1 and half the kernel as padding.

    Args:
        x: ``(B, I, *spatial)`` float32, channels last.
        weight: ``(O, I, *kernel)`` float32, with a kernel of 3 x 3, 1 x 3 x 3 or 3 x 3 x 3.

    Returns:
        ``(B, O, *spatial)`` float32, channels last; the same at any number of threads.

    Raises:
        MemoryError: there is no room for the tiles that each thread transforms.
    """
    kernel = weight.shape[2:]
    y = torch.empty(x.shape[0], *x.shape[2:], weight.shape[0]).movedim(-1, 1)
    u = torch.empty(_positions(kernel) * _rounded(weight.shape[0]) * x.shape[1])
    taps = weight.detach().flatten(2).permute(2, 1, 0).contiguous()
    _call("forward", x, y, kernel, w=taps, u=u)
    return y


def weight_gradient(x: Tensor, grad: Tensor, kernel: Sequence[int]) -> Tensor:
    """Return the gradient of the weights of ``convolve``.

    Args:
        x: its input, ``(B, I, *spatial)`` float32, channels last.
        grad: gradient of its output, ``(B, O, *spatial)`` float32, channels last.
        kernel: its sizes.

    Returns:
        ``(O, I, *kernel)`` float32, channels last; the same at any number of threads.

    Raises:
        MemoryError: there is no room for the tiles that each thread transforms.
    """
    inputs, outputs = x.shape[1], grad.shape[1]
    chunks = max(1, min(CHUNKS, _tiles(x, kernel) // ENOUGH))
    partial = torch.empty(chunks * _positions(kernel) * _rounded(inputs) * _rounded(outputs))
    dw = torch.empty(*kernel, inputs, outputs)
    _call("gradient", x, grad, kernel, chunks, partial=partial, dw=dw)
    return dw.movedim(-1, 0).contiguous().movedim(-1, 1)


class _Convolve(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor) -> Tensor:
        last = x.contiguous(memory_format=memory_format(x.ndim - 2))
        ctx.save_for_backward(last, weight)
        return convolve(last, weight)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, Tensor | None]:
        x, weight = ctx.saved_tensors
        grad, kernel = grad.contiguous(memory_format=memory_format(x.ndim - 2)), weight.shape[2:]
        grad_x = grad_weight = None
        if ctx.needs_input_grad[0]:
            grad_x = convolve(grad, weight.transpose(0, 1).flip(*range(2, x.ndim)))
        if ctx.needs_input_grad[1]:
            fewest, sums = min(weight.shape[:2]), _positions(kernel) * weight.shape[0] * weight.shape[1]
            if fewest >= FEWEST_OF_GRADIENT and sums <= MOST_SUMS:
                grad_weight = weight_gradient(x, grad, kernel)
            else:
                ones, zeros, padding = [1] * len(kernel), [0] * len(kernel), [taps // 2 for taps in kernel]
                backward = torch.ops.aten.convolution_backward
                grad_weight = backward(grad, x, weight, None, ones, padding, ones, False, zeros, 1, [False, True, False])[1]
        return grad_x, grad_weight


def apply(x: Tensor, weight: Tensor) -> Tensor:
    """Return ``convolve(x, weight)``, with gradients."""
    return _Convolve.apply(x, weight)  # type: ignore[no-untyped-call,no-any-return]


def fits(convolution: nn.Conv2d | nn.Conv3d, x: Tensor) -> bool:
    """Return whether ``apply`` computes this convolution of ``x``, and sooner than torch does."""
    kernel = (1,) * (3 - len(convolution.kernel_size)) + convolution.kernel_size
    kernels = library()
    return (
        type(x) is Tensor
        and x.device.type == "cpu"
        and x.dtype == convolution.weight.dtype == torch.float32
        and not torch.is_autocast_enabled("cpu")
        and x.ndim == convolution.weight.ndim
        and x.shape[1] == convolution.in_channels
        and x.numel() > 0
        and min(convolution.in_channels, convolution.out_channels) >= FEWEST
        and kernel in ((1, 3, 3), (3, 3, 3))
        and convolution.bias is None
        and convolution.groups == 1
        and {*convolution.stride, *convolution.dilation} == {1}
        and convolution.padding == tuple(size // 2 for size in convolution.kernel_size)
        and convolution.padding_mode == "zeros"
        and _tiles(x, convolution.kernel_size) >= TILES_PER_CHANNEL * max(convolution.in_channels, convolution.out_channels)
        and not torch.compiler.is_compiling()
        and not torch.compiler.is_exporting()
        and kernels is not None
        and kernels.se_med_width() in WIDTHS
        and hasattr(kernels, "se_med_winograd_forward_wide")
    )
