"""Tables of methods, models, tasks and readers, open to other packages by entry points."""

from __future__ import annotations

from collections.abc import Iterable
from importlib.metadata import entry_points
from typing import TypeVar

from multidelete.errors import InputError, did_you_mean

T = TypeVar("T")


def with_entry_points(group: str, table: dict[str, T]) -> dict[str, T]:
    """The table and what installed packages add to it; a name that is taken stays with the table."""
    return {**{entry.name: entry.load() for entry in entry_points(group=group)}, **table}


def choose(table: dict[str, T], name: str, kind: str) -> T:
    """The entry of this name.

    Raises:
        InputError: There is no such entry; the sentence lists those there are.
    """
    if name not in table:
        raise InputError(f"{unknown(name, table, kind)}; there are {', '.join(table)}")
    return table[name]


def unknown(name: str, options: Iterable[str], kind: str) -> str:
    """The sentence that a name is none of the options."""
    return f"'{name}' is not a {kind}{did_you_mean(name, options)}"
