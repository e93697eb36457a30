"""Headers that are lines of text (NRRD, MetaImage): split strictly, numbers parsed strictly, data files only beside them.

The libraries that read these formats guess where a header is wrong, fill up what is missing and open any file that it names.
"""

from __future__ import annotations

import math
import re
from pathlib import Path

from se_med.errors import ImageError
from se_med.io.filebytes import AGAIN

MOST_HEADER = 2**20
"""Bytes of the longest header that is read."""

_WHOLE = re.compile(r"[+-]?[0-9]{1,18}")
_NUMBER = re.compile(r"[+-]?([0-9]{1,40}\.?[0-9]{0,40}|\.[0-9]{1,40})([eE][+-]?[0-9]{1,4})?")


class Fields:
    """The fields of a header by name, and what is wrong when they are not as they must be.

    Args:
        path: the file, for messages.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._texts: dict[str, str] = {}

    def add(self, name: str, text: str) -> None:
        """Add a field.

        Raises:
            ImageError: it is there already.
        """
        if name in self._texts:
            raise self.error(f"the field {name!r} occurs twice in the header; remove one")
        self._texts[name] = text

    def find(self, *names: str) -> str | None:
        """Return the text of the field that has one of these names; None where there is none.

        Raises:
            ImageError: two of the names are there.
        """
        found = [name for name in names if name in self._texts]
        if len(found) > 1:
            raise self.error(f"the fields {found[0]!r} and {found[1]!r} mean the same; remove one")
        return self._texts[found[0]] if found else None

    def get(self, *names: str) -> str:
        """Return the text of the field that has one of these names.

        Raises:
            ImageError: there is none.
        """
        text = self.find(*names)
        if text is None:
            raise self.error(f"the header has no field {names[0]!r}; {AGAIN}")
        return text

    def whole_numbers(self, name: str, text: str, count: int | None = None) -> list[int]:
        """Parse whole numbers between blanks.

        Raises:
            ImageError: a number is none, or there are not `count`.
        """
        words = text.split()
        if not all(_WHOLE.fullmatch(word) for word in words) or (count is not None and len(words) != count):
            raise self.error(f"{name} is {_short(text)}, must be {_some(count)} whole numbers; {AGAIN}")
        return [int(word) for word in words]

    def numbers(self, name: str, text: str, count: int | None = None) -> list[float]:
        """Parse numbers between blanks.

        Raises:
            ImageError: a number is none or not finite, or there are not `count`.
        """
        words = text.split()
        values = [float(word) for word in words if _NUMBER.fullmatch(word)]
        if len(values) != len(words) or not all(map(math.isfinite, values)) or (count is not None and len(values) != count):
            raise self.error(f"{name} is {_short(text)}, must be {_some(count)} numbers; {AGAIN}")
        return values

    def sizes(self, name: str, text: str, count: int) -> tuple[int, ...]:
        """Parse the length of each axis.

        Raises:
            ImageError: there are not `count`, or one is below 1.
        """
        sizes = tuple(self.whole_numbers(name, text, count))
        if min(sizes) < 1:
            raise self.error(f"shape {'x'.join(map(str, sizes))} has an axis without voxels; export the file again")
        return sizes

    def beside(self, name: str) -> Path:
        """Return the path of a data file that the header names.

        Raises:
            ImageError: it is not in the folder of the header.
        """
        if not name or "/" in name or "\\" in name or "\0" in name or name in (".", ".."):
            raise self.error(f"its voxels are in {_short(name)}; a data file must lie beside the header, named without a folder")
        if "%" in name or "*" in name or " " in name or name.upper() == "LIST":
            raise self.error(f"its voxels are in several files ({_short(name)}); save the volume as one file")
        return self.path.parent / name

    def error(self, message: str) -> ImageError:
        """Return an error that names the file."""
        return ImageError(f"{self.path}: {message}")


def split_header(block: bytes, end: bytes, path: Path) -> tuple[list[str], int]:
    """Return the lines of a header before the line that ends it, and the number of bytes up to and with that line.

    Args:
        block: the first bytes of the file.
        end: what the last line starts with; the empty line is b"".
        path: the file, for messages.

    Raises:
        ImageError: no line ends the header.
    """
    lines = []
    position = 0
    while position < len(block):
        stop = block.find(b"\n", position)
        line = block[position : len(block) if stop < 0 else stop]
        position = len(block) if stop < 0 else stop + 1
        # Comments and names may be in any encoding; every byte is a letter of Latin-1.
        lines.append(line.decode("latin-1").rstrip())
        if line.rstrip() == end if not end else line.startswith(end):
            return lines, position
    if len(block) >= MOST_HEADER:
        raise ImageError(f"{path}: the header has no end within {MOST_HEADER} bytes; {AGAIN}")
    return lines, position


def _some(count: int | None) -> str:
    return "" if count is None else str(count)


def _short(text: str) -> str:
    return repr(text if len(text) <= 60 else f"{text[:57]}...")
