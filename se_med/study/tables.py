"""The tables of a study on disk: a row per run, one per run, case and structure, and what the arms are.

A study folder holds

- ``study.yaml``: the study, complete (`se_med.study.config.StudyConfig`);
- ``arms.json``: a list, one `ArmRow` per arm, the reference first;
- ``runs.csv``: a `RunRow` per arm, fold and seed, those that failed included;
- ``cases.csv``: a `CaseRow` per finished run, held-out case and structure;
- ``plan.json``: the plan that every arm uses, unless `ArmRow.plan_differences` says what an arm changes in it.

Everything else (statistics, report) is made from these and from the run folders.
"""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any, Literal, TypeVar, get_args, get_type_hints

from se_med.errors import RunError, UsageError
from se_med.io.atomic import write_json, write_text

STUDY, ARMS, RUNS, CASES, PLAN, SUMMARY = "study.yaml", "arms.json", "runs.csv", "cases.csv", "plan.json", "summary.json"

RunStatus = Literal["finished", "failed", "pending"]
Status = Literal["present", "absent", "missed", "spurious"]


@dataclass(frozen=True)
class CaseRow:
    """How well one run segmented one structure of one held-out case; `se_med.evaluation.metrics` says what the scores are.

    Attributes:
        arm: name of the arm.
        fold: the fold that holds the case out.
        seed: seed of the run.
        case: name of the case.
        structure: name of the structure.
        reference_digest: SHA-256 of the reference label file. Scores pair where case, fold and this agree.
        status: "present", "missed", "spurious" or "absent" (from both label maps: enters no mean, has no scores).
        dice: 0 to 1; None when absent.
        hd95: mm; None when absent.
        nsd: 0 to 1; None when absent.
        volume_error_ml: prediction minus reference, in ml.
        prediction_ml: volume of the prediction, in ml.
        reference_ml: volume of the reference, in ml.
    """

    arm: str
    fold: int
    seed: int
    case: str
    structure: str
    reference_digest: str
    status: Status
    dice: float | None
    hd95: float | None
    nsd: float | None
    volume_error_ml: float
    prediction_ml: float
    reference_ml: float

    @property
    def missed(self) -> bool:
        """Whether the prediction lacks a structure that is there."""
        return self.status == "missed"

    @property
    def spurious(self) -> bool:
        """Whether the prediction has a structure that is not there."""
        return self.status == "spurious"

    @property
    def absent(self) -> bool:
        """Whether both lack the structure."""
        return self.status == "absent"


@dataclass(frozen=True)
class RunRow:
    """One run of a study.

    Attributes:
        arm: name of the arm.
        fold: the held-out fold.
        seed: seed of weights, patches and augmentation.
        key: content key; equal keys are the same run, and its folder's name.
        folder: run folder, relative to the study folder.
        status: "finished"; "failed" (twice: excluded); "pending" (not made yet).
        error: one line; why the run failed.
        attempts: times the run was started in the call of `se-med compare` that made it; 0 where it was found finished.
        steps: optimiser steps made.
        seconds: time of training, validations included.
        seconds_per_step: mean time of a step, validations left out; None where it is not known.
        seconds_per_case: time to segment one held-out case from file to labels, alone, after training.
        parameters: learned numbers of the network.
        macs: multiplications with an addition for one patch.
        kept_mb: memory in MB (10^6 bytes, float32) that the forward pass of a batch keeps for the backward pass.
        peak_memory_mb: largest resident memory of the run's process, in MB.
        stream_digest: digest of all batches of the run.
        start_digest: digest of all tensors of the network before the first step.
        matched: whether batches, and starts of the tensors that both have, are bitwise those of the reference's run of this
            fold and seed; None where one of both is not finished.
        unmatched_reason: why it is not; empty where matched.
    """

    arm: str
    fold: int
    seed: int
    key: str
    folder: str
    status: RunStatus
    error: str = ""
    attempts: int = 0
    steps: int | None = None
    seconds: float | None = None
    seconds_per_step: float | None = None
    seconds_per_case: float | None = None
    parameters: int | None = None
    macs: int | None = None
    kept_mb: float | None = None
    peak_memory_mb: float | None = None
    stream_digest: str = ""
    start_digest: str = ""
    matched: bool | None = None
    unmatched_reason: str = ""


@dataclass(frozen=True)
class ArmRow:
    """One arm of a study.

    Attributes:
        name: name of the arm.
        reference: whether it is the one that the others are compared with.
        control: the control it is ("wider", "static", ...), empty where it is none.
        control_of: the arm that it is a control of.
        differences: settings in which the effective configuration differs from the reference's, by dotted key:
            ``[value of the reference, value of this arm]``; null where a key does not exist.
        plan_differences: likewise, of the plan. Empty where the arm uses the plan of the study.
        parameters: learned numbers of its network.
        macs: multiplications with an addition for one patch.
        kept_mb: memory that training keeps for a batch, in MB.
        steps: optimiser steps of each of its runs.
        note: what else to know, such as how near a wider network came to the parameters asked for.
    """

    name: str
    reference: bool
    control: str = ""
    control_of: str = ""
    differences: dict[str, list[Any]] = field(default_factory=dict)
    plan_differences: dict[str, list[Any]] = field(default_factory=dict)
    parameters: int = 0
    macs: int = 0
    kept_mb: float = 0.0
    steps: int = 0
    note: str = ""


