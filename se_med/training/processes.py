"""What the processes of a distributed run tell one another; with a single process each of these is its own argument."""

from __future__ import annotations

import os
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor

Item = TypeVar("Item")


def own_number() -> int:
    """Number of this process, known before the processes have met; 0 is the one that started the others."""
    return int(os.environ.get("LOCAL_RANK", "0"))


def rank() -> int:
    """Number of this process among those that train together."""
    return dist.get_rank() if _distributed() else 0


def world() -> int:
    """Number of processes that train together."""
    return dist.get_world_size() if _distributed() else 1


def gather_rows(rows: Tensor) -> Tensor:
    """Return the rows (N, ...) of all processes, interleaved as a batch was dealt to them: (N * world, ...)."""
    if not _distributed():
        return rows
    parts = [torch.empty_like(rows) for _ in range(world())]
    dist.all_gather(parts, rows.contiguous())
    return torch.stack(parts, 1).flatten(0, 1)


def mean(value: float, device: torch.device) -> float:
    """Return the mean over all processes."""
    if not _distributed():
        return value
    return float(gather_rows(torch.tensor([value], dtype=torch.float64, device=device)).mean())


def of_first(values: tuple[float, ...], device: torch.device) -> list[float]:
    """Return the values of the first process."""
    if not _distributed():
        return list(values)
    return gather_rows(torch.tensor([values], dtype=torch.float64, device=device))[0].tolist()


def any_of(flag: bool, device: torch.device) -> bool:
    """Return whether the flag is set in any process."""
    if not _distributed():
        return flag
    return bool(gather_rows(torch.tensor([flag], dtype=torch.uint8, device=device)).any())


def gather_lists(items: list[Item]) -> list[Item]:
    """Return the items of all processes, those of the first process first."""
    if not _distributed():
        return items
    parts: list[Any] = [None] * world()
    dist.all_gather_object(parts, items)
    return [item for part in parts for item in part]


def leave() -> None:
    """End the exchange with the other processes; afterwards this one works alone."""
    if _distributed():
        dist.destroy_process_group()


def _distributed() -> bool:
    return dist.is_available() and dist.is_initialized()
