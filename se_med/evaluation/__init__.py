"""Segmentations against references: scores per case and structure, their summary, tables and pictures."""
