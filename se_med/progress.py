"""How long work tells that it goes on, without knowing who listens."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager

Advance = Callable[[int, str], None]
"""Called with the number of units done so far and a short note."""

Progress = Callable[[str, int | None], AbstractContextManager[Advance]]
"""Called with a description and the total number of units (``None`` where it is not known); the context that it returns gives
the function to call on the way."""


@contextmanager
def silent(description: str, total: int | None) -> Iterator[Advance]:
    """Show nothing."""
    yield lambda done, note: None
