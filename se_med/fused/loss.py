"""Dice and cross-entropy in one, with gradient."""

from __future__ import annotations

import ctypes
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from se_med.fused.kernels import FORMATS, library

SMOOTH = 1e-5
"""Added to numerator and denominator of each Dice, as MONAI's losses do by default."""


class _Batch(ctypes.Structure):
    """``Batch`` of loss.c."""

    _fields_ = (
        *((name, ctypes.c_int64) for name in ("samples", "classes", "voxels")),
        *((name, ctypes.c_int32) for name in ("format", "threads", "width")),
        *((name, ctypes.c_float) for name in ("share", "scale")),
        *((name, ctypes.c_void_p) for name in ("logits", "target", "p", "partial", "a", "b", "out")),
    )


class DiceCrossEntropy(nn.Module):
    """The sum of Dice loss and cross-entropy, over the whole batch and without the Dice of the background.

    It equals ``otherwise`` where that is MONAI's ``DiceCELoss(softmax=True, to_onehot_y=True, include_background=False,
    batch=True)``, takes a tenth of the time with the compiled kernels, and is ``otherwise`` where they cannot be used.

    Args:
        otherwise: the same loss by torch.
    """

    def __init__(self, otherwise: nn.Module) -> None:
        super().__init__()
        self.otherwise = otherwise

    def forward(self, logits: Tensor, target: Tensor) -> Tensor:
        """Return the scalar loss of ``(B, classes, *S)`` logits against ``(B, 1, *S)`` class indices."""
        kernels = library()
        fits = type(logits) is Tensor and logits.device.type == "cpu" and logits.dtype in FORMATS and target.shape[0] > 0
        if kernels is None or not fits or not 1 < logits.shape[1] <= kernels.se_med_most_classes():
            loss: Tensor = self.otherwise(logits.float() if logits.dtype == torch.bfloat16 else logits, target)
            return loss
        return _DiceCrossEntropy.apply(logits, target)  # type: ignore[no-untyped-call,no-any-return]  # untyped in torch


class _DiceCrossEntropy(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, logits: Tensor, target: Tensor) -> Tensor:
        logits, target = logits.contiguous(), target.long().contiguous()
        classes, count = logits.shape[1], target.numel()
        probabilities = torch.empty(logits.shape)
        totals = torch.empty(3 * classes + 1, dtype=torch.float64)
        batch = _batch(logits, target, p=probabilities)
        chunks = batch.samples * library().se_med_loss_chunks(batch.voxels)  # type: ignore[union-attr]  # forward has checked
        partial = torch.empty(chunks * len(totals))
        batch.partial = partial.data_ptr()
        library().se_med_dice_sums(ctypes.addressof(batch), totals.data_ptr())  # type: ignore[union-attr]
        both, mine, theirs = totals[:-1].reshape(classes, 3).T
        above, below = 2 * both + SMOOTH, mine + theirs + SMOOTH
        loss = (1 - above / below)[1:].mean() + totals[-1] / count
        a, b = -2 / below / (classes - 1), above / below.square() / (classes - 1)
        a[0] = b[0] = 0
        ctx.save_for_backward(probabilities, target, a.float(), b.float())
        ctx.format, ctx.count = logits.dtype, count
        result: Tensor = loss.float()
        return result

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        probabilities, target, a, b = ctx.saved_tensors
        out = torch.empty(probabilities.shape, dtype=ctx.format)
        batch = _batch(out, target, p=probabilities, a=a, b=b, out=out)
        batch.share, batch.scale = 1 / ctx.count, float(grad)
        library().se_med_dice_gradient(ctypes.addressof(batch))  # type: ignore[union-attr]
        return out, None


def _batch(logits: Tensor, target: Tensor, **buffers: Tensor) -> _Batch:
    kernels = library()
    addresses = {name: buffer.data_ptr() for name, buffer in {"logits": logits, "target": target, **buffers}.items()}
    return _Batch(
        samples=logits.shape[0],
        classes=logits.shape[1],
        voxels=target.numel() // logits.shape[0],
        format=FORMATS[logits.dtype],
        threads=torch.get_num_threads(),
        width=kernels.se_med_width(),  # type: ignore[union-attr]
        **addresses,
    )
