"""Deals cases into folds so that each fold has its share of every structure, small and large: iterative stratification.

After Sechidis, Tsoumakas and Vlahavas (2011), "On the Stratification of Multi-Label Data", ECML PKDD. The traits of a case are
the structures that it has, and for each whether it is small or large among the cases that have it. The trait that the fewest
cases have is dealt first, since it can go wrong the most.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:  # what reads cases checks them, and some checks are about folds
    from se_med.data.fingerprint import Fingerprint

SIZES = 6
"""Classes of volume of a structure: sixths of the cases that have it."""

Trait = tuple[int, int]
"""A label value, and the sixth that the structure's volume is in; -1 says that the structure is there at all."""
Volumes = Mapping[str, Mapping[int, float]]
"""For each case the volume in mm3 of each label value that it has."""


def volumes_of(fingerprint: Fingerprint) -> dict[str, dict[int, float]]:
    """Return the volume in mm3 of every structure of every case."""
    return {
        case.name: {value: count * math.prod(case.spacing) for value, count in case.voxels.items() if value and count}
        for case in fingerprint.cases
    }


def traits_of(volumes: Volumes, folds: int) -> dict[str, tuple[Trait, ...]]:
    """Return what each case counts as.

    Args:
        volumes: of the cases.
        folds: number of folds. A structure that few cases have gets fewer classes of volume: each has a case per fold.
    """
    traits: dict[str, list[Trait]] = {name: [] for name in volumes}
    for value in sorted({value for found in volumes.values() for value in found}):
        having = sorted((found[value], name) for name, found in volumes.items() if value in found)
        sizes = max(1, min(SIZES, len(having) // folds))
        for rank, (_, name) in enumerate(having):
            traits[name] += [(value, -1), (value, rank * sizes // len(having))]
    return {name: tuple(found) for name, found in traits.items()}


def deal(groups: Sequence[Sequence[str]], traits: Mapping[str, tuple[Trait, ...]], folds: int, seed: int) -> list[list[str]]:
    """Deal groups of cases into the held-out parts of the folds.

    Where every group is one case, the sizes of the parts differ by one at most. Larger groups are dealt first, and no part grows
    beyond its share as long as there is another.

    Args:
        groups: names of the cases that stay together, in a fixed order; as many groups as folds at least.
        traits: of each case.
        folds: number of folds.
        seed: breaks ties.

    Returns:
        The names in each part.
    """
    generator = np.random.default_rng(seed)
    rank = generator.permutation(len(groups))
    turn = generator.permutation(folds)
    owned = [Counter(trait for name in group for trait in traits[name]) for group in groups]
    undealt = sum(owned, Counter[Trait]())
    wanted = [{trait: count / folds for trait, count in undealt.items()} for _ in range(folds)]
    capacity = _capacities(groups, folds, turn)
    parts: list[list[str]] = [[] for _ in range(folds)]
    left = set(range(len(groups)))
    while left:
        trait = min((trait for trait, count in undealt.items() if count), key=lambda one: (undealt[one], one), default=None)
        chosen = [index for index in left if trait is None or owned[index][trait]]
        for index in sorted(chosen, key=lambda one: (-len(groups[one]), rank[one])):
            candidates = _open_parts(parts, capacity, len(groups[index]), len(left))
            best = max(
                candidates,
                key=lambda fold: (wanted[fold][trait] if trait else 0.0, capacity[fold] - len(parts[fold]), turn[fold]),
            )
            parts[best].extend(groups[index])
            left.remove(index)
            for own, count in owned[index].items():
                wanted[best][own] -= count
                undealt[own] -= count
    return parts


def _capacities(groups: Sequence[Sequence[str]], folds: int, turn: Any) -> list[int]:
    cases = sum(map(len, groups))
    if max(map(len, groups)) > 1:
        return [math.ceil(cases / folds)] * folds
    return [cases // folds + (int(turn[fold] < cases % folds)) for fold in range(folds)]


def _open_parts(parts: Sequence[Sequence[str]], capacity: Sequence[int], size: int, left: int) -> list[int]:
    """Return the parts that a group of that size may go to: no part is left empty, none grows beyond its share if it can be."""
    empty = [fold for fold, part in enumerate(parts) if not part]
    if left <= len(empty):
        return empty
    fitting = [fold for fold, part in enumerate(parts) if len(part) + size <= capacity[fold]]
    if fitting:
        return fitting
    fewest = min(len(part) for part in parts)
    return [fold for fold, part in enumerate(parts) if len(part) == fewest]
