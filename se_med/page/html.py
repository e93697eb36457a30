"""Fills a template and writes the page, atomically.

A template lives in the folder `templates/` of the package that uses it and starts with `{% extends "base.html" %}`; the base
page has the blocks `title`, `lead` (below the title), `content`, `style` (more CSS) and `script`. Every value is escaped: the
names of files and cases come from anybody. A name that the context lacks is an error, not an empty place.
"""

from __future__ import annotations

from typing import Any

from se_med import __version__
from se_med.io.atomic import PathLike, write_text


def write_page(path: PathLike, package: str, template: str, **context: Any) -> None:
    """Write one self-contained HTML page.

    Args:
        path: the file to write; its folder must exist.
        package: the package whose folder `templates/` holds the template, e.g. `se_med.data.checks`.
        template: file name of the template.
        context: what the template names. Pictures come as data URIs (`figure_uri`, `picture_uri`).

    Raises:
        RunError: the file cannot be written.
        jinja2.TemplateError: the template is wrong, or names what the context lacks.
    """
    write_text(path, fill_page(package, template, **context))


def fill_page(package: str, template: str, **context: Any) -> str:
    """Return the page that `write_page` writes."""
    from jinja2 import ChoiceLoader, Environment, PackageLoader, StrictUndefined

    environment = Environment(
        loader=ChoiceLoader([PackageLoader(package, "templates"), PackageLoader("se_med.page", "templates")]),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.globals["se_med_version"] = __version__
    return environment.get_template(template).render(**context)
