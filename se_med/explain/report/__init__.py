"""The page, the tables and the JSON file of an explanation."""

from se_med.explain.report.write import HTML, write_explanation

__all__ = ["HTML", "write_explanation"]
