"""The data of one run: the fold's cases, the plan made for them, and both parts prepared on disk."""

from __future__ import annotations

import logging
from dataclasses import dataclass, field
from itertools import islice
from typing import Any

from se_med.config.experiment import Config
from se_med.config.load import load_config
from se_med.data.axes import GIVEN
from se_med.data.cache import PreparedCase, prepare_cases
from se_med.data.fingerprint import take_fingerprint
from se_med.data.folds import select_fold, write_split
from se_med.data.layouts import find_dataset
from se_med.data.plan import Plan
from se_med.data.planning import make_plan, resolve
from se_med.errors import UsageError
from se_med.inference.flips import choose_test_time_flips
from se_med.io.atomic import write_text
from se_med.progress import Progress
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
    """

    config: Config
    plan: Plan
    train: list[PreparedCase]
    validation: list[PreparedCase]
    selection: list[PreparedCase] = field(default_factory=list)

    @property
    def watched(self) -> list[PreparedCase]:
        """The cases that are scored during training."""
        return self.selection or self.validation


def gather(config: Config, run: RunFolder, *, resumed: bool, progress: Progress) -> RunData:
    """Find, plan and prepare the cases of a run; writes `plan.json` and `split.json` unless the run is resumed.

    Raises:
        UsageError: no data set is named, it does not exist, or the configuration contradicts the data or the run that is resumed.
        DataError: cases cannot be used, each named on a line of its own.
    """
    if config.data.root is None:
        raise UsageError("data.root: no data set is named; set data.root in the file, or data.root=FOLDER on the command line")
    dataset = find_dataset(config.data)
    fold = select_fold(dataset, config.data)
    if config.training.early_stopping is not None and not fold.selection:
        raise UsageError(
            f"training.early_stopping: fold {config.data.fold} of {config.data.split} has no selection cases, so it would choose "
            "by the cases that are reported; list some as selection there, or set data.selection"
        )
    parts = [[dataset.case(name) for name in names] for names in (fold.train, fold.validation, fold.selection)]
    counts = [f"{len(part)} {name}" for name, part in zip(("training", "validation", "selection"), parts, strict=True) if part]
    log.info("data: %s (%s), %s cases", dataset.root, dataset.layout, ", ".join(counts))
    if resumed:
        config = stored_config(config, run)
        plan = Plan.model_validate_json(run.plan.read_text(encoding="utf-8"))
    else:
        with progress("reading", len(dataset.cases)) as advance:
            fingerprint = take_fingerprint(dataset, lambda done, total: advance(done, ""))
        plan = make_plan(config, dataset, fingerprint)
        config = resolve(config, plan)
        choose_test_time_flips(config)
        write_text(run.plan, plan.model_dump_json(indent=2) + "\n")
        write_split(run.split, [fold])
        for key, reason in plan.reasons.items():
            if reason != GIVEN:
                log.info("plan: %s %s: %s", key, _plain(getattr(plan, key)), reason)
    with progress("preparing", sum(map(len, parts))) as advance:
        cases = [case for part in parts for case in part]
        prepared = iter(prepare_cases(cases, plan, config.data.cache, lambda done, total: advance(done, "")))
    train, validation, selection = (list(islice(prepared, len(part))) for part in parts)
    return RunData(config, plan, train, validation, selection)


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


def _plain(value: Any) -> str:
    """Write a planned value as YAML would."""
    if isinstance(value, tuple | list):
        return f"[{', '.join(_plain(entry) for entry in value)}]"
    if isinstance(value, dict):
        return f"{{{', '.join(f'{key}: {_plain(entry)}' for key, entry in value.items())}}}"
    return getattr(value, "method", None) or (f"{value:g}" if isinstance(value, float) else str(value))
