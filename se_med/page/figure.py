"""Figures and pictures as data URIs, so that a page holds them itself.

matplotlib and Pillow are imported where they are used: a page without pictures costs neither.
"""

from __future__ import annotations

import base64
import io
from typing import TYPE_CHECKING, Any, Literal

from numpy.typing import NDArray

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_DPI = 144


def literal(text: str) -> str:
    """Return text for a figure that shows as it is: names come from anybody, and matplotlib takes `$x$` for mathematics."""
    return text.replace("$", r"\$")


def figure_uri(figure: Figure, format: Literal["svg", "png"] = "svg") -> str:  # noqa: A002 - matplotlib's own word for it
    """Return a figure as a data URI for `<img src=...>`.

    Letters are stored as outlines, so that the figure looks the same on every machine; the same figure gives the same bytes.

    Args:
        figure: a figure made without pyplot (`matplotlib.figure.Figure(layout="constrained")`), which needs no closing.
        format: "svg" for lines and points, "png" where an image or thousands of marks are in it.
    """
    from matplotlib import rc_context

    content = io.BytesIO()
    with rc_context({"svg.fonttype": "path", "svg.hashsalt": "se-med"}):
        if format == "svg":
            figure.savefig(content, format="svg", metadata={"Date": None, "Creator": None})
        else:
            figure.savefig(content, format="png", dpi=_DPI, metadata={"Software": None})
    return _uri("image/svg+xml" if format == "svg" else "image/png", content.getvalue())


def picture_uri(pixels: NDArray[Any]) -> str:
    """Return pixels as a PNG data URI.

    Args:
        pixels: (rows, columns) grey or (rows, columns, 3) RGB, uint8.

    Raises:
        ValueError: the array is of another type or shape.
    """
    from PIL import Image

    if pixels.dtype.name != "uint8" or not (pixels.ndim == 2 or (pixels.ndim == 3 and pixels.shape[2] == 3)):
        raise ValueError(f"pixels must be uint8 (rows, columns) or (rows, columns, 3), got {pixels.dtype} {pixels.shape}")
    content = io.BytesIO()
    Image.fromarray(pixels).save(content, format="PNG", optimize=True)
    return _uri("image/png", content.getvalue())


def _uri(kind: str, content: bytes) -> str:
    return f"data:{kind};base64,{base64.b64encode(content).decode('ascii')}"
