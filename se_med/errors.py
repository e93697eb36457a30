"""The errors that se-med raises for a user to read, each with the exit code of its kind.

A message is one line: the file or key, the value found, and what to do about it. Anything that is not a
``SeMedError`` is a fault of se-med itself and keeps its traceback.
"""

from __future__ import annotations

from collections.abc import Sequence


class SeMedError(Exception):
    """Base of every error with a message for the user.

    Args:
        message: one line that names the file or key, the value, and the remedy.
    """

    exit_code = 1

    def __init__(self, message: str) -> None:
        super().__init__(message)
        self.message = message


class RunError(SeMedError):
    """A run failed after it had started: diverged, killed, a checkpoint that cannot be read (exit 1)."""


class UsageError(SeMedError):
    """A wrong path, option or combination of options; nothing was written (exit 2)."""

    exit_code = 2


class ConfigError(UsageError):
    """A configuration with one or more problems, each already located (exit 2).

    Args:
        problems: one string per problem, as ``file.yaml:8:5: what is wrong`` with the source line below it.
    """

    def __init__(self, problems: Sequence[str]) -> None:
        super().__init__("\n".join(problems))
        self.problems = tuple(problems)


class DataError(SeMedError):
    """The data set has errors: training does not start (exit 3)."""

    exit_code = 3


class ImageError(DataError):
    """One image or label file cannot be used; commands that work through many cases report it and go on."""
