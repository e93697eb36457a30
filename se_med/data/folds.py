"""Splits the cases into folds for cross-validation: made, written, read, checked, selected."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from se_med.config.data import DataConfig
from se_med.data.case import Case, Dataset, refuse
from se_med.data.strata import Volumes, deal, traits_of, volumes_of
from se_med.errors import DataError, UsageError
from se_med.io.atomic import write_text
from se_med.io.textfile import read_text

if TYPE_CHECKING:
    from se_med.data.fingerprint import Fingerprint

VALIDATION_KEYS = ("validation", "val")
"""Names of the held-out cases in a split file; nnU-Net writes `val`."""
TRAIN_CASES = 1
"""Last part of the key of the order of training cases, so that it is another draw than that of the selection."""


@dataclass(frozen=True)
class Fold:
    """The names of the cases that are trained on, of those that are held out, and of those that decide when to stop."""

    train: tuple[str, ...]
    validation: tuple[str, ...]
    selection: tuple[str, ...] = ()
    """Neither trained on nor reported: what is scored during training. Where there are none, the held-out ones are."""


def make_folds(cases: Sequence[Case], folds: int, seed: int, volumes: Volumes | None = None) -> tuple[Fold, ...]:
    """Deal the cases into folds: each case is held out once, and cases of one group always together.

    Without groups the sizes of the held-out parts differ by one at most. With groups, the groups are dealt in the order of
    their size, each to the fold with the fewest cases. The result depends on names, groups, seed and, where they are given,
    volumes, not on the order of the cases.

    Args:
        cases: the cases, in any order.
        folds: number of folds, 2 or more.
        seed: seed of the shuffle.
        volumes: of the structures of every case; each fold then gets its share of the cases with each structure, small and
            large. None: cases are shuffled.

    Raises:
        UsageError: fewer groups (or cases) than folds.
    """
    groups = _groups(cases)
    if len(groups) < folds:
        kind = "groups" if any(case.group is not None for case in cases) else "cases"
        raise UsageError(f"data.folds: {folds} folds need at least {folds} {kind}, there are {len(groups)}")
    keys = sorted(groups)
    if volumes is not None:
        traits = traits_of({case.name: volumes[case.name] for case in cases}, folds)
        held_out = deal([groups[key] for key in keys], traits, folds, seed)
    else:
        order = np.random.default_rng(seed).permutation(len(keys))
        held_out = [[] for _ in range(folds)]
        for key in sorted((keys[index] for index in order), key=lambda key: -len(groups[key])):
            min(held_out, key=len).extend(groups[key])
    names = {case.name for case in cases}
    return tuple(Fold(tuple(sorted(names.difference(part))), tuple(sorted(part))) for part in held_out)


def set_aside(fold: Fold, cases: Sequence[Case], share: float, key: tuple[int, ...]) -> Fold:
    """Take selection cases out of the training cases of a fold: whole groups, drawn until the share is reached.

    Args:
        fold: the fold, without selection cases.
        cases: all cases.
        share: share of the training cases, above 0 and below 1; one case is taken at least.
        key: seed of the draw.

    Raises:
        UsageError: nothing would be left to train on.
    """
    groups = _groups([case for case in cases if case.name in set(fold.train)])
    keys = sorted(groups)
    wanted, chosen = max(1, round(share * len(fold.train))), set[str]()
    for index in np.random.default_rng(key).permutation(len(keys)):
        if len(chosen) < wanted:
            chosen.update(groups[keys[index]])
    left = tuple(name for name in fold.train if name not in chosen)
    if not left:
        raise UsageError(
            f"data.selection: {share:g} of {len(fold.train)} training cases in {len(keys)} groups leaves none to train on"
        )
    return Fold(left, fold.validation, tuple(name for name in fold.train if name in chosen))


def keep_cases(fold: Fold, cases: Sequence[Case], number: int, key: tuple[int, ...]) -> Fold:
    """Keep a number of the training cases of a fold: the first ones of an order that depends on the key alone.

    Whoever keeps 10 keeps cases that are among the 20 of whoever keeps 20. Groups follow each other, so one group at most
    is kept in part.

    Args:
        fold: the fold; what is held out or for selection stays.
        cases: all cases.
        number: cases to keep.
        key: seed of the order.

    Raises:
        UsageError: the fold has fewer training cases.
    """
    if number > len(fold.train):
        raise UsageError(f"data.train_cases: {number}, but the fold has {len(fold.train)} training cases; take at most that many")
    groups = _groups([case for case in cases if case.name in set(fold.train)])
    generator = np.random.default_rng(key)
    keys = sorted(groups)
    order: list[str] = []
    for index in generator.permutation(len(keys)):
        order += generator.permutation(groups[keys[index]]).tolist()
    return Fold(tuple(sorted(order[:number])), fold.validation, fold.selection)


def write_split(path: Path, folds: Sequence[Fold]) -> None:
    """Write folds as a JSON list of `{train: [...], validation: [...]}`, with `selection` where there is one; a line per part."""
    entries = []
    for fold in folds:
        parts = {"train": fold.train, "validation": fold.validation} | ({"selection": fold.selection} if fold.selection else {})
        lines = ",\n   ".join(f'"{part}": {json.dumps(list(names))}' for part, names in parts.items())
        entries.append(f"  {{{lines}}}")
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
        content = json.loads(read_text(path, encoding="utf-8-sig"))
    except (OSError, ValueError, RecursionError) as error:
        raise DataError(f"{path}: not readable as JSON: {error or type(error).__name__}") from None
    if not isinstance(content, list) or not content:
        raise DataError(f"{path}: must be a list of {{train: [...], validation: [...]}}")
    folds = []
    problems: list[str] = []
    for number, entry in enumerate(content):
        fold = _read_fold(entry)
        if fold is None:
            problems.append(
                f"fold {number}: must be {{train: [names], validation: [names]}} with a name in each, perhaps selection: [names]"
            )
            continue
        problems += [f"fold {number}: {problem}" for problem in _repetitions(fold)]
        folds.append(fold)
    refuse(path, problems)
    return tuple(folds)


def split_cases(dataset: Dataset, data: DataConfig, fingerprint: Fingerprint | None = None) -> tuple[Fold, ...]:
    """Return all folds: those of the split file, those that the cases come with, or made from the seed.

    Args:
        dataset: the cases.
        data: what the configuration says about folds.
        fingerprint: of the data set. Where it is needed (`stratify`) and not given, every case is read.

    Raises:
        UsageError: the split file does not exist, or there are too few cases for the folds.
        DataError: the split file is wrong, or cases cannot be read.
    """
    if data.split is not None:
        return read_split(data.split)
    if _has_folds(dataset):
        return _folds_of(dataset.cases)
    if not data.stratify:
        return make_folds(dataset.cases, data.folds, data.fold_seed)
    # Here, since what reads cases checks them, and some checks are about folds.
    from se_med.data.fingerprint import take_fingerprint

    volumes = volumes_of(fingerprint or take_fingerprint(dataset))
    return make_folds(dataset.cases, data.folds, data.fold_seed, volumes)


def select_fold(dataset: Dataset, data: DataConfig, fingerprint: Fingerprint | None = None) -> Fold:
    """Return the fold that the configuration asks for: from its split file, as the cases come with it, or made from its seed.

    A split file may leave cases out (they are not used), but every name in it must exist, and no group may be in two parts.

    Args:
        dataset: the cases.
        data: what the configuration says about folds, selection and the number of training cases.
        fingerprint: of the data set. Where it is needed (`stratify`) and not given, every case is read.

    Raises:
        UsageError: there is no such fold, too few cases for the folds, the selection or the number asked for, or a selection is
            asked for where the split file has one.
        DataError: a name in the split file is unknown, a group is in two parts, or cases cannot be read.
    """
    folds = split_cases(dataset, data, fingerprint)
    given = data.split or (dataset.root if _has_folds(dataset) else None)
    fold = folds[data.fold] if given is None else _given(dataset, data, given, folds)
    if data.selection is not None:
        if fold.selection:
            raise UsageError(f"data.selection: fold {data.fold} of {data.split} has a selection of its own; remove one of them")
        fold = set_aside(fold, dataset.cases, data.selection, (data.fold_seed, data.fold))
    if data.train_cases is not None:
        fold = keep_cases(fold, dataset.cases, data.train_cases, (data.fold_seed, data.fold, TRAIN_CASES))
    return fold


def _has_folds(dataset: Dataset) -> bool:
    return bool(dataset.cases) and all(case.fold is not None for case in dataset.cases)


def _folds_of(cases: Sequence[Case]) -> tuple[Fold, ...]:
    """Return the folds that the cases come with, as the column of a table."""
    return tuple(
        Fold(
            tuple(sorted(case.name for case in cases if case.fold != number)),
            tuple(sorted(case.name for case in cases if case.fold == number)),
        )
        for number in sorted({case.fold for case in cases if case.fold is not None})
    )


def _given(dataset: Dataset, data: DataConfig, path: Path, folds: Sequence[Fold]) -> Fold:
    """Return a fold of a split file, checked against the data set."""
    if data.fold >= len(folds):
        raise UsageError(f"data.fold: {path} has {len(folds)} folds, there is no fold {data.fold} (the first is 0)")
    fold = folds[data.fold]
    groups = {case.name: case.group for case in dataset.cases}
    problems = [
        f"fold {data.fold}: no case is named {name!r} in {dataset.root}"
        for name in (*fold.train, *fold.validation, *fold.selection)
        if name not in groups
    ]
    parts = (("is trained on", fold.train), ("is for selection", fold.selection), ("is held out", fold.validation))
    seen: dict[str | None, tuple[str, str]] = {}
    for what, names in parts:
        for name in names:
            group = groups.get(name)
            other, part = seen.get(group, (name, what)) if group is not None else (name, what)
            if part != what:
                problems.append(f"fold {data.fold}: {name!r} {what}, {other!r} of the same group {group!r} {part}")
        seen |= {groups.get(name): (name, what) for name in names}
    refuse(path, problems)
    return fold


def _groups(cases: Sequence[Case]) -> dict[tuple[bool, str], list[str]]:
    """Return the names of the cases of each group, sorted."""
    groups: dict[tuple[bool, str], list[str]] = {}
    for case in sorted(cases, key=lambda case: case.name):
        # A case without a group is a group of its own, whatever the other groups are called.
        key = (False, case.name) if case.group is None else (True, case.group)
        groups.setdefault(key, []).append(case.name)
    return groups


def _read_fold(entry: Any) -> Fold | None:
    if not isinstance(entry, dict):
        return None
    held_out = next((entry[key] for key in VALIDATION_KEYS if key in entry), None)
    selection = {key: entry[key] for key in ("selection",) if key in entry}
    for names in (entry.get("train"), held_out, *selection.values()):
        if not isinstance(names, list) or not names or not all(isinstance(name, str) for name in names):
            return None
    return Fold(tuple(entry["train"]), tuple(held_out or ()), tuple(selection.get("selection", ())))


def _repetitions(fold: Fold) -> list[str]:
    problems = []
    parts = (("train", fold.train), ("validation", fold.validation), ("selection", fold.selection))
    for part, names in parts:
        problems += [f"case {name!r} occurs {count} times in {part}" for name, count in Counter(names).items() if count > 1]
    for (first, names), (second, others) in combinations(parts, 2):
        problems += [f"case {name!r} is in {first} and in {second}" for name in others if name in set(names)]
    return problems
