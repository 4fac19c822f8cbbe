"""Rows of ``results.json``: one model with its settings, metrics and cost."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple, NotRequired

from pydantic import TypeAdapter, ValidationError
from typing_extensions import TypedDict  # pydantic needs it below Python 3.12

from multidelete.utils.errors import InputError

SCHEMA = 1


class SeedValues(TypedDict):
    """Seeds of a row as ``results.json`` has them."""

    train: int
    forget: int
    method: int


class Row(TypedDict):
    """One model of a run.

    ``settings`` are those of the method; ``metrics`` are in points unless their name says otherwise; ``cost`` has
    seconds and megabytes; ``contrasts`` are differences to Original and Retrain with their standard errors.
    ``unchanged`` is true of a method that left the model as it was, and ``note`` says why. Rows of cells that have not
    finished have no metrics, and say whether the cell ``failed``.
    """

    task: str
    data: str
    model: str
    method: str
    title: str
    color: str
    scope: str
    forget_examples: int
    seed: int
    seeds: SeedValues
    settings: dict[str, Any]
    metrics: dict[str, Any]
    cost: dict[str, Any]
    contrasts: NotRequired[dict[str, Any]]
    unchanged: NotRequired[bool]
    note: NotRequired[str]
    failed: NotRequired[bool]


def values_of(row: Row, keys: Iterable[str]) -> list[Any]:
    """Values of some keys of a row."""
    entries: Mapping[str, Any] = {**row}
    return [entries[key] for key in keys]


class Seeds(NamedTuple):
    """The seeds of a row: of training, deletion set and unlearning.

    >>> str(Seeds(0, 0, 0)), str(Seeds(0, 0, 2))
    ('0', '0/0/2')
    """

    train: int
    forget: int
    method: int

    @classmethod
    def of(cls, row: Row) -> Seeds:
        """Seeds of a row."""
        return cls(**row["seeds"])

    @property
    def shared(self) -> tuple[int, int]:
        """Seeds that Original and Retrain depend on."""
        return self[:2]

    def __str__(self) -> str:
        return "/".join(map(str, self if len(set(self)) > 1 else self[:1]))


_ROWS: TypeAdapter[list[Row]] = TypeAdapter(list[Row])


def checked_rows(content: Any, path: Path) -> tuple[Row, ...]:
    """The rows of a results file.

    Args:
        content: The file as JSON.
        path: The file, for messages.

    Raises:
        InputError: Another schema, no rows, or a row without a key or with a value of another type.
    """
    if not isinstance(content, dict) or content.get("schema") != SCHEMA:
        received = repr(content.get("schema")) if isinstance(content, dict) else f"a {type(content).__name__}"
        raise InputError(f'{path}: expected results with "schema": {SCHEMA}, got {received}')
    rows = content.get("rows")
    if not isinstance(rows, list) or not rows:
        raise InputError(f'{path}: expected a list "rows" with at least one row, got {rows!r}')
    try:
        _ROWS.validate_python(rows, strict=True)
    except ValidationError as error:
        first = error.errors()[0]
        index, *keys = first["loc"]
        name = ".".join(map(str, keys))
        location = f"{path}, row {index}"
        if first["type"] == "missing":
            raise InputError(f"{location} has no '{name}'") from error
        raise InputError(f"{location}: {repr(name) + ': ' if name else ''}{first['msg']}") from error
    return tuple(rows)
