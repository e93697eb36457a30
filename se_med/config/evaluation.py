"""How segmentations are compared with their references."""

from __future__ import annotations

from pydantic import Field, PositiveFloat

from se_med.config.base import Part


class EvaluationConfig(Part):
    """How segmentations are compared with their references."""

    tolerance: PositiveFloat = Field(1.0, description="Tolerance of the normalised surface distance (NSD), in mm.")
