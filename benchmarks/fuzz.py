"""Damages good files at random and counts what readers do with them: read, refused, or an exception that nobody foresaw.

    python -m benchmarks fuzz --mutants 100000

Every mutant is a function of the seed and its number: `--only FORMAT --seed S --first N --mutants 1` makes one again.
"""

from __future__ import annotations

import argparse
import random
import tempfile
import time
import traceback
import warnings
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from benchmarks._fuzz_formats import FORMATS, Format, mutate
from benchmarks._records import write_record
from se_med.errors import SeMedError

OUTPUT = Path("benchmarks/results/fuzz")
SLOW = 1.0
"""Seconds of the processor that no file of a few kilobytes may take."""


@dataclass(frozen=True)
class Finding:
    """A mutant that a reader did not cope with.

    Attributes:
        format: name of the format.
        seed: seed of the mutants.
        number: which of them.
        what: the exception with its last places in the code, or the time that it took.
    """

    format: str
    seed: int
    number: int
    what: str


@dataclass
class Count:
    """What became of the mutants of one format."""

    read: int = 0
    refused: int = 0
    stray: int = 0
    slowest: float = 0.0
    seconds: float = 0.0
    findings: list[Finding] = field(default_factory=list)
    reasons: Counter[str] = field(default_factory=Counter)


def fuzz(name: str, numbers: Sequence[int], seed: int, folder: Path) -> Count:
    """Make mutants of one format and give each to all readers of the format.

    Args:
        name: one of `FORMATS`.
        numbers: which mutants.
        seed: of all mutants.
        folder: where they are written, one after the other.
    """
    made, count = FORMATS[name](folder), Count()
    for number in numbers:
        made.write(mutate(made, random.Random(f"{name} {seed} {number}")))  # noqa: S311 (nothing to keep secret)
        start = time.process_time()
        outcome = _outcome(made, count)
        seconds = time.process_time() - start
        count.seconds += seconds
        count.slowest = max(count.slowest, seconds)
        if outcome or seconds > SLOW:
            count.stray += bool(outcome)
            count.findings.append(Finding(name, seed, number, outcome or f"took {seconds:.2f} s"))
    return count


def _outcome(made: Format, count: Count) -> str:
    """Give the file to all its readers; return what was raised beside the refusal."""
    refused = 0
    for read in made.readers:
        try:
            read(made.path)
        except SeMedError as error:
            refused += 1
            count.reasons[type(error).__name__] += 1
            if not error.message.strip() or "Traceback" in error.message:
                return f"refused without a word by {read.__name__}"
        except Exception as error:  # noqa: BLE001 - what is looked for
            places = [f"{Path(place.filename).name}:{place.lineno}" for place in traceback.extract_tb(error.__traceback__)]
            return f"{type(error).__name__}: {str(error)[:120]} at {' > '.join(places[-3:])}"
    count.refused += refused == len(made.readers)
    count.read += refused < len(made.readers)
    return ""


def shares(mutants: int, only: str | None = None) -> dict[str, int]:
    """Return how many mutants of each format are made; those of costly readers are fewer."""
    chosen = [name for name in FORMATS if only in (None, name)]
    weights = {name: FORMATS[name].weight for name in chosen}
    whole = sum(weights.values())
    counts = {name: mutants * weight // whole for name, weight in weights.items()}
    counts[chosen[0]] += mutants - sum(counts.values())
    return counts


def peak_mb() -> float:
    """Return the most memory that this process has held, MB."""
    import resource

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e6


def table(counts: dict[str, Count], grown: float) -> str:
    """Return what was found as a Markdown table."""
    lines = ["| format | mutants | read | refused | stray exceptions | slowest, s |", "|---|---:|---:|---:|---:|---:|"]
    for name, count in counts.items():
        made = count.read + count.refused + count.stray
        lines.append(f"| {name} | {made:,} | {count.read:,} | {count.refused:,} | {count.stray} | {count.slowest:.3f} |")
    read, refused, stray = (sum(getattr(count, key) for count in counts.values()) for key in ("read", "refused", "stray"))
    slowest = max(count.slowest for count in counts.values())
    lines.append(f"| **all** | **{read + refused + stray:,}** | {read:,} | {refused:,} | **{stray}** | {slowest:.3f} |")
    return "\n".join(lines) + f"\n\nLargest memory of the process: {grown:.0f} MB more than before the first mutant.\n"


def run(
    mutants: int, seed: int, only: str | None, first: int, tell: Callable[[str], None] = print
) -> tuple[dict[str, Count], float]:
    """Fuzz all formats, or one.

    Returns:
        What became of the mutants of each format, and by how much the memory of the process grew, MB.
    """
    memory = Path("/dev/shm")  # noqa: S108 (files of a moment, in memory where there is such a folder)
    counts: dict[str, Count] = {}
    with tempfile.TemporaryDirectory(dir=memory if memory.is_dir() else None) as folder:
        for name in shares(mutants, only):
            fuzz(name, range(0), seed, Path(folder))  # imports what the readers need
        before = peak_mb()
        for name, number in shares(mutants, only).items():
            counts[name] = fuzz(name, range(first, first + number), seed, Path(folder))
            tell(f"{name}: {number} mutants, {counts[name].stray} stray, {counts[name].seconds:.0f} s")
            for finding in counts[name].findings[:5]:
                tell(f"  again: python -m benchmarks fuzz --only {name} --seed {seed} --first {finding.number} --mutants 1")
                tell(f"  {finding.what}")
    return counts, peak_mb() - before


def main(arguments: list[str]) -> int:
    """Fuzz and write the table."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks fuzz", description=__doc__)
    parser.add_argument("--mutants", type=int, default=100_000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", choices=list(FORMATS), help="one format alone; then nothing is written")
    parser.add_argument("--first", type=int, default=0, help="number of the first mutant")
    chosen = parser.parse_args(arguments)
    warnings.simplefilter("ignore")  # as the command line does
    counts, grown = run(chosen.mutants, chosen.seed, chosen.only, chosen.first)
    text = table(counts, grown)
    measured = {
        "memory_grown_mb": round(grown, 1),
        "formats": {
            name: {
                "read": count.read,
                "refused": count.refused,
                "stray": count.stray,
                "slowest_s": round(count.slowest, 4),
                "seconds": round(count.seconds, 1),
                "findings": [finding.__dict__ for finding in count.findings],
            }
            for name, count in counts.items()
        },
    }
    if chosen.only is None:
        write_record(OUTPUT, text, {"mutants": chosen.mutants, "seed": chosen.seed}, measured)
    else:
        print(text)
    return 1 if any(count.findings for count in counts.values()) else 0
