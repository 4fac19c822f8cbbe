"""Fills the template of a page."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from importlib.resources import files
from typing import Any

import jinja2


def fill(name: str, filters: Mapping[str, Callable[..., Any]], **values: Any) -> str:
    """The page that a template of this package makes of some values.

    Args:
        name: File of the template, beside this module.
        filters: What the template may apply to a value, by name.
        values: What the template shows; it is escaped unless it is markup.
    """
    environment = jinja2.Environment(
        autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters |= filters
    source = files("multidelete.report").joinpath(name).read_text(encoding="utf-8")
    return environment.from_string(source).render(**values)
