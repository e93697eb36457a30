"""Checks a whole data set: its folder, every case, the cases against each other, and its folds."""

from __future__ import annotations

import logging
import math
import os
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from se_med import __version__
from se_med.config.data import DataConfig
from se_med.data.case import Case, Dataset, collecting
from se_med.data.checks import outliers
from se_med.data.checks.agreement import Traits, find_disagreements
from se_med.data.checks.duplicates import find_duplicates
from se_med.data.checks.examine import Examined, examine, reader
from se_med.data.checks.finding import Finding, in_order
from se_med.data.checks.statistics import case_row, rules, structure_rows, structure_volumes
from se_med.data.folds import Fold, make_folds, read_split, select_fold
from se_med.data.layouts import find_dataset
from se_med.data.structures import LabelValues
from se_med.errors import DataError, UsageError
from se_med.progress import Progress, silent


@dataclass(frozen=True)
class Check:
    """What was found.

    Attributes:
        root: folder of the data set.
        dataset: its cases; None where the folder cannot be read at all.
        examined: what is known of each case, in the data set's order.
        findings: everything that is wrong or may be, errors first.
    """

    root: Path
    dataset: Dataset | None
    examined: tuple[Examined, ...]
    findings: tuple[Finding, ...]

    @property
    def errors(self) -> int:
        """Number of findings that stop training."""
        return sum(finding.severity == "error" for finding in self.findings)

    @property
    def warnings(self) -> int:
        """Number of the other findings."""
        return len(self.findings) - self.errors

    @property
    def flat(self) -> bool:
        """Whether the cases are 2D images, whose sizes are in pixels."""
        return any(case.facts.flat for case in self.examined if case.facts is not None)

    @property
    def unit(self) -> str:
        """Unit of the volumes of structures."""
        return "px" if self.flat else "ml"

    @cached_property
    def structures(self) -> LabelValues:
        """Name and label values of each structure, declared or found."""
        declared = None if self.dataset is None else self.dataset.structures
        if declared is not None:
            return declared.values
        found = sorted({value for case in self.examined if case.facts for value, count in case.facts.voxels.items() if count})
        return {f"label_{value}": (value,) for value in found if value}

    @cached_property
    def volumes(self) -> dict[str, dict[str, float]]:
        """Volume of each structure that a case has, by case and structure: ml, or pixels of a 2D image."""
        return {
            case.case.name: structure_volumes(case.facts, self.structures) for case in self.examined if case.facts is not None
        }

    def to_dict(self) -> dict[str, Any]:
        """Return the check as JSON holds it."""
        return {
            "se_med": __version__,
            "root": str(self.root),
            "layout": None if self.dataset is None else self.dataset.layout,
            "modality": None if self.dataset is None else self.dataset.modality,
            "cases_found": len(self.examined),
            "errors": self.errors,
            "warnings": self.warnings,
            "findings": [finding.to_dict() for finding in self.findings],
            "structures": [row.to_dict(self.unit) for row in structure_rows(self.examined, self.structures)],
            "rules": rules(len(self.volumes)),
            "cases": [case_row(case, self.volumes.get(case.case.name, {}), self.unit) for case in self.examined],
        }


def check_dataset(data: DataConfig, progress: Progress = silent, workers: int | None = None, *, folds: bool = True) -> Check:
    """Read every case of a data set and report all that is wrong with it.

    Args:
        data: the folder, what is declared about it, and its folds.
        progress: told how many cases are done.
        workers: threads; each holds one case in memory. Default: the number of processors.
        folds: whether it is an error that the folds cannot be made; not where nobody asked for folds.

    Raises:
        UsageError: the folder is not given or does not exist.
    """
    if data.root is None:
        raise UsageError("data.root: no data set is named; set data.root in the file, or name the folder itself")
    dataset, findings = _read_folder(data)
    if dataset is None:
        return Check(data.root, None, (), tuple(findings))
    examined = _examine_all(dataset, progress, workers)
    findings += [finding for case in examined for finding in case.findings]
    traits = {case.case.name: Traits(*case.traits) for case in examined if case.traits is not None}
    disagreeing = find_disagreements(traits, dataset.channels)
    findings += disagreeing
    found = Check(data.root, dataset, examined, ())
    parts, problems = _folds(dataset, data, found, required=folds)
    findings += problems
    names = {case.case.name: case for case in examined}
    images = {name: case.image_digest for name, case in names.items()}
    labels = {name: case.label_digest for name, case in names.items()}
    findings += find_duplicates(images, labels, parts)
    apart = {finding.case for finding in disagreeing}
    alike = [case for case in examined if case.facts is not None and case.case.name not in apart]
    findings += outliers.find_outliers(alike, found.volumes, dataset.modality, found.unit)
    findings += _absent_everywhere(found)
    return Check(data.root, dataset, examined, tuple(in_order(findings)))


