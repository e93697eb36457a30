"""The report of a study: one self-contained page with verdicts, figures, cases, costs, and a paragraph for a paper."""

from se_med.study.report.write import REPORT, write_report

__all__ = ["REPORT", "write_report"]
