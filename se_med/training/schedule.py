"""Where a run stands in its schedule after each step, also where the number of its steps was corrected on the way."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

FormerSteps = tuple[tuple[int, int], ...]
"""Pairs of a step and the number of steps that the run was to have until then."""


@dataclass(frozen=True)
class Schedule:
    """The course of a run from its first step to its last.

    The share of the schedule that is behind a step grows evenly from 0 to 1. Where the number of steps is corrected it goes on
    from where it is, so that it is 1 after the new last step. A share depends on corrections before it alone.

    Attributes:
        steps: optimiser steps of the run.
        former: where the number was another before.
    """

    steps: int
    former: FormerSteps = ()

    def share(self, step: int) -> float:
        """Return the share of the schedule that is behind after a number of steps."""
        if step >= self.steps:
            return 1.0
        return next(low + (1 - low) * (step - start) / (steps - start) for start, low, end, steps in self._parts() if step <= end)

    def step_at(self, share: float) -> int:
        """Return the first step after which a share of the schedule is behind, give or take half a step."""
        for start, low, end, steps in self._parts():
            step = start + (steps - start) * (share - low) / (1 - low)
            if step <= end:
                return round(step)
        return self.steps

    def corrected(self, step: int, steps: int) -> Schedule:
        """Return the schedule that goes on from where it is after `step`, and ends after `steps`."""
        return Schedule(steps, (*self.former, (step, self.steps)))

    def _parts(self) -> Iterator[tuple[int, float, int, int]]:
        """Yield of each part the step and the share at which it begins, the step at which it ends, and the steps it aims at."""
        start, low = 0, 0.0
        for end, steps in (*self.former, (self.steps, self.steps)):
            yield start, low, end, steps
            low += (1 - low) * (end - start) / (steps - start)
            start = end