@dataclass(frozen=True)
class Tables:
    """Everything that a study has measured, as statistics and report take it.

    Attributes:
        arms: the arms, the reference first.
        runs: a row per arm, fold and seed.
        cases: a row per finished run, case and structure.
    """

    arms: tuple[ArmRow, ...]
    runs: tuple[RunRow, ...]
    cases: tuple[CaseRow, ...]

    @property
    def reference(self) -> str:
        """Name of the reference."""
        return next(arm.name for arm in self.arms if arm.reference)


@dataclass(frozen=True)
class Pair:
    """One structure of one case, segmented by an arm and by the reference, trained on the same fold with the same seed."""

    arm: CaseRow
    reference: CaseRow


def pair_cases(cases: Iterable[CaseRow], arm: str, reference: str) -> tuple[list[Pair], list[CaseRow]]:
    """Pair the scores of an arm with the reference's: same fold, seed, case and structure, and the same reference segmentation.

    Args:
        cases: rows of a study.
        arm: name of the arm.
        reference: name of the reference.

    Returns:
        The pairs in the order of the arm's rows, and the rows of either that have no partner.
    """
    rows = list(cases)
    found = {_pairing(row): row for row in rows if row.arm == reference}
    pairs = [Pair(row, found[_pairing(row)]) for row in rows if row.arm == arm and _pairing(row) in found]
    paired = {_pairing(pair.arm) for pair in pairs}
    return pairs, [row for row in rows if row.arm in (arm, reference) and _pairing(row) not in paired]


def _pairing(row: CaseRow) -> tuple[int, int, str, str, str]:
    return row.fold, row.seed, row.case, row.structure, row.reference_digest


def write_tables(folder: Path, tables: Tables) -> None:
    """Write ``arms.json``, ``runs.csv`` and ``cases.csv``, each atomically.

    Raises:
        RunError: a file cannot be written.
    """
    write_json(folder / ARMS, [asdict(arm) for arm in tables.arms])
    write_rows(folder / RUNS, RunRow, tables.runs)
    write_rows(folder / CASES, CaseRow, tables.cases)


def read_tables(folder: Path) -> Tables:
    """Read what `write_tables` has written.

    Raises:
        UsageError: the folder is not that of a study.
        RunError: a table is damaged.
    """
    try:
        arms = json.loads((folder / ARMS).read_text(encoding="utf-8"))
        return Tables(
            tuple(ArmRow(**arm) for arm in arms),
            tuple(read_rows(folder / RUNS, RunRow)),
            tuple(read_rows(folder / CASES, CaseRow)),
        )
    except FileNotFoundError as error:
        raise UsageError(f"{folder}: {Path(error.filename).name} is missing; name the folder of a study") from None
    except (ValueError, TypeError) as error:
        raise RunError(f"{folder / ARMS}: not a table of this version of se-med ({error}); run the study again") from None


Row = TypeVar("Row", CaseRow, RunRow)


def write_rows(path: Path, kind: type[Row], rows: Sequence[Row]) -> None:
    """Write rows as CSV, atomically; None is an empty cell.

    Raises:
        RunError: the file cannot be written.
    """
    text = io.StringIO()
    writer = csv.DictWriter(text, [entry.name for entry in fields(kind)], lineterminator="\n")
    writer.writeheader()
    writer.writerows(asdict(row) for row in rows)
    write_text(path, text.getvalue())


def read_rows(path: Path, kind: type[Row]) -> list[Row]:
    """Read rows that `write_rows` has written.

    Raises:
        FileNotFoundError: there is no such file.
        RunError: a cell does not fit its column, or a column is missing.
    """
    columns = get_type_hints(kind)
    with path.open(encoding="utf-8", newline="") as file:
        reader = csv.DictReader(file)
        try:
            return [kind(**{name: _cell(row[name], hint) for name, hint in columns.items()}) for row in reader]
        except (KeyError, ValueError, TypeError) as error:
            raise RunError(f"{path}:{reader.line_num}: not a table of this version of se-med ({error})") from None


def _cell(text: str, hint: Any) -> Any:
    kinds = get_args(hint) or (hint,)
    if text == "" and type(None) in kinds:
        return None
    if bool in kinds:
        return {"True": True, "False": False}[text]
    if int in kinds:
        return int(text)
    if float in kinds:
        return float(text)
    if str not in kinds and text not in kinds:  # one of a few words
        raise ValueError(f"{text!r} is not one of {', '.join(map(str, kinds))}")
    return text
