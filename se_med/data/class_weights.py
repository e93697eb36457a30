"""The weight of each class in the loss: given by name, or balanced by how many voxels each class has."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Literal

from se_med.data.axes import GIVEN
from se_med.data.fingerprint import Fingerprint
from se_med.errors import UsageError

BACKGROUND = "background"


def choose_class_weights(
    setting: Literal["balanced"] | Mapping[str, float] | None,
    fingerprint: Fingerprint,
    reasons: dict[str, str],
    regions: bool = False,
) -> tuple[float, ...] | None:
    """Return the weight of each class, background first, or of each region; None where all weigh alike.

    Balanced, class k weighs ``(1 / n_k) / mean_j(1 / n_j)``, where ``n_k`` is the number of its voxels in all cases, on their own
    grids; the weights have a mean of 1. A structure that no case has counts as the rarest one that occurs. Voxels with the
    ignore label count nowhere.

    Args:
        setting: names and weights, ``balanced`` or None. Classes that are not named weigh 1.
        fingerprint: the structures and their voxels.
        reasons: told where the weights come from.
        regions: the structures are regions, which may overlap; there is no weight of the background then.

    Raises:
        UsageError: a name is no structure of the data set, or the background of regions.
    """
    if setting is None:
        return None
    classes = dict(fingerprint.labels) if regions else {BACKGROUND: 0, **fingerprint.labels}
    names = tuple(classes)
    if setting == "balanced":
        reasons["class_weights"] = "inverse of each class's share of all voxels, scaled to a mean of 1"
        return _balanced(fingerprint, classes.values())
    if regions and BACKGROUND in setting:
        raise UsageError(f"training.class_weights: regions have no {BACKGROUND} that could weigh; there are {', '.join(names)}")
    unknown = [name for name in setting if name not in names]
    if unknown:
        raise UsageError(f"training.class_weights: no structure is named {', '.join(unknown)}; there are {', '.join(names)}")
    reasons["class_weights"] = GIVEN
    return tuple(float(setting.get(name, 1.0)) for name in names)


def _balanced(fingerprint: Fingerprint, values: Iterable[int]) -> tuple[float, ...]:
    counts = [sum(case.voxels.get(value, 0) for case in fingerprint.cases) for value in values]
    rarest = min((count for count in counts if count), default=1)
    inverse = [1.0 / (count or rarest) for count in counts]
    mean = sum(inverse) / len(inverse)
    return tuple(float(f"{value / mean:.6g}") for value in inverse)
