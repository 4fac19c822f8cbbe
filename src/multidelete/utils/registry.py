"""Registries of methods, models, tasks and readers, which other packages extend by entry points."""

from __future__ import annotations

from collections.abc import Collection, ItemsView, ValuesView
from importlib.metadata import EntryPoint, entry_points
from typing import Any, TypeVar

from multidelete.utils.errors import InputError, did_you_mean

T = TypeVar("T")


class Table(dict[str, T]):
    """Dict that imports entry points at first use, so that their modules can be imported before this package."""

    def __getitem__(self, name: str) -> T:
        value: Any = super().__getitem__(name)
        if isinstance(value, EntryPoint):
            value = self[name] = value.load()
        return value  # type: ignore[no-any-return]

    def get(self, name: str, default: Any = None) -> Any:
        """Entry with this name, or the default."""
        try:
            return self[name]
        except KeyError:
            return default

    def values(self) -> ValuesView[T]:  # type: ignore[override]
        """Entries."""
        return ValuesView(self)

    def items(self) -> ItemsView[str, T]:  # type: ignore[override]
        """Names and entries."""
        return ItemsView(self)


def with_entry_points(group: str, table: dict[str, T]) -> Table[T]:
    """Registry with the entry points of installed packages added; names in ``table`` cannot be replaced."""
    added: dict[str, Any] = {entry.name: entry for entry in entry_points(group=group) if entry.name not in table}
    return Table(table | added)


def choose(table: dict[str, T], name: str, kind: str) -> T:
    """Entry with this name.

    Raises:
        InputError: There is no such entry; the message lists all entries.
    """
    if name not in table:
        raise InputError(unknown(name, table, kind))
    return table[name]


def unknown(name: str, options: Collection[str], kind: str) -> str:
    """Message that a name is none of the options.

    >>> unknown("negrad", ["retrain", "neggrad"], "method")
    "'negrad' is not a method (there are retrain, neggrad); did you mean 'neggrad'?"
    """
    return f"'{name}' is not a {kind} (there are {', '.join(options)}){did_you_mean(name, options)}"
