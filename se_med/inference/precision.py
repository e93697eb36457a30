"""Where a network runs and with which arithmetic. Training and inference ask the same questions here."""

from __future__ import annotations

import platform
from typing import Literal

import torch

from se_med.errors import UsageError

Precision = Literal["bf16", "fp32"]
"""Arithmetic of convolutions: bf16 under autocast (weights and logits stay float32), or float32 throughout."""


def resolve_device(device: str | torch.device = "auto") -> torch.device:
    """Turn the configuration's `auto`, `cpu` or `gpu` (or a torch device) into a torch device.

    Raises:
        UsageError: a GPU is asked for and torch sees none.
    """
    if isinstance(device, torch.device):
        return device
    if device == "cpu":
        return torch.device("cpu")
    if device not in ("auto", "gpu"):
        raise UsageError(f"device {device!r} is not known; choose auto, cpu or gpu")
    if torch.cuda.is_available():
        return torch.device("cuda")
    if device == "gpu":
        raise UsageError("device gpu: torch sees no GPU on this machine; choose cpu or auto")
    return torch.device("cpu")


def has_fast_bf16(device: torch.device) -> bool:
    """Return whether the device computes bf16 natively and so faster than float32.

    On x86 this is the AVX512_BF16 or the AMX instruction set; torch emulates bf16 without them, which is slower than
    float32. On other processors the answer is no, until someone has measured it.
    """
    if device.type == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    if device.type == "cpu" and platform.machine().lower() in ("x86_64", "amd64"):
        # The public torch.cpu.get_capabilities() is newer than the oldest torch that is supported.
        return bool(torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported())
    return False


def resolve_precision(precision: Literal["auto", "bf16", "fp32"], device: torch.device) -> Precision:
    """Turn the configuration's `auto` into bf16 where the device has it and into fp32 elsewhere."""
    if precision == "auto":
        return "bf16" if has_fast_bf16(device) else "fp32"
    return precision


def autocast(precision: Precision, device: torch.device) -> torch.autocast:
    """Return the context in which a forward pass runs with the given arithmetic."""
    return torch.autocast(device.type, dtype=torch.bfloat16, enabled=precision == "bf16")
