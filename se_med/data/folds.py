"""Splits the cases into folds for cross-validation: made, written, read, checked, selected."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from se_med.config.data import DataConfig
from se_med.data.case import Case, Dataset, refuse
from se_med.errors import DataError, UsageError
from se_med.io.atomic import write_text

VALIDATION_KEYS = ("validation", "val")
"""Names of the held-out cases in a split file; nnU-Net writes `val`."""


@dataclass(frozen=True)
class Fold:
    """The names of the cases that are trained on and of those that are held out."""

    train: tuple[str, ...]
    validation: tuple[str, ...]


def make_folds(cases: Sequence[Case], folds: int, seed: int) -> tuple[Fold, ...]:
    """Deal the cases into folds: each case is held out once, and cases of one group always together.

    Without groups the sizes of the held-out parts differ by one at most. With groups, the groups are dealt in the order of
    their size, each to the fold with the fewest cases. The result depends on names, groups and seed, not on the order given.

    Args:
        cases: the cases, in any order.
        folds: number of folds, 2 or more.
        seed: seed of the shuffle.

    Raises:
        UsageError: fewer groups (or cases) than folds.
    """
    groups: dict[tuple[bool, str], list[str]] = {}
    for case in sorted(cases, key=lambda case: case.name):
        # A case without a group is a group of its own, whatever the other groups are called.
        key = (False, case.name) if case.group is None else (True, case.group)
        groups.setdefault(key, []).append(case.name)
    if len(groups) < folds:
        kind = "groups" if any(case.group is not None for case in cases) else "cases"
        raise UsageError(f"data.folds: {folds} folds need at least {folds} {kind}, there are {len(groups)}")
    keys = sorted(groups)
    order = np.random.default_rng(seed).permutation(len(keys))
    dealt = sorted((keys[index] for index in order), key=lambda key: -len(groups[key]))
    held_out: list[list[str]] = [[] for _ in range(folds)]
    for key in dealt:
        min(held_out, key=len).extend(groups[key])
    names = {case.name for case in cases}
    return tuple(Fold(tuple(sorted(names.difference(part))), tuple(sorted(part))) for part in held_out)


def write_split(path: Path, folds: Sequence[Fold]) -> None:
    """Write folds as a JSON list of `{train: [...], validation: [...]}`, one fold's part per line."""
    entries = [
        f'  {{"train": {json.dumps(list(fold.train))},\n   "validation": {json.dumps(list(fold.validation))}}}' for fold in folds
    ]
    write_text(path, "[\n" + ",\n".join(entries) + "\n]\n")


def read_split(path: Path) -> tuple[Fold, ...]:
    """Read folds that `write_split` or nnU-Net (`splits_final.json`) wrote.

    Raises:
        UsageError: the file does not exist.
        DataError: not a list of folds, or a case stands twice in a fold; names the fold and the case.
    """
    if not path.is_file():
        raise UsageError(f"data.split: {path} does not exist")
    try:
        content = json.loads(path.read_text(encoding="utf-8-sig"))
    except (OSError, ValueError, RecursionError) as error:
        raise DataError(f"{path}: not readable as JSON: {error or type(error).__name__}") from None
    if not isinstance(content, list) or not content:
        raise DataError(f"{path}: must be a list of {{train: [...], validation: [...]}}")
    folds = []
    problems: list[str] = []
    for number, entry in enumerate(content):
        fold = _read_fold(entry)
        if fold is None:
            problems.append(f"fold {number}: must be {{train: [names], validation: [names]}} with a name in each")
            continue
        problems += [f"fold {number}: {problem}" for problem in _repetitions(fold)]
        folds.append(fold)
    refuse(path, problems)
    return tuple(folds)


def select_fold(dataset: Dataset, data: DataConfig) -> Fold:
    """Return the fold that the configuration asks for, from its split file or made from its seed.

    A split file may leave cases out (they are not used), but every name in it must exist, and no group may be on both sides.

    Raises:
        UsageError: there is no such fold, or too few cases for the folds asked for.
        DataError: a name in the split file is unknown, or a group is in training and validation.
    """
    if data.split is None:
        return make_folds(dataset.cases, data.folds, data.fold_seed)[data.fold]
    folds = read_split(data.split)
    if data.fold >= len(folds):
        raise UsageError(f"data.fold: {data.split} has {len(folds)} folds, there is no fold {data.fold} (the first is 0)")
    fold = folds[data.fold]
    groups = {case.name: case.group for case in dataset.cases}
    problems = [
        f"fold {data.fold}: no case is named {name!r} in {dataset.root}"
        for name in (*fold.train, *fold.validation)
        if name not in groups
    ]
    trained = {groups.get(name): name for name in fold.train}
    for name in fold.validation:
        group = groups.get(name)
        if group is not None and group in trained:
            problems.append(
                f"fold {data.fold}: {name!r} is held out, {trained[group]!r} of the same group {group!r} is trained on"
            )
    refuse(data.split, problems)
    return fold


def _read_fold(entry: Any) -> Fold | None:
    if not isinstance(entry, dict):
        return None
    held_out = next((entry[key] for key in VALIDATION_KEYS if key in entry), None)
    for names in (entry.get("train"), held_out):
        if not isinstance(names, list) or not names or not all(isinstance(name, str) for name in names):
            return None
    return Fold(tuple(entry["train"]), tuple(held_out or ()))


def _repetitions(fold: Fold) -> list[str]:
    problems = []
    for part, names in (("train", fold.train), ("validation", fold.validation)):
        problems += [f"case {name!r} occurs {count} times in {part}" for name, count in Counter(names).items() if count > 1]
    trained = set(fold.train)
    problems += [f"case {name!r} is in train and in validation" for name in fold.validation if name in trained]
    return problems
