"""The runs of a study: what each is made of, and the key by which equal runs are one."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

from se_med.config.experiment import Config
from se_med.data.cache import PreparedCase
from se_med.data.folds import Fold
from se_med.data.plan import Plan
from se_med.inference.precision import resolve_device, resolve_precision
from se_med.study.planning import COMMENTS, PlannedArm
from se_med.training.provenance import numerical_environment

VERSION = 1
"""Part of every key; raise it when the same configuration and data give other numbers."""
KEY_LENGTH = 20
WHERE = {
    "data": frozenset(
        {
            *(
                "root",
                "layout",
                "image_files",
                "label_files",
                "table",
                "split",
                "fold",
                "folds",
                "fold_seed",
                "stratify",
                "selection",
            ),
            *("group", "train_cases", "plan", "cache"),
        }
    ),
    "training": frozenset(
        {"max_minutes", "max_memory", "init_from", "threads", "workers", "processes", "device", "precision"}
        | {"checkpoint_minutes", "loggers"}
    ),
}
"""Settings that change no number, or whose effect is in the key by another way: files by their digests, folds by their cases."""


@dataclass(frozen=True)
class Run:
    """One run of a study.

    Attributes:
        arm: name of the arm.
        fold: the held-out fold.
        seed: seed of weights, patches and augmentation.
        key: content key; the name of the run and of its folder.
        config: its effective configuration.
        plan: the plan.
        cases: the cases of the fold.
    """

    arm: str
    fold: int
    seed: int
    key: str
    config: Config
    plan: Plan
    cases: Fold

    @property
    def title(self) -> str:
        """What messages call the run."""
        return f"{self.arm}, fold {self.fold}, seed {self.seed}"


def make_runs(arms: Sequence[PlannedArm], seeds: Sequence[int], threads: int) -> list[Run]:
    """Return all runs of a study; those of one fold and seed, which make pairs, follow each other."""
    folds = list(arms[0].folds)
    return [_make_run(arm, fold, seed, threads) for seed in seeds for fold in folds for arm in arms]


def _make_run(arm: PlannedArm, fold: int, seed: int, threads: int) -> Run:
    training = arm.config.training.model_copy(update={"threads": threads})
    data = arm.config.data.model_copy(update={"fold": fold})
    config = arm.config.model_copy(update={"seed": seed, "data": data, "training": training})
    key = run_key(config, arm.plan, arm.folds[fold], arm.cases, threads)
    return Run(arm.name, fold, seed, key, config.model_copy(update={"name": key}), arm.plan, arm.folds[fold])


def run_key(config: Config, plan: Plan, fold: Fold, cases: dict[str, PreparedCase], threads: int) -> str:
    """Return the key of everything that decides a run's numbers: settings, plan, the bytes of its cases, arithmetic, versions.

    Args:
        config: the effective configuration.
        plan: the plan.
        fold: the cases.
        cases: the prepared cases by name, which know the digests of their files.
        threads: CPU threads.
    """
    left_out: dict[str, Any] = {"name": True, **WHERE}
    settings = config.model_dump(mode="json", exclude=left_out)
    precision = resolve_precision(config.training.precision, resolve_device(config.training.device))
    environment = numerical_environment(precision) | {"threads": threads}
    del environment["processor"]  # recorded with every run; a study may go on on another machine of the same kind
    content = {
        "version": VERSION,
        "settings": settings,
        "plan": plan.model_dump(mode="json", exclude=set(COMMENTS)),
        "cases": {part: _sources(getattr(fold, part), cases) for part in ("train", "validation", "selection")},
        "start": None if config.training.init_from is None else _digest_of_run(config.training.init_from),
        "device": resolve_device(config.training.device).type,
        "environment": environment,
        "software": {name: version(name) for name in ("se-med", "monai", "lightning", "numpy")},
    }
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:KEY_LENGTH]


def _sources(names: Sequence[str], cases: dict[str, PreparedCase]) -> list[list[str]]:
    return [[name, *cases[name].manifest.sources] for name in names]


def _digest_of_run(folder: Path) -> Any:
    """Return the digest of the weights that a run starts from."""
    try:
        return json.loads((folder / "provenance.json").read_text(encoding="utf-8"))["model"]
    except (OSError, ValueError, KeyError):
        return str(folder)  # building the network says what is wrong


def distinct(runs: Sequence[Run]) -> list[Run]:
    """Return one run of each key: arms that are equal in everything share theirs."""
    return list({run.key: run for run in reversed(runs)}.values())[::-1]
