"""Test-time flips: windows pass through the network mirrored too, and the probabilities are averaged."""

from __future__ import annotations

from se_med.config.experiment import Config
from se_med.errors import UsageError


def choose_test_time_flips(config: Config) -> tuple[int, ...]:
    """Return the axes (RAS) to flip at test time: only such as were flipped in training, for the network knows no other.

    Args:
        config: the effective configuration, in which `augmentation.flip.axes` is set.

    Raises:
        UsageError: `inference.test_time_flips` names an axis that was not flipped in training.
    """
    wanted, flip = config.inference.test_time_flips, config.augmentation.flip
    trained = (flip.axes or ()) if flip.probability > 0 else ()
    if isinstance(wanted, bool):
        return tuple(sorted(trained)) if wanted else ()
    strange = [axis for axis in wanted if axis not in trained]
    if strange:
        raise UsageError(
            f"inference.test_time_flips: axis {strange[0]} was not flipped in training (augmentation.flip: {list(trained)}); "
            "remove it, or use true for all axes that were"
        )
    return tuple(sorted(set(wanted)))
