"""What follows from a study's tables: statistics, stored as ``summary.json``, and the report."""

from __future__ import annotations

from pathlib import Path

from se_med.config.load import load_part
from se_med.io.atomic import write_json
from se_med.progress import Progress, silent
from se_med.study.config import StudyConfig
from se_med.study.report import write_report
from se_med.study.statistics import StudyStatistics, compute_statistics
from se_med.study.tables import STUDY, SUMMARY, read_tables


def conclude(folder: Path, progress: Progress = silent) -> StudyStatistics:
    """Compute the statistics of a study folder and write ``summary.json`` and ``report.html``.

    Raises:
        UsageError: the folder is not that of a study, or no run of an arm pairs with one of the reference.
        RunError: a table is damaged.
    """
    study = load_part(folder / STUDY, StudyConfig)
    statistics = compute_statistics(read_tables(folder), study.endpoint, study.margin)
    write_json(folder / SUMMARY, statistics.to_dict())
    write_report(folder, progress)
    return statistics
