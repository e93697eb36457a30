"""How whole volumes are segmented."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, PositiveInt, StrictBool

from se_med.config.base import Part
from se_med.config.data import Axis


class InferenceConfig(Part):
    """How whole volumes are segmented, in validation and by `se-med predict`."""

    overlap: float = Field(0.5, ge=0, lt=1, description="Share of a window that overlaps the next, along each axis.")
    window_batch: PositiveInt = Field(2, description="Windows that pass through the network together.")
    test_time_flips: StrictBool | tuple[Axis, ...] = Field(
        False,
        description="Segment flipped copies too and average the probabilities: `true` for all axes that were flipped in "
        "training, or a list of such axes (RAS). Every axis doubles the time.",
    )
    test_time_shifts: PositiveInt = Field(
        1,
        description="Networks with a stem: passes over each volume, on shifted grids of the stem's blocks, whose probabilities "
        "are averaged; 1 is a single pass, and a block has no more shifts than voxels. Time grows with the number of passes.",
    )
    precision: Literal["auto", "bf16", "fp32"] = Field(
        "auto", description="Arithmetic of convolutions: bf16 autocast, fp32, or bf16 where the processor has it."
    )
