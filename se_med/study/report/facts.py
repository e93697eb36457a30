"""What a reader must know to judge a study: machine, software, data and settings, taken from its run folders."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from se_med.config.experiment import Config
from se_med.config.load import load_config
from se_med.data.plan import Plan
from se_med.study.tables import PLAN, RunRow
from se_med.training.run_folder import RunFolder


@dataclass(frozen=True)
class Facts:
    """What the runs were made of.

    Attributes:
        software: versions, by name.
        machines: processor, cores, system and GPU of each machine that made runs.
        environments: threads, precision, kernels, ... of the runs; more than one where they differ.
        data_digest: SHA-256 over the digests of all files of all cases that were trained on or held out, in order of case.
        data_cases: number of these cases.
        held_out: number of cases that were held out by a run of the study.
        config: effective configuration of a run of the reference; None where no run is finished.
        plan: the plan of the study.
    """

    software: dict[str, str]
    machines: tuple[dict[str, Any], ...]
    environments: tuple[dict[str, Any], ...]
    data_digest: str
    data_cases: int
    held_out: int
    config: Config | None
    plan: Plan | None


def gather_facts(folder: Path, runs: Iterable[RunRow], reference: str) -> Facts:
    """Read the provenance of every finished run of a study.

    Raises:
        ConfigError: the configuration of a run is not valid.
    """
    software: dict[str, str] = {}
    machines: list[dict[str, Any]] = []
    environments: list[dict[str, Any]] = []
    cases: dict[str, list[str]] = {}
    held_out: set[str] = set()
    config = None
    for run in runs:
        place = RunFolder(folder / run.folder)
        if run.status != "finished" or not place.provenance.exists():
            continue
        record = json.loads(place.provenance.read_text(encoding="utf-8"))
        software |= record["software"]
        for known, found in ((machines, record["machine"]), (environments, record["environment"])):
            if found not in known:
                known.append(found)
        for part, names in record["cases"].items():
            cases |= names
            held_out |= set(names) if part == "validation" else set()
        if config is None and run.arm == reference:
            config = load_config(place.config)
    plan = folder / PLAN
    return Facts(
        software=software,
        machines=tuple(machines),
        environments=tuple(environments),
        data_digest=hashlib.sha256(json.dumps(sorted(cases.items())).encode()).hexdigest() if cases else "",
        data_cases=len(cases),
        held_out=len(held_out),
        config=config,
        plan=Plan.model_validate_json(plan.read_text(encoding="utf-8")) if plan.exists() else None,
    )
