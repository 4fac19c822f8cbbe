"""Rendering of page templates."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any

import jinja2
from markupsafe import Markup, escape


def fill(name: str, filters: Mapping[str, Callable[..., Any]] | None = None, **values: Any) -> str:
    """Render a template of this package.

    Args:
        name: File of the template.
        filters: Filters by name, in addition to :func:`sets`.
        values: Variables of the template; escaped unless they are markup.
    """
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("multidelete", "report/pages"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"sets": sets, **(filters or {})}
    return environment.get_template(name).render(**values)


def sets(text: str) -> Markup:
    """Markup of a text with subscripts in D_f, D_r and D_Test."""
    # No line break between a word and its arrow, or between a number and its unit or deviation.
    bound = re.sub(r" (?=[↑↓±])|(?<=[±≈]) |(?<=\d) (?=%|(?:s|min|h)\b)", "\u00a0", str(escape(text)))
    return Markup(re.sub(r"\bD_(f|r|Test)\b", r"D<sub>\1</sub>", bound))
