"""How much memory a forward pass takes at its peak, found with a small image."""

from __future__ import annotations

import contextlib
import math
import weakref
from collections.abc import Sequence
from contextlib import AbstractContextManager
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves


def bytes_per_voxel(
    module: nn.Module,
    channels: int,
    sizes: Sequence[int],
    device: torch.device,
    context: AbstractContextManager[Any] | None = None,
) -> float:
    """Return by how much the memory of a forward pass without gradients grows with each voxel of its image.

    It is the largest sum of bytes of all maps that are alive at once, compared between an image and one of twice the sizes.
    Memory that libraries use inside of an operation is not in it.

    Args:
        module: in evaluation mode.
        channels: of the image, float32.
        sizes: of the smaller image, that the module can take.
        device: where the module is.
        context: around the forward passes, e.g. autocast.
    """
    peaks: list[int] = []
    for factor in (1, 2):
        image = torch.zeros(1, channels, *(factor * size for size in sizes), device=device)
        with _Live() as live, torch.no_grad(), context or contextlib.nullcontext():
            module(image)
        peaks.append(live.peak)
    voxels = math.prod(sizes)
    return (peaks[1] - peaks[0]) / float(voxels * 2 ** len(sizes) - voxels)


class _Live(TorchDispatchMode):  # type: ignore[no-untyped-call]  # torch's class is not typed
    """Follows which storages are alive, and how large all were at most."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.bytes = self.peak = 0
        self._known: set[int] = set()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        for leaf in tree_leaves(result):
            if isinstance(leaf, Tensor):
                self._note(leaf.untyped_storage())
        return result

    def _note(self, storage: torch.UntypedStorage) -> None:
        if storage._cdata in self._known:
            return
        self._known.add(storage._cdata)
        self.bytes += storage.nbytes()
        self.peak = max(self.peak, self.bytes)
        weakref.finalize(storage, self._forget, storage._cdata, storage.nbytes())

    def _forget(self, key: int, size: int) -> None:
        self._known.discard(key)
        self.bytes -= size
