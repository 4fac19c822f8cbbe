"""Tables of methods, models, tasks and readers, open to other packages by entry points."""

from __future__ import annotations

from collections.abc import Collection
from importlib.metadata import entry_points
from typing import TypeVar

from multidelete.utils.errors import InputError, did_you_mean

T = TypeVar("T")


def with_entry_points(group: str, table: dict[str, T]) -> dict[str, T]:
    """The table, followed by what installed packages add to it; a name in the table cannot be replaced."""
    return table | {entry.name: entry.load() for entry in entry_points(group=group) if entry.name not in table}


def choose(table: dict[str, T], name: str, kind: str) -> T:
    """The entry of this name.

    Raises:
        InputError: There is no such entry; the sentence lists those there are.
    """
    if name not in table:
        raise InputError(unknown(name, table, kind))
    return table[name]


def unknown(name: str, options: Collection[str], kind: str) -> str:
    """The sentence that a name is none of the options.

    >>> unknown("negrad", ["retrain", "neggrad"], "method")
    "'negrad' is not a method (there are retrain, neggrad); did you mean 'neggrad'?"
    """
    return f"'{name}' is not a {kind} (there are {', '.join(options)}){did_you_mean(name, options)}"
