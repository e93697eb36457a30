"""One thing that is wrong, or may be, with a data set."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

Severity = Literal["error", "warning"]
"""An error stops training, a warning does not."""

KINDS: dict[str, str] = {
    "folder": "files that do not make cases",
    "folds": "folds that cannot be made",
    "unreadable": "unreadable files",
    "truncated": "truncated files",
    "not finite": "NaN or infinite voxels",
    "bad labels": "label maps that hold no labels",
    "undeclared": "undeclared label values",
    "geometry": "image and label on different grids",
    "channels": "channels that differ between cases",
    "leak": "the same image on both sides of a fold",
    "constant": "constant images",
    "duplicate": "the same image twice",
    "label copy": "the same label map twice",
    "channel grids": "channels on different grids",
    "header": "headers with two geometries",
    "spacing": "absurd spacing",
    "empty": "empty labels",
    "missing": "structures that are missing",
    "odd spacing": "spacing unlike that of the other cases",
    "odd size": "field of view unlike that of the other cases",
    "odd volume": "structures unlike those of the other cases",
    "odd intensity": "intensities unlike those of the other cases",
}
"""Every kind of finding, the gravest first, and what pages call it."""


@dataclass(frozen=True)
class Finding:
    """One thing that is wrong, or may be.

    Attributes:
        kind: a key of `KINDS`.
        severity: whether it stops training.
        message: one line with the numbers and what to do; without file and case.
        case: name of the case; "" where it is about the data set.
        file: the file to look at; None where it is about no single one.
        others: names of the other cases it is about.
        matrices: affines (4, 4) to compare, each with its name.
    """

    kind: str
    severity: Severity
    message: str
    case: str = ""
    file: Path | None = None
    others: tuple[str, ...] = ()
    matrices: Mapping[str, tuple[tuple[float, ...], ...]] = field(default_factory=dict)

    @property
    def line(self) -> str:
        """The finding as one line that names its file, or else its case."""
        where = str(self.file) if self.file is not None else f"case {self.case!r}" if self.case else ""
        return f"{where}: {self.message}" if where else self.message

    def to_dict(self) -> dict[str, Any]:
        """Return the finding as JSON holds it."""
        return {
            "severity": self.severity,
            "kind": self.kind,
            "case": self.case or None,
            "file": None if self.file is None else str(self.file),
            "message": self.message,
            "other_cases": list(self.others),
            **(
                {"matrices": {name: [list(row) for row in rows] for name, rows in self.matrices.items()}} if self.matrices else {}
            ),
        }


def in_order(findings: Iterable[Finding]) -> list[Finding]:
    """Sort findings: errors first, then by kind (gravest first) and case."""
    kinds = list(KINDS)
    return sorted(findings, key=lambda one: (one.severity != "error", kinds.index(one.kind), one.case, str(one.file)))


def error_lines(findings: Iterable[Finding]) -> list[str]:
    """Return the lines of the findings that stop training."""
    return [finding.line for finding in findings if finding.severity == "error"]
