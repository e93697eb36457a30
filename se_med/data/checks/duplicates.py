"""The same pixels under two names: counted twice at best; trained on and held out at worst."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from se_med.data.checks.finding import Finding
from se_med.data.folds import Fold


def same_digest(digests: Mapping[str, str]) -> list[tuple[str, ...]]:
    """Return the groups of cases that share a digest, by name; a case without a digest ("") is in none."""
    groups: dict[str, list[str]] = {}
    for name in sorted(digests):
        if digests[name]:
            groups.setdefault(digests[name], []).append(name)
    return [tuple(names) for names in groups.values() if len(names) > 1]


def find_leaks(copies: Iterable[tuple[str, ...]], fold: Fold) -> list[Finding]:
    """Return an error for each group of equal images that a fold both learns from and is judged by.

    Args:
        copies: names of the cases with the same image.
        fold: the fold. Held-out cases must be seen neither in training nor, by early stopping, in selection.
    """
    findings = []
    for names in copies:
        sides = _sides(names, fold)
        if len(sides) > 1:
            said = ", ".join(f"{name!r} is {side}" for side, name in sides.items())
            first, *others = names
            message = (
                f"the same pixels as {_listed(others)}, and {said}: the score would be of an image that was learned; keep one"
            )
            findings.append(Finding("leak", "error", message, first, others=tuple(others)))
    return findings


def find_duplicates(
    images: Mapping[str, str], labels: Mapping[str, str], folds: Sequence[Fold], constant: frozenset[str] = frozenset()
) -> list[Finding]:
    """Find equal images and, under different images, equal label maps.

    Args:
        images: digest of each case's image.
        labels: digest of each case's label map; "" for an empty one, which is no copy of another.
        folds: the folds that would be trained; a pair across one of them is an error.
        constant: cases whose image is constant: nothing is known of where it comes from.

    Returns:
        One finding for each group of equal images or labels, with the first case's name.
    """
    copies = same_digest({name: digest for name, digest in images.items() if name not in constant})
    findings = []
    for names in copies:
        leaks = [(number, leak) for number, fold in enumerate(folds) for leak in find_leaks([names], fold)]
        first, *others = names
        equal = len({labels.get(name, "") for name in names}) == 1
        if leaks:
            number, leak = leaks[0]
            more = f" and {len(leaks) - 1} more" if len(leaks) > 1 else ""
            findings.append(Finding("leak", "error", f"fold {number}{more}: {leak.message}", first, others=tuple(others)))
        else:
            message = f"the same pixels as {_listed(others)}, with {'the same' if equal else 'another'} label; keep one"
            findings.append(Finding("duplicate", "warning", message, first, others=tuple(others)))
    known = {name for names in copies for name in names}
    for first, *others in same_digest({name: digest for name, digest in labels.items() if name not in known}):
        message = f"the same label map as {_listed(others)}, though the images differ; one of them belongs to another image"
        findings.append(Finding("label copy", "warning", message, first, others=tuple(others)))
    return findings


def _sides(names: tuple[str, ...], fold: Fold) -> dict[str, str]:
    """Return what is done with the cases of a group, each with one of them; empty where all is on one side."""
    parts = {"trained on": fold.train, "for selection": fold.selection, "held out": fold.validation}
    sides = {side: next((name for name in names if name in part), None) for side, part in parts.items()}
    return {side: name for side, name in sides.items() if name is not None}


def _listed(names: Sequence[str]) -> str:
    shown = ", ".join(repr(name) for name in names[:5])
    return shown if len(names) <= 5 else f"{shown} and {len(names) - 5} more"
