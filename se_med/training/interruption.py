"""Ctrl-C and SIGTERM: finish the step, write a checkpoint, then leave with the exit code of the signal."""

from __future__ import annotations

import signal
from collections.abc import Callable
from types import FrameType, TracebackType

from se_med.errors import SeMedError

_SIGNALS = (signal.SIGINT, signal.SIGTERM)


class InterruptedRunError(SeMedError):
    """The run was asked to stop and has written a checkpoint (exit 130 for SIGINT, 143 for SIGTERM)."""

    def __init__(self, message: str, signum: int) -> None:
        super().__init__(message)
        self.exit_code = 128 + signum


class Interruption:
    """Context that turns the first SIGINT or SIGTERM into a request to stop; a second one acts at once.

    Lightning installs handlers of its own when it starts to fit; call ``install`` again from its first hook.

    Attributes:
        signum: the signal that asked to stop; ``None`` while none has.
        graceful: whether there is something to save first; while there is not, the first signal acts at once too.
    """

    def __init__(self) -> None:
        self.signum: int | None = None
        self.graceful = False
        self._previous: dict[int, Callable[[int, FrameType | None], object] | int | None] = {}

    @property
    def requested(self) -> bool:
        """Whether a signal has arrived."""
        return self.signum is not None

    def install(self) -> None:
        """Take over both signals."""
        for number in _SIGNALS:
            signal.signal(number, self._handle)

    def _handle(self, signum: int, frame: FrameType | None) -> None:
        if not self.graceful:
            raise InterruptedRunError("interrupted before the first step", signum)
        if self.signum is not None:
            raise InterruptedRunError("interrupted twice: left without waiting for a checkpoint", signum)
        self.signum = signum

    def __enter__(self) -> Interruption:
        self._previous = {number: signal.getsignal(number) for number in _SIGNALS}
        self.install()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)