def _read_folder(data: DataConfig) -> tuple[Dataset | None, list[Finding]]:
    dataset, stopped = None, None
    with collecting() as problems:
        try:
            dataset = find_dataset(data)
        except DataError as error:
            stopped = error.message
    findings = [Finding("folder", "error", problem) for problem in problems]
    if stopped is not None and not findings:
        findings.append(Finding("folder", "error", stopped))
    return dataset, findings


def _examine_all(dataset: Dataset, progress: Progress, workers: int | None) -> tuple[Examined, ...]:
    read = reader(dataset)
    found: dict[str, Examined] = {}

    def one(case: Case) -> Examined:
        return examine(case, read, dataset.channels)

    # Threads, not processes: decompression and array work release the interpreter lock.
    pool = ThreadPoolExecutor(workers or os.cpu_count() or 1)
    with _told_as_findings(), progress("checking", len(dataset.cases)) as advance, pool:
        futures = {pool.submit(one, case): case.name for case in dataset.cases}
        try:
            for done, future in enumerate(as_completed(futures), start=1):
                found[futures[future]] = future.result()
                advance(done, "")
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise
    return tuple(found[case.name] for case in dataset.cases)


@contextmanager
def _told_as_findings() -> Iterator[None]:
    """Keep back what readers log of a case: it is among the findings."""
    log = logging.getLogger("se_med.io")
    level = log.level
    log.setLevel(logging.ERROR)
    try:
        yield
    finally:
        log.setLevel(level)


def _folds(dataset: Dataset, data: DataConfig, found: Check, *, required: bool) -> tuple[Sequence[Fold], list[Finding]]:
    """Return the folds that training would use, as far as they are known while some cases have errors."""
    try:
        if data.split is None:
            return make_folds(dataset.cases, data.folds, data.fold_seed, _strata(found) if data.stratify else None), []
        folds = []
        for number in range(len(read_split(data.split))):
            changes = {"fold": number, "selection": None, "train_cases": None}
            folds.append(select_fold(dataset, data.model_copy(update=changes)))
    except (DataError, UsageError) as error:
        lines = [line.strip() for line in error.message.splitlines()]
        lines = lines[1:] or lines  # the first of several lines counts the others
        return (), [Finding("folds", "error", line) for line in lines if required]
    return folds, []


def _strata(found: Check) -> Mapping[str, Mapping[int, float]]:
    """Return the volume in mm3 of each label value of each case, as folds are stratified by; nothing for cases with errors."""
    return {
        case.case.name: {}
        if case.facts is None
        else {value: count * math.prod(case.facts.spacing) for value, count in case.facts.voxels.items() if value and count}
        for case in found.examined
    }


def _absent_everywhere(found: Check) -> list[Finding]:
    """Name the declared structures that no case has; where no label has anything, training has nothing to learn."""
    known = [volumes for volumes in found.volumes.values() if volumes]
    if not found.volumes or found.dataset is None:
        return []
    if not known:
        return [Finding("empty", "error", "every label is empty, there is no structure to learn")]
    absent = [name for name in found.structures if not any(name in volumes for volumes in known)]
    message = "no case has a voxel of it; correct its value, or take it out of the labels"
    return [Finding("missing", "warning", f"structure {name!r}: {message}") for name in absent]
