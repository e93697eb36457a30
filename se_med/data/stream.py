"""The training batches: a pure function of the seed and the sample's number, and the digest that proves it."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from functools import lru_cache
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from isal import isal_zlib
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler

from se_med.config.augmentation import AugmentationConfig
from se_med.data.augment import make_augmentation
from se_med.data.cache import PreparedCase
from se_med.data.padding import padding
from se_med.data.plan import Plan

ORDER, CROP, AUGMENT = range(3)
"""What a random draw is for; part of its key, so that the draws of one purpose never shift those of another."""
JITTER = 0.25
"""A foreground voxel lies within this share of the patch from its centre."""

Window = tuple[tuple[int, int], ...]
"""First voxel and end (exclusive) along each axis; may reach beyond the volume."""


class PatchStream(Dataset[dict[str, Any]]):
    """Augmented patches of prepared cases, addressed by the number of the sample in the run.

    Sample n belongs to epoch `n // cases` at position `n % cases`. The order of the cases is a permutation keyed by (seed,
    epoch), crop and augmentation are keyed by (seed, epoch, position): nothing depends on the network, on workers, on what
    was read before or on any global generator.

    A patch contains a foreground voxel with probability `foreground` (of a structure drawn from those that the case has),
    else it lies anywhere. Volumes smaller than the patch are centred in it and padded as by `padding.pad_to`. A 2D
    plan takes single slices across its slice axis; `empty_slices` says how many of those that lie anywhere show no structure.

    Args:
        cases: the prepared training cases, in a fixed order.
        plan: gives patch, rank and slice axis.
        augmentation: resolved (`flip.axes` is set).
        foreground: share of patches with a voxel of a structure near their centre.
        seed: the seed of the run.
        empty_slices: 2D plans only: probability that a patch which lies anywhere comes from a slice without any structure, else
            from one with a structure; where a case has no slice of the kind drawn, from the other kind. None: any slice.

    Raises:
        ValueError: there are no cases, or `empty_slices` is given with a 3D plan.
    """

    def __init__(
        self,
        cases: Sequence[PreparedCase],
        plan: Plan,
        augmentation: AugmentationConfig,
        foreground: float,
        seed: int,
        empty_slices: float | None = None,
    ) -> None:
        if not cases:
            raise ValueError("a stream needs at least one case")
        if empty_slices is not None and plan.slice_axis is None:
            raise ValueError("a 3D plan takes no slices, so empty_slices has no meaning")
        self.cases = tuple(cases)
        self.plan = plan
        self.augmentation = augmentation
        self.foreground = foreground
        self.seed = seed
        self.empty_slices = empty_slices
        self._slices: dict[int, tuple[list[int], list[int]]] = {}
        self._augment = make_augmentation(augmentation, plan)

    def __getstate__(self) -> dict[str, Any]:
        """Leave out what is built from the rest, so that the stream can be sent to a spawned worker."""
        return {key: value for key, value in self.__dict__.items() if key != "_augment"}

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Build it again."""
        self.__dict__.update(state)
        self._augment = make_augmentation(self.augmentation, self.plan)

    def __getitem__(self, index: int) -> dict[str, Any]:
        """Return sample number `index` (from 0, without an upper end).

        Returns:
            `image` (C, *patch) float32, `label` (1, *patch) uint8 class indices, `case` the name.
        """
        epoch, position = divmod(index, len(self.cases))
        number = case_order(len(self.cases), self.seed, epoch)[position]
        case = self.cases[number]
        window = self._draw_window(number, _generator(self.seed, CROP, epoch, position))

        def read(margin: tuple[int, ...]) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.uint8]]:
            wide = self._widen(window, margin)
            minimum = np.array(case.manifest.minimum, dtype=np.float32)
            image = _read_window(case.image, wide, minimum)
            label = _read_window(case.label[None], wide, np.zeros(1, np.uint8))[0]
            axis = self.plan.slice_axis
            return (image, label) if axis is None else (image.squeeze(axis + 1), label.squeeze(axis))

        image, label = self._augment(read, (self.seed, AUGMENT, epoch, position))
        return {"image": image, "label": label, "case": case.case.name}

    def _draw_window(self, number: int, generator: np.random.Generator) -> Window:
        case = self.cases[number]
        shape = case.manifest.shape
        patch = self._volume_patch()
        wants_foreground, at, jitter = generator.random() < self.foreground, generator.random(3), generator.random(3)
        present = sorted(case.manifest.foreground)
        before, _ = padding(shape, patch)
        lowest = [-low for low in before]
        highest = [max(length - size, low) for length, size, low in zip(shape, patch, lowest, strict=True)]
        if wants_foreground and present:
            voxels = case.foreground[present[int(generator.integers(len(present)))]]
            voxel = voxels[int(generator.integers(len(voxels)))]
            shift = np.rint((2 * jitter - 1) * JITTER * np.array(patch)).astype(int)
            starts = [int(centre) - size // 2 + move for centre, size, move in zip(voxel, patch, shift.tolist(), strict=True)]
        else:
            starts = [low + int(share * (high - low + 1)) for low, high, share in zip(lowest, highest, at, strict=True)]
            if self.empty_slices is not None and self.plan.slice_axis is not None:
                wanted = self._find_slices(number, empty=generator.random() < self.empty_slices)
                starts[self.plan.slice_axis] = wanted[int(at[self.plan.slice_axis] * len(wanted))]
        starts = [min(max(start, low), high) for start, low, high in zip(starts, lowest, highest, strict=True)]
        return tuple((start, start + size) for start, size in zip(starts, patch, strict=True))

    def _find_slices(self, number: int, empty: bool) -> list[int]:
        """Return the slices of a case without any structure, or those with one; the other kind where it has none of these."""
        if number not in self._slices:
            label = self.cases[number].label
            structures = (label > 0) & (label < len(self.plan.label_values))
            shown = structures.any(axis=tuple(axis for axis in range(3) if axis != self.plan.slice_axis))
            self._slices[number] = np.flatnonzero(shown).tolist(), np.flatnonzero(~shown).tolist()
        full, free = self._slices[number]
        return (free or full) if empty else (full or free)

    def _volume_patch(self) -> tuple[int, ...]:
        if self.plan.slice_axis is None:
            return self.plan.patch
        patch = list(self.plan.patch)
        patch.insert(self.plan.slice_axis, 1)
        return tuple(patch)

    def _widen(self, window: Window, margin: tuple[int, ...]) -> Window:
        margins = list(margin)
        if self.plan.slice_axis is not None:
            margins.insert(self.plan.slice_axis, 0)
        return tuple((start - more, end + more) for (start, end), more in zip(window, margins, strict=True))


class StepSampler(Sampler[list[int]]):
    """The sample numbers of each batch: batch b holds `b * batch_size` to `(b + 1) * batch_size - 1`.

    Args:
        batches: the run's number of batches; the last one is `batches - 1`.
        batch_size: samples per batch, over all ranks.
        first: the batch to begin with: where a resumed run goes on. May be set later (`sampler.first = 100`).
        rank: this process of a distributed run; it gets the samples `rank, rank + world, ...` of each batch.
        world: number of processes.

    Raises:
        ValueError: the batch size cannot be divided among the processes.
    """

    def __init__(self, batches: int, batch_size: int, first: int = 0, rank: int = 0, world: int = 1) -> None:
        if batch_size % world:
            raise ValueError(f"batch size {batch_size} cannot be divided among {world} processes")
        if not 0 <= rank < world:
            raise ValueError(f"rank {rank} does not exist among {world} processes")
        self.batches = batches
        self.batch_size = batch_size
        self.first = first
        self.rank = rank
        self.world = world

    def __iter__(self) -> Iterator[list[int]]:
        for batch in range(self.first, self.batches):
            yield list(range(batch * self.batch_size + self.rank, (batch + 1) * self.batch_size, self.world))

    def __len__(self) -> int:
        return max(0, self.batches - self.first)


def make_loader(stream: PatchStream, sampler: StepSampler, workers: int = 0, pin_memory: bool = False) -> DataLoader[Any]:
    """Return the loader of a stream: a batch has `image` (B, C, *patch), `label` (B, 1, *patch) and `case`, a list of names.

    Args:
        stream: the patches.
        sampler: the order.
        workers: processes that make batches; 0 makes them in this one. The batches are the same either way.
        pin_memory: page-locked batches, for a GPU.
    """
    return DataLoader(
        stream,
        batch_sampler=sampler,
        num_workers=workers,
        pin_memory=pin_memory,
        worker_init_fn=_one_thread if workers else None,
        # Iterating a loader draws a base seed from the global generator unless it has one of its own.
        generator=torch.Generator().manual_seed(stream.seed),
    )


def batch_checksums(batch: Mapping[str, Any]) -> Tensor:
    """Return two checksums per sample, (B, 2) int64: of the image, and of the label with the name of its case.

    They cover the pixels that reach the network, with their type and shape. CRC-32 reads 1.8 MB in about 0.05 ms.

    Args:
        batch: as `make_loader` gives it.
    """
    rows = []
    for image, label, case in zip(batch["image"], batch["label"], batch["case"], strict=True):
        rows.append([_checksum(image), _checksum(label, case)])
    return torch.tensor(rows, dtype=torch.int64)


def extend_digest(previous: str, checksums: Tensor) -> str:
    """Continue the running digest of a batch stream.

    Args:
        previous: the digest so far; "" at the start.
        checksums: of the next batch, (B, 2), in the order of its samples over all processes.

    Returns:
        64 hexadecimal digits (SHA-256).
    """
    return hashlib.sha256(f"{previous} {checksums.tolist()}".encode()).hexdigest()


def batch_digest(previous: str, batch: Mapping[str, Any]) -> str:
    """Continue the running digest with a batch of a single process."""
    return extend_digest(previous, batch_checksums(batch))


def _checksum(tensor: Tensor, name: str = "") -> int:
    pixels = tensor.detach().cpu().contiguous().numpy()
    # Names of files need not be text; such bytes are kept as they are.
    start = isal_zlib.crc32(f"{pixels.dtype} {pixels.shape} {name}".encode("utf-8", "surrogateescape"))
    return int(isal_zlib.crc32(pixels, start))


@lru_cache(maxsize=4)
def case_order(cases: int, seed: int, epoch: int) -> tuple[int, ...]:
    """Return the order of the cases in an epoch: a permutation keyed by (seed, epoch)."""
    return tuple(_generator(seed, ORDER, epoch).permutation(cases).tolist())


def _generator(*key: int) -> np.random.Generator:
    return np.random.Generator(np.random.Philox(np.random.SeedSequence(key)))


def _read_window(array: npt.NDArray[Any], window: Window, outside: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """Copy the window of (C, *spatial); what lies outside of the volume is filled with one value per channel."""
    shape = [end - start for start, end in window]
    inside = tuple(
        slice(max(start, 0), max(min(end, length), 0)) for (start, end), length in zip(window, array.shape[1:], strict=True)
    )
    target = tuple(slice(part.start - start, part.stop - start) for part, (start, _) in zip(inside, window, strict=True))
    patch = np.empty((array.shape[0], *shape), dtype=array.dtype)
    if [part.stop - part.start for part in inside] != shape:
        patch[:] = outside.reshape(-1, *[1] * len(shape))
    patch[(slice(None), *target)] = array[(slice(None), *inside)]
    return patch


def _one_thread(_: int) -> None:
    torch.set_num_threads(1)
