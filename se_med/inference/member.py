"""One network of an ensemble: how it is called, what its passes are, and which others see the same windows."""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import cached_property
from itertools import chain, combinations, product

import torch
from torch import Tensor

from se_med.data.plan import Normalisation, Plan
from se_med.errors import UsageError
from se_med.inference.flips import choose_test_time_flips
from se_med.inference.model import Model
from se_med.inference.precision import autocast, resolve_precision
from se_med.inference.rotations import Turn, choose_rotations
from se_med.inference.shifts import Shift, choose_shifts
from se_med.inference.tiling import Shape
from se_med.inference.windows import Pass
from se_med.networks.footprint import bytes_per_voxel

Grid = tuple[tuple[float, ...], tuple[int, ...], int | None]


class Member:
    """A network with its configuration and plan, which runs where its weights are.

    Args:
        model: the network, its configuration and plan.

    Attributes:
        flips: axes (RAS) of the test-time flips.
        shifts: test-time shifts, voxels per axis (RAS); one for a single pass.
        rotations: test-time rotations.

    Raises:
        UsageError: test-time flips along an axis that was not flipped in training, or a rotation that was not trained.
    """

    def __init__(self, model: Model) -> None:
        self.network, self.config, self.plan, self.digest = model.network, model.config, model.plan, model.digest
        self.device = next((parameter.device for parameter in self.network.parameters()), torch.device("cpu"))
        self.precision = resolve_precision(self.config.inference.precision, self.device)
        self.flips = choose_test_time_flips(self.config)
        self.rotations = choose_rotations(self.config, self.plan)
        blocks = self.spatial(self.config.network.stem or (1,) * len(self.plan.patch), 1)
        self.shifts = choose_shifts(blocks, self.config.inference.test_time_shifts)

    @property
    def grid(self) -> Grid:
        """What must be equal for two networks to see the same windows: spacing, patch and the axis of slices."""
        return self.plan.spacing, self.plan.patch, self.plan.slice_axis

    @property
    def normalisation(self) -> tuple[Normalisation, ...]:
        """How the network wants its images, one entry per channel."""
        return self.plan.normalisation

    @property
    def count(self) -> int:
        """Number of passes: every combination of flips, on every shifted grid, unturned and with every rotation."""
        return int(2 ** len(self.flips)) * self.views

    @property
    def views(self) -> int:
        """Number of shifted grids, unturned and with every rotation."""
        return len(self.shifts) * (1 + len(self.rotations))

    @property
    def window(self) -> Shape:
        """Size of the windows along the three axes of the volume."""
        return self.spatial(self.plan.patch, 1)

    @property
    def divisor(self) -> Shape:
        """What the sizes of windows must be multiples of."""
        return self.spatial(self.network_divisor, 1)

    def spatial(self, values: Sequence[int], across: int) -> Shape:
        """Return values for the axes of the network as such for the axes of the volume, `across` for that of slices."""
        x, y, z = values if self.plan.slice_axis is None else _inserted(values, self.plan.slice_axis, across)
        return x, y, z

    @cached_property
    def per_voxel(self) -> float:
        """Bytes of maps per voxel that a window takes."""
        sizes = [min(4 * by, size) for by, size in zip(self.network_divisor, self.plan.patch, strict=True)]
        context = autocast(self.precision, self.device)
        return bytes_per_voxel(self.network, len(self.plan.channels), sizes, self.device, context)

    @property
    def network_divisor(self) -> tuple[int, ...]:
        """What the sizes of the network's input must be multiples of."""
        return tuple(getattr(self.network, "divisor", (1,) * len(self.plan.patch)))

    def forward(self, batch: Tensor) -> Tensor:
        """Take (B, C, *S) to logits (B, outputs, *S), float32 or bf16, in main memory."""
        with autocast(self.precision, self.device):
            logits: Tensor = self.network(batch.to(self.device))
        return logits.cpu()

    def passes(self, image: int) -> list[Pass]:
        """Return the passes over the `image`-th prepared array, as many as `count` says, with equal shares."""
        subsets = chain.from_iterable(combinations(self.flips, count) for count in range(len(self.flips) + 1))
        ways: list[tuple[tuple[int, ...], Shift, Turn | None]] = list(product(subsets, self.shifts, (None, *self.rotations)))
        return [
            Pass(self.forward, image, flips, _shape(shift), turn, 1 / len(ways), self.precision) for flips, shift, turn in ways
        ]


def refuse_strangers(members: Sequence[Member]) -> None:
    """Refuse an ensemble whose members segment other structures, or see other channels, than the first.

    Raises:
        UsageError: says which member differs in what.
    """
    first, *others = members
    for member in others:
        for what, ours, theirs in (
            ("structures", _structures(first.plan), _structures(member.plan)),
            ("channels", ", ".join(first.plan.channels), ", ".join(member.plan.channels)),
        ):
            if ours != theirs:
                one, other = first.config.name, member.config.name
                raise UsageError(f"{other}: cannot be averaged with {one}: its {what} are {theirs}, those of {one} are {ours}")


def group(members: Sequence[Member]) -> list[list[Member]]:
    """Return the members that see the same windows together, in the order of the first of each group."""
    groups: dict[Grid, list[Member]] = {}
    for member in members:
        groups.setdefault(member.grid, []).append(member)
    return list(groups.values())


def common_divisor(members: Sequence[Member]) -> Shape:
    """Return what sizes must be multiples of for all members."""
    return _shape([math.lcm(*along) for along in zip(*(member.divisor for member in members), strict=True)])


def largest_shifts(members: Sequence[Member]) -> Shape:
    """Return the largest shift of any member per axis."""
    return _shape([max(along) for along in zip(*(shift for member in members for shift in member.shifts), strict=True)])


def largest_reach(members: Sequence[Member]) -> Shape | None:
    """Return how far around a window the rotations of any member reach per axis; None where nothing is turned."""
    reaches = [turn.reach(member.window) for member in members for turn in member.rotations]
    return _shape([max(along) for along in zip(*reaches, strict=True)]) if reaches else None


def _structures(plan: Plan) -> str:
    named = ", ".join(f"{name} {'+'.join(map(str, values))}" for name, values in plan.structures.values.items())
    return f"{named} (regions)" if plan.regions else named


def _inserted(values: Sequence[int], axis: int, value: int) -> list[int]:
    return [*values[:axis], value, *values[axis:]]


def _shape(values: Sequence[int]) -> Shape:
    x, y, z = values
    return x, y, z
