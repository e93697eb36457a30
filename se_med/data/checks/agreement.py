"""What all cases of a data set must have in common: number of channels, and being 2D images or volumes."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass

from se_med.data.checks.finding import Finding


@dataclass(frozen=True)
class Traits:
    """What must be alike: number of channels, and whether the case is a 2D image."""

    channels: int
    flat: bool


def find_disagreements(cases: Mapping[str, Traits], declared: tuple[str, ...]) -> list[Finding]:
    """Name the cases that are unlike most others.

    Args:
        cases: the cases that can be read, by name.
        declared: name of each channel; () where none are declared.

    Returns:
        One error for each case of the rarer kind; and one about the data set where its images have another number of channels
        than is declared.
    """
    if not cases:
        return []
    findings = _mixed_kinds(cases)
    mixed = {finding.case for finding in findings}
    usual = Counter(case.channels for name, case in cases.items() if name not in mixed).most_common(1)[0][0]
    findings += [
        Finding(
            "channels", "error", f"{case.channels} channels, most cases have {usual}; take it out or add what is missing", name
        )
        for name, case in cases.items()
        if case.channels != usual and name not in mixed
    ]
    if declared and len(declared) != usual:
        message = f"{len(declared)} channels are declared ({', '.join(declared)}), the images have {usual}"
        findings.append(Finding("channels", "error", message))
    return findings


def _mixed_kinds(cases: Mapping[str, Traits]) -> list[Finding]:
    """Name the rarer kind where some cases are 2D images and others volumes: a pixel and a millimetre are no common unit."""
    flat = {name for name, case in cases.items() if case.flat}
    volumes = set(cases) - flat
    if not flat or not volumes:
        return []
    rare, kind, others = (flat, "a 2D image", "volumes") if len(flat) <= len(volumes) else (volumes, "a volume", "2D images")
    message = f"{kind}, most cases are {others}; a data set holds one kind"
    return [Finding("channels", "error", message, name) for name in sorted(rare)]
