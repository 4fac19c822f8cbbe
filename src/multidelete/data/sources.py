"""Tables of pictures and texts, in files or in memory, as one dataset."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import PurePath
from typing import Any

from multidelete.data.dataset import Dataset
from multidelete.data.rows import Columns, Row, RowBuilder
from multidelete.data.stores import ImageStore, Joined
from multidelete.utils.errors import InputError

# The place of a row for messages, and the row, or the problem with it.
Lines = Iterator[tuple[str, dict[str, Any] | str]]
Finder = Callable[[str], tuple[str, str | None]]  # name in a store of the picture with a path, and the problem with it


@dataclass(frozen=True, slots=True)
class Inside:
    """A picture in a table.

    Args:
        name: Its name in the table as a store.
        path: Its path before it was put into the table, if known.
    """

    name: str
    path: str | None


@dataclass(frozen=True)
class Source:
    """A table.

    Args:
        where: Its name, for messages.
        split: Split of its rows, if they do not say it.
        columns: Names of its columns.
        rows: Reads the rows, given which column has what.
        store: The pictures in it, given the column that has them; None if that has paths of files.
        prefix: Start of the names of pictures in it that have no path.
        part: Part of a published benchmark that it is, such as "forget"; metadata of its rows.
        splits: Split of pictures by path, and where that is said; pictures that it does not name are in none.
    """

    where: str
    split: str
    columns: Sequence[str]
    rows: Callable[[Columns], Lines]
    store: Callable[[str], ImageStore | None]
    prefix: str = ""
    part: str = ""
    splits: Mapping[str, tuple[str, str]] = field(default_factory=dict)


def dataset_of(
    sources: Sequence[Source],
    name: str,
    given: Mapping[str, str | None],
    unusable: str,
    files: ImageStore | None = None,
    finder: Callable[[Source], Finder] | None = None,
    notes: Sequence[str] = (),
) -> Dataset:
    """The dataset of all rows of tables.

    Args:
        sources: The tables.
        name: Name of the dataset.
        given: Column of a role, if it was named.
        unusable: "error" or "drop": what is done with rows that cannot be used.
        files: Store of the files that tables name.
        finder: Finds the files of a table; with ``files``.
        notes: What was noticed; a list that reading the rows may extend.

    Raises:
        InputError: Columns are missing, or rows cannot be used.
    """
    builder = RowBuilder(name, unusable)
    stores: dict[str, ImageStore] = {}
    for number, source in enumerate(sources):
        columns = Columns.of(source.where, source.columns, given)
        image = columns.names["image"]
        inner = source.store(image)
        if inner is not None:
            stores[str(number)] = inner
        find = finder(source) if inner is None and finder is not None else None
        by_path = {} if "split" in columns.names else source.splits
        missing = {value: where for value, (_, where) in by_path.items()}  # entries that no row has
        for where, record in source.rows(columns):
            if isinstance(record, str):
                builder.unusable.add(where, record)
                continue
            if source.part:
                record = {"part": source.part, **record}
            value = record.get(image)
            split = source.split
            if by_path and isinstance(value, str):
                if value not in by_path:
                    builder.unlisted.add(where, f"{value} is in no list of a split")
                    continue
                split, _ = by_path[value]
                missing.pop(value, None)
            named, shown, problem = _picture(value, source, number, find)
            builder.add(Row(where, named, record, split, shown), columns, problem)
        for value, where in missing.items():
            builder.unusable.add(where, f"{value!r} is no picture of {source.where}")
    if stores and len(stores) < len(sources):
        raise InputError(f"{name} has tables with pictures and tables with paths of pictures; name one of them")
    store = Joined(stores) if stores or files is None else files
    return builder.dataset(store, notes)


def _picture(value: Any, source: Source, number: int, find: Finder | None) -> tuple[str | None, str, str | None]:
    """Name of the picture of a row in the store, its name as people know it ("": the same), and the problem with it.

    Args:
        value: Value of its column.
        source: The table.
        number: Number of the table.
        find: Finds files; None if the pictures are in the table.
    """
    if isinstance(value, Inside):
        shown = PurePath(value.path).name if value.path else source.prefix + value.name
        return f"{number}/{value.name}", shown, None
    if value is None or value == "":
        return None, "", None
    if not isinstance(value, str):
        return None, "", f"expected a path, got {value!r}"
    if find is None:
        return f"{number}/{value}", "", None
    name, problem = find(value)
    return name, "", problem
