"""What a study would take, before anything is written: its runs, their time, memory and disk, by a short trial of each arm."""

from __future__ import annotations

import tempfile
from dataclasses import dataclass, replace
from pathlib import Path

from se_med.progress import Progress, silent
from se_med.study.arms import Study
from se_med.study.engine import Maker, open_executor, workers_of
from se_med.study.job import work_apart
from se_med.study.ledger import is_complete
from se_med.study.matching import foresee
from se_med.study.places import Places
from se_med.study.planning import PlannedArm, plan_study
from se_med.study.runs import Run, distinct, make_runs
from se_med.study.steps import Work, steps_of_arms
from se_med.study.trials import Trial


@dataclass(frozen=True)
class Forecast:
    """What a study will take.

    Attributes:
        arms: the arms with their steps, the reference first.
        trials: trial of each arm by name.
        reasons: why an arm will be unmatched, by name; empty where nothing speaks against it.
        runs: all runs.
        missing: those that are not made yet.
        workers: runs at a time.
    """

    arms: tuple[PlannedArm, ...]
    trials: dict[str, Trial]
    reasons: dict[str, str]
    runs: list[Run]
    missing: list[Run]
    workers: int

    def seconds(self, run: Run) -> float:
        """Return the time of a run."""
        return self.trials[run.arm].seconds(run.config.training.steps or 0)

    @property
    def total_seconds(self) -> float:
        """Time of all runs still to be made, side by side."""
        free = [0.0] * self.workers
        for run in self.missing:
            free[free.index(min(free))] += self.seconds(run)
        return max(free)

    @property
    def memory_mb(self) -> float:
        """Memory of the largest runs side by side."""
        peaks = sorted((self.trials[run.arm].peak_memory_mb for run in self.missing), reverse=True)
        return sum(peaks[: self.workers])

    @property
    def disk_mb(self) -> float:
        """Disk space of the runs still to be made."""
        return sum(self.trials[run.arm].disk_mb for run in self.missing)


def forecast(
    study: Study, studies: Path | None = None, *, progress: Progress = silent, maker: Maker | None = None, work: Work = work_apart
) -> Forecast:
    """Plan a study and try every arm for some steps; nothing is written but the cache of prepared cases.

    Raises:
        SeMedError: as for `compare`.
    """
    places = Places.of(study, studies)
    planned = plan_study(study, progress)
    workers = workers_of(study)
    with open_executor(study, workers, maker) as executor, tempfile.TemporaryDirectory() as scratch:
        elsewhere = replace(places, runs=Path(scratch))
        arms, _, found = steps_of_arms(planned, elsewhere, executor, work, workers, everything=True)
    reasons = foresee(arms, study.config.folds[0], study.config.seeds[0])
    runs = make_runs(arms, study.config.seeds, study.config.threads)
    missing = distinct([run for run in runs if not is_complete(places.runs / run.key)])
    return Forecast(tuple(arms), found, reasons, runs, missing, workers)
