"""Plans the axes of the network: how many there are, and across which one slices are taken."""

from __future__ import annotations

from typing import Literal

from se_med.config.experiment import Config
from se_med.data.fingerprint import Fingerprint
from se_med.errors import UsageError

GIVEN = "set in the configuration"
FLAT_AXIS = 2
"""The axis along which a 2D image has its one pixel of thickness."""


def choose_rank(config: Config, fingerprint: Fingerprint, reasons: dict[str, str]) -> Literal[2, 3]:
    """Return the rank of the network: as the user says, else 3 for volumes and 2 for 2D images.

    Raises:
        UsageError: a 3D network is asked for, and the cases are 2D images.
    """
    given = config.network.spatial_dims
    if fingerprint.flat and given == 3:
        raise UsageError("network.spatial_dims: the cases are 2D images, which need a 2D network; remove it, or set it to 2")
    found = "the cases are 2D images" if fingerprint.flat else "the cases are volumes"
    reasons["spatial_dims"] = found if given is None else GIVEN
    return given or (2 if fingerprint.flat else 3)


def choose_slice_axis(
    config: Config, fingerprint: Fingerprint, spacing: tuple[float, float, float], reasons: dict[str, str]
) -> int | None:
    """Return the axis across which a 2D network takes slices; None for a 3D network.

    Args:
        config: with the rank of the network.
        fingerprint: tells whether the cases are 2D images.
        spacing: the planned spacing.
        reasons: told why.

    Raises:
        UsageError: a setting is for slices, and the network is 3D or the cases are 2D images.
    """
    given, empty = config.data.slice_axis, config.data.empty_slices
    if config.network.rank == 3:
        for key, value in (("slice_axis", given), ("empty_slices", empty)):
            if value is not None:
                raise UsageError(f"data.{key}: a 3D network takes no slices; remove it, or set network.spatial_dims: 2")
        return None
    if fingerprint.flat:
        for key, value in (("slice_axis", given if given != FLAT_AXIS else None), ("empty_slices", empty)):
            if value is not None:
                raise UsageError(f"data.{key}: {value} is for slices of volumes, but the cases are 2D images; remove it")
        reasons["slice_axis"] = "the cases are 2D images"
        return FLAT_AXIS
    if given is not None:
        reasons["slice_axis"] = GIVEN
        return given
    reasons["slice_axis"] = "largest spacing, the last such axis"
    return max(range(3), key=lambda axis: (spacing[axis] > max(spacing) * 0.99, axis))
