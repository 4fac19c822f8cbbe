"""Fills the template of a page, and sets text for it."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from importlib.resources import files
from typing import Any

import jinja2
from markupsafe import Markup, escape


def fill(name: str, filters: Mapping[str, Callable[..., Any]] | None = None, **values: Any) -> str:
    """The page that a template of this package makes of some values.

    Args:
        name: File of the template, beside this module.
        filters: What the template may apply to a value, by name, beside :func:`sets`.
        values: What the template shows; it is escaped unless it is markup.
    """
    environment = jinja2.Environment(
        autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters |= {"sets": sets, **(filters or {})}
    source = files("multidelete.report").joinpath(name).read_text(encoding="utf-8")
    return environment.from_string(source).render(**values)


def sets(text: str) -> Markup:
    """Text in which D_f, D_r and D_Test have their subscripts."""
    # An arrow stays with the word before it, an example and a deviation with their number.
    bound = re.sub(r" (?=[↑↓±])|(?<=[±≈]) |(?<=\d) (?=%|(?:s|min|h)\b)", "\u00a0", str(escape(text)))
    return Markup(re.sub(r"\bD_(f|r|Test)\b", r"D<sub>\1</sub>", bound))
