"""Keeping to a budget in minutes: the number of steps is corrected on the way by the time that steps take."""

from __future__ import annotations

import logging
import math

from se_med.training import processes
from se_med.training.module import SegmentationModule

log = logging.getLogger(__name__)

CORRECTIONS = 20
"""A run is corrected after each of this many equal parts of its schedule, the last excepted, ..."""
LAST = 0.98
"""... and once more after this share, where little can go wrong any more."""
SLACK = 0.01
"""Share of the steps still to come by which they have to be wrong to be corrected."""
NOTEWORTHY = 0.1
"""Share by which the number of steps has to change to be told."""


class Pace:
    """Watches how long steps take, and says how many fit into what is left of the budget.

    The trial before the first step sees five seconds of a machine whose speed may change within minutes.

    Args:
        module: its progress holds the seconds of training after which the last step is due, and those of a validation; the
            first of several processes tells both to the others.
        seconds: seconds of training so far.
    """

    def __init__(self, module: SegmentationModule, seconds: float) -> None:
        state = module.progress
        self._deadline, self._validation = processes.of_first((state.deadline, state.validation_seconds), module.device)
        self._told = module.schedule.steps
        self._begin(module, seconds)

    def validated(self, seconds: float) -> None:
        """Take note of how long a validation took."""
        self._validation = seconds
        self._aside += seconds

    def correct(self, module: SegmentationModule, seconds: float, validations: int) -> bool:
        """Correct the number of steps where it is time to.

        Args:
            module: gets the corrected schedule.
            seconds: seconds of training so far.
            validations: those still to come before the last step.

        Returns:
            Whether the schedule has changed.
        """
        schedule, step = module.schedule, module.progress.step
        if not self._deadline or step >= schedule.steps or schedule.share(step) < self._next:
            return False
        each = (seconds - self._seconds - self._aside) / (step - self._step)
        left = self._deadline - seconds - validations * self._validation
        steps = step + max(1, math.floor(processes.mean(left / each, module.device)))
        self._begin(module, seconds)
        if abs(steps - schedule.steps) <= SLACK * (schedule.steps - step):
            return False
        module.schedule = schedule.corrected(step, steps)
        notable = abs(steps - self._told) > NOTEWORTHY * self._told
        log.log(
            logging.INFO if notable else logging.DEBUG,
            "budget: a step took %.3f s on the way to step %d, so there will be %d steps instead of %d",
            *(each, step, steps, schedule.steps),
        )
        self._told = steps if notable else self._told
        return True

    def _begin(self, module: SegmentationModule, seconds: float) -> None:
        """Begin to measure again."""
        self._step, self._seconds, self._aside = module.progress.step, seconds, 0.0
        passed = math.floor(module.schedule.share(self._step) * CORRECTIONS + 1e-9) + 1
        late = LAST if module.schedule.share(self._step) < LAST else math.inf
        self._next = passed / CORRECTIONS if passed < CORRECTIONS else late
