"""One interruption, what it led to, and the table of many."""

from __future__ import annotations

from dataclasses import dataclass, field

from benchmarks._harm import HARMS


@dataclass
class Kill:
    """One interruption.

    Attributes:
        task: which command.
        harm: what was done to it.
        after: seconds from its start.
        fresh: whether it was started by an interpreter of its own.
        place: `one device`, `two devices` or `small disk`.
        exit_code: of the command; None when it hung.
        unit: what `lost` counts.
        lost: units of finished work that are done again; None where they cannot be counted.
        orphans: processes that it left running for too long.
        orphan_seconds: how long what it had started went on.
        faults: what must not be: broken files, tracebacks, an unexpected exit code, and what the trial ended with.
    """

    task: str
    harm: str
    after: float
    fresh: bool
    place: str
    exit_code: int | None
    unit: str
    lost: int | None = None
    orphans: int = 0
    orphan_seconds: float = 0.0
    faults: list[str] = field(default_factory=list)


def make_table(kills: list[Kill]) -> str:
    """Return one line per command with the number of its interruptions, a line of sums, and what must not have been."""
    harms = [name for name in HARMS if any(kill.harm == name for kill in kills)]
    heads = ["command", *harms, "all", "broken files", "other faults", "processes left", "largest loss"]
    lines = [f"| {' | '.join(heads)} |", "|---" * len(heads) + "|"]
    tasks = list(dict.fromkeys(kill.task for kill in kills))
    for task in [*tasks, "**all**"]:
        group = [kill for kill in kills if kill.task == task or task == "**all**"]
        counts = [sum(kill.harm == harm for kill in group) or "" for harm in harms]
        broken = sum(any(fault.startswith("broken") for fault in kill.faults) for kill in group)
        other = sum(any(not fault.startswith("broken") for fault in kill.faults) for kill in group)
        lost = [kill.lost for kill in group if kill.lost is not None]
        loss = f"{max(lost)} {group[0].unit}" if lost and task in tasks else ""
        cells = [task, *counts, len(group), broken, other, sum(kill.orphans for kill in group), loss]
        lines.append(f"| {' | '.join(map(str, cells))} |")
    faults = [f"{kill.task}, {kill.harm} after {kill.after:.2f} s: {fault}" for kill in kills for fault in kill.faults]
    longest = max((kill.orphan_seconds for kill in kills), default=0.0)
    lines += ["", f"Processes that a dead command had started ended within {longest:.1f} s.", "", *faults]
    return "\n".join(lines).rstrip() + "\n"
