"""How whole volumes are segmented."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, PositiveFloat, PositiveInt, StrictBool

from se_med.config.base import Part
from se_med.config.data import Axis


class InferenceConfig(Part):
    """How whole volumes are segmented, in validation and by `se-med predict`."""

    overlap: float = Field(0.5, ge=0, lt=1, description="Share of a window that overlaps the next, along each axis.")
    window_batch: PositiveInt = Field(
        2,
        description="Windows that pass through the network together; of a volume with fewer, its shifted and turned copies do.",
    )
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
    test_time_rotation: float = Field(
        0.0,
        ge=0,
        le=45,
        description="Degrees by which each volume is segmented turned too, both ways about every axis that training turns about, "
        "and the probabilities averaged: seven passes in 3D, three where slices are thick or the network is a 2D one. 0 is a "
        "single pass, and no more than `augmentation.affine.rotation` is allowed. Time grows with the number of passes.",
    )
    whole_volume: Literal["auto", "never"] = Field(
        "auto",
        description="`auto` passes a volume through the network in one piece where it would take four windows or more (of a 2D "
        "network: a slice would), is at most 1.5 times the patch along each axis, and where that takes no more memory than "
        "max_memory; others go through in windows. `never` always takes windows of the size of the patch.",
    )
    max_memory: PositiveFloat = Field(
        8.0,
        description="Memory in GiB that segmenting takes at most beside the network itself, by an estimate. A volume for which "
        "it is not enough is refused.",
    )
    largest_component: tuple[str, ...] = Field(
        (),
        description="Structures of which only the largest connected piece is kept (neighbours across corners are connected). "
        "Other pieces become background, or the region around them: a dropped piece of a core stays in the whole.",
    )
    fill_holes: tuple[str, ...] = Field(
        (), description="Structures in which background that they enclose on all sides is filled, after largest_component."
    )
    precision: Literal["auto", "bf16", "fp32"] = Field(
        "auto", description="Arithmetic of convolutions: bf16 autocast, fp32, or bf16 where the processor has it."
    )
