"""Self-contained HTML pages: one file, no network, printable. What reports of any room are written with."""

from se_med.page.figure import figure_uri, literal, picture_uri
from se_med.page.html import write_page
from se_med.page.palette import INK, ON_GREY, PALETTE

__all__ = ["INK", "ON_GREY", "PALETTE", "figure_uri", "literal", "picture_uri", "write_page"]
