"""What a run was made of: versions, data, seed, machine, arithmetic, time and memory."""

from __future__ import annotations

import os
import platform
import resource
import sys
from importlib.metadata import version
from typing import Any

import torch

import se_med
from se_med.fused.kernels import library

_PACKAGES = ("torch", "monai", "lightning", "nibabel", "numpy", "scipy")


def numerical_environment(precision: str) -> dict[str, Any]:
    """Return everything besides configuration and data that decides the last bit of the weights.

    Args:
        precision: ``bf16`` or ``fp32``.
    """
    return {
        "threads": torch.get_num_threads(),
        "precision": precision,
        "deterministic": torch.are_deterministic_algorithms_enabled(),
        "kernels": library() is not None,
        "cpu_capability": torch.backends.cpu.get_cpu_capability(),
        "processor": _processor(),
        "torch": str(torch.__version__),
    }


def software() -> dict[str, str]:
    """Return the versions of Python, se-med and the libraries that numbers depend on."""
    return {"python": platform.python_version(), "se-med": se_med.__version__, **{name: version(name) for name in _PACKAGES}}


def peak_memory_mb() -> float:
    """Return the largest resident memory of this process so far, in MB (10^6 bytes)."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return round(peak * (1 if sys.platform == "darwin" else 1024) / 1e6, 1)


def machine() -> dict[str, Any]:
    """Return processor, cores and, where there is one, the GPU."""
    return {
        "processor": _processor(),
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "system": platform.platform(),
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
    }


def _processor() -> str:
    try:
        with open("/proc/cpuinfo", encoding="utf-8") as file:  # noqa: PTH123  (a kernel file, read by line)
            for line in file:
                if line.startswith("model name"):
                    return line.split(":", 1)[1].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()
