"""What is printed: names of files and cases come from anybody, so nothing in them is markup, or an order to the terminal."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rich.console import Console


def make_console(*, stderr: bool = False) -> Console:
    """Return a console that prints text as it is: `[bold]` and `:smile:` stay, control characters are written out."""
    from rich.console import Console
    from rich.text import Text

    class _PlainConsole(Console):
        def render_str(self, text: str, **options: Any) -> Text:
            return super().render_str(printable(text), **options)

    return _PlainConsole(stderr=stderr, markup=False, emoji=False)


def printable(text: str) -> str:
    """Return text with everything that a terminal would obey, or cannot show, written out; line ends and tabs stay."""
    if text.isprintable():
        return text
    return "".join(char if char.isprintable() or char in "\n\t" else _written_out(char) for char in text)


def _written_out(char: str) -> str:
    return char.encode("unicode_escape").decode("ascii")
