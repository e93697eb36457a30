"""The data of one run: the fold's cases, the plan made for them, and both parts prepared on disk."""

from __future__ import annotations

import logging
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import islice
from typing import Any

from se_med.config.experiment import Config
from se_med.config.load import load_config
from se_med.data.axes import GIVEN
from se_med.data.cache import PreparedCase, prepare_cases
from se_med.data.case import Case, refuse
from se_med.data.checks.duplicates import find_leaks, same_digest
from se_med.data.folds import read_split, write_split
from se_med.data.layouts import find_dataset
from se_med.data.plan import Plan
from se_med.errors import UsageError
from se_med.inference.model import read_plan
from se_med.io.atomic import write_text
from se_med.progress import Progress
from se_med.training.planned import Planned, Prescribed, plan_run
from se_med.training.run_folder import RunFolder

log = logging.getLogger(__name__)

CHANGEABLE = frozenset(
    {
        *("training.threads", "training.workers", "training.processes", "training.device", "training.checkpoint_minutes"),
        *("training.loggers", "data.cache"),
    }
)
"""Settings of the machine, which may differ when a run is resumed."""


@dataclass(frozen=True)
class RunData:
    """The prepared cases of one fold and the plan they were prepared by.

    Attributes:
        config: the configuration with everything planned filled in.
        plan: the plan.
        train: cases that are trained on.
        validation: held-out cases.
        selection: cases that are neither trained on nor reported; empty where none are set aside.
        preparing: seconds that preparing the cases took, or finding them prepared.
    """

    config: Config
    plan: Plan
    train: list[PreparedCase]
    validation: list[PreparedCase]
    selection: list[PreparedCase] = field(default_factory=list)
    preparing: float = 0.0

    @property
    def watched(self) -> list[PreparedCase]:
        """The cases that are scored during training."""
        return self.selection or self.validation


def gather(config: Config, run: RunFolder, *, resumed: bool, progress: Progress, prescribed: Prescribed | None = None) -> RunData:
    """Find, plan and prepare the cases of a run; writes `plan.json` and `split.json` unless the run is resumed.

    Args:
        config: the configuration as the user wrote it.
        run: the run folder.
        resumed: whether the run goes on; its own configuration, plan and split are used then.
        progress: shows long work.
        prescribed: plan and cases, where a study has decided them.

    Raises:
        UsageError: no data set is named, it does not exist, or the configuration contradicts the data, the plan that is given
            or the run that is resumed.
        DataError: cases cannot be used, each named on a line of its own, or an image is in two parts of the fold.
        RunError: the prepared cases do not fit on the disk.
    """
    if resumed:
        config = stored_config(config, run)
        plan = read_plan(run.plan)
        planned = Planned(config, config, plan, find_dataset(config.data), read_split(run.split)[0], None)
    else:
        planned = plan_run(config, progress, prescribed)
        _say_plan(planned.plan)
    config, fold, dataset = planned.config, planned.fold, planned.dataset
    if config.training.early_stopping is not None and not fold.selection:
        raise UsageError(
            f"training.early_stopping: fold {config.data.fold} of {config.data.split} has no selection cases, so it would choose "
            "by the cases that are reported; list some as selection there, or set data.selection"
        )
    parts = planned.parts()
    counts = [f"{len(part)} {name}" for name, part in zip(("training", "validation", "selection"), parts, strict=True) if part]
    log.info("data: %s (%s), %s cases", dataset.root, dataset.layout, ", ".join(counts))
    begun = time.monotonic()
    prepared = prepare_parts(planned, parts, progress)
    preparing = time.monotonic() - begun
    pixels = {case.case.name: case.manifest.pixels for part in prepared for case in part}
    refuse(dataset.root, [finding.line for finding in find_leaks(same_digest(pixels), fold)])
    _warn_of_missing_structures(planned.plan, prepared[0])
    if not resumed:
        write_text(run.plan, planned.plan.model_dump_json(indent=2) + "\n")
        write_split(run.split, [fold])
    return RunData(config, planned.plan, prepared[0], prepared[1], prepared[2], preparing)


def prepare_parts(planned: Planned, parts: Sequence[Sequence[Case]], progress: Progress) -> list[list[PreparedCase]]:
    """Prepare the cases of several parts together."""
    cases = [case for part in parts for case in part]
    with progress("preparing", len(cases)) as advance:
        prepared = iter(
            prepare_cases(
                cases,
                planned.plan,
                planned.config.data.cache,
                lambda done, total: advance(done, ""),
                dataset=planned.dataset.root.name,
                max_memory=planned.config.training.max_memory,
            )
        )
    return [list(islice(prepared, len(part))) for part in parts]


def _say_plan(plan: Plan) -> None:
    for key, reason in plan.reasons.items():
        if reason != GIVEN:
            log.info("plan: %s %s: %s", key, plain(getattr(plan, key)), reason)


def _warn_of_missing_structures(plan: Plan, train: Sequence[PreparedCase]) -> None:
    if plan.regions:  # their classes are combinations, of which some may well be rare
        return
    present = {index for case in train for index in case.manifest.foreground}
    for index, name in enumerate(plan.labels, start=1):
        if index not in present:
            log.warning("warning: none of the %d training cases has %s, so it cannot be learned", len(train), name)


def stored_config(given: Config, run: RunFolder) -> Config:
    """Return the configuration that a run was started with.

    Raises:
        UsageError: `given` sets something to another value; names every such key.
    """
    stored = load_config(run.config)
    known = flatten(stored.model_dump())
    differing = sorted(
        key
        for key, value in flatten(given.model_dump()).items()
        if value is not None and value != known.get(key) and key not in CHANGEABLE | {"training.max_minutes"}
    )
    if differing:
        raise UsageError(
            f"{run.path}: {', '.join(differing)} differ from the run's config.yaml; resume with the same configuration, or give "
            "another name (name=...)"
        )
    machine = {key.split(".")[1]: getattr(given.training, key.split(".")[1]) for key in CHANGEABLE if key.startswith("training.")}
    return stored.model_copy(
        update={
            "training": stored.training.model_copy(update=machine),
            "data": stored.data.model_copy(update={"cache": given.data.cache}),
        }
    )


def flatten(tree: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """Turn nested mappings into one with dotted keys."""
    flat: dict[str, Any] = {}
    for key, value in tree.items():
        if isinstance(value, dict) and value:
            flat |= flatten(value, f"{prefix}{key}.")
        else:
            flat[f"{prefix}{key}"] = value
    return flat


def plain(value: Any) -> str:
    """Write a planned value as YAML would."""
    if isinstance(value, tuple | list):
        return f"[{', '.join(plain(entry) for entry in value)}]"
    if isinstance(value, dict):
        return f"{{{', '.join(f'{key}: {plain(entry)}' for key, entry in value.items())}}}"
    return getattr(value, "method", None) or (f"{value:g}" if isinstance(value, float) else str(value))
