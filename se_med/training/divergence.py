"""A training whose numbers are not finite any more: what is told, and what can still be used."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from se_med.errors import RunError
from se_med.training.checkpoint import load_checkpoint


class DivergedError(RunError):
    """The loss, the gradient or a weight is not finite (exit 1).

    Args:
        step: the step, from 1.
        what: what is not finite.
        cases: the cases of the batch.
        kept: the last good checkpoint, as `last_good` tells it.
    """

    def __init__(self, step: int, what: str, cases: Sequence[str], kept: str = "") -> None:
        told = f" (cases {', '.join(cases)})" if cases else ""
        super().__init__(
            f"step {step}: {what}{told}; {kept}{'; ' if kept else ''}"
            "lower training.learning_rate or set training.precision=fp32, and train under another name"
        )
        self.step, self.what, self.cases = step, what, tuple(cases)

    def with_checkpoint(self, path: Path) -> DivergedError:
        """Return the same error with what is left of the run."""
        return DivergedError(self.step, self.what, self.cases, last_good(path))


def last_good(path: Path) -> str:
    """Tell the last checkpoint, after reading it; checkpoints are only written of networks whose weights are all finite."""
    try:
        return f"the last good checkpoint is that of step {load_checkpoint(path).step}, {path}"
    except RunError:
        return "there is no good checkpoint yet"
