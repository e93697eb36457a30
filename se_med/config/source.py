"""Where a setting was written, and how a problem there is shown to the user."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

EXCERPT_WIDTH = 120
VALUE_WIDTH = 60
INDENT = "    "
LINE_END = re.compile("\r\n|[\n\r\x85\u2028\u2029]")
"""What PyYAML takes for the end of a line."""


@dataclass(frozen=True)
class Source:
    """One text that settings come from: a file, or one ``key=value`` of the command line.

    Args:
        name: file name as the user would write it; for the command line the whole argument.
        text: what is read; for the command line the part after the equals sign.
        folder: what relative paths in this text are relative to.
        command_line: whether this is an argument of the command line.
    """

    name: str
    text: str
    folder: Path
    command_line: bool = False


@dataclass(frozen=True)
class Mark:
    """A character of a source; line and column count from 0."""

    source: Source
    line: int = 0
    column: int = 0


@dataclass(frozen=True)
class Problem:
    """Something wrong with the configuration, at the place where it was written."""

    mark: Mark
    message: str

    def __str__(self) -> str:
        """Format as ``file:line:column: message``, with the source line and a caret below where there is a line."""
        source, line, column = self.mark.source, self.mark.line, self.mark.column
        if source.command_line:
            return f"command line {source.name!r}: {self.message}"
        head = f"{source.name}:{line + 1}:{column + 1}: {self.message}"
        lines = LINE_END.split(source.text)
        text = lines[line] if line < len(lines) else ""
        if not text.strip():
            return head
        start = max(0, column - EXCERPT_WIDTH // 2) if len(text) > EXCERPT_WIDTH else 0
        excerpt = "".join(
            char if char.isprintable() or char == "\t" else "\ufffd" for char in text[start : start + EXCERPT_WIDTH]
        )
        # Tabs stay tabs, so that the caret lands below its character whatever the tab width is.
        padding = "".join("\t" if char == "\t" else " " for char in excerpt[: column - start])
        number = str(line + 1)
        return f"{head}\n{INDENT}{number} | {excerpt}\n{INDENT}{' ' * len(number)} | {padding}^"


def show(value: Any) -> str:
    """Return a value as it would stand in YAML flow style, shortened to a piece that fits a message."""
    text = _flow(value)
    return text if len(text) <= VALUE_WIDTH else f"{text[: VALUE_WIDTH - 4]} ..."


def _flow(value: Any) -> str:
    if value is None:
        return "null"
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, dict):
        return "{" + ", ".join(f"{key}: {_flow(item)}" for key, item in value.items()) + "}"
    if isinstance(value, list | tuple):
        return "[" + ", ".join(_flow(item) for item in value) + "]"
    if isinstance(value, Path):
        return repr(str(value))
    return repr(value)


def did_you_mean(word: str, known: Iterable[str]) -> str | None:
    """Return the known word that looks most like this one, upper and lower case being the same; None if none does."""
    by_lower = {name.lower(): name for name in known}
    close = difflib.get_close_matches(word.lower(), by_lower, n=1)
    return by_lower[close[0]] if close else None
