"""Tables of Hugging Face ``datasets``: parquet and arrow files, saved data sets, the hub, and objects in memory.

Files are read in place: ``datasets`` itself would copy parquet files and tars to its cache, where deleted pictures
stay.
"""

from __future__ import annotations

import importlib
import threading
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from multidelete.data.rows import Columns
from multidelete.data.sources import Inside, Lines
from multidelete.data.stores import ImageStore
from multidelete.utils.errors import InputError, reason

BATCH = 1024


def needed(name: str, what: str) -> Any:
    """A module of the extra ``data``.

    Raises:
        InputError: It is not installed.
    """
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise InputError(f"{what} needs {name}: pip install 'multidelete[data]'") from error


@dataclass
class ParquetFile(ImageStore):
    """A parquet file: its rows, and the pictures in it.

    Args:
        path: The file.
    """

    path: Path
    _image: str = ""
    _group: tuple[int, Any] = (-1, None)  # number and pictures of the row group that was read last
    _lock: threading.Lock = field(default_factory=threading.Lock)

    @cached_property
    def _file(self) -> Any:
        parquet = needed("pyarrow.parquet", f"{self.path}")
        try:
            return parquet.ParquetFile(self.path, memory_map=True)
        except Exception as error:  # pyarrow raises many kinds
            raise InputError(f"{self.path} cannot be read as parquet ({reason(error)})") from error

    @property
    def columns(self) -> list[str]:
        """Names of the columns."""
        return list(self._file.schema_arrow.names)

    def encoded(self, column: str) -> bool:
        """Whether a column has pictures, not their paths."""
        return _has_bytes(self._file.schema_arrow.field(column).type)

    def rows(self, columns: Columns) -> Lines:
        """The rows; a picture in the file has the number of its row as its name."""
        image = columns.names["image"]
        inside = self.encoded(image)
        paths = inside and hasattr(self._file.schema_arrow.field(image).type, "get_field_index")
        names = [name for name in self.columns if name != image or not inside]
        number = 0
        try:
            for batch in self._file.iter_batches(BATCH, columns=[*names, *([f"{image}.path"] if paths else [])]):
                for record in batch.to_pylist():
                    if inside:
                        record[image] = Inside(str(number), (record.get(image) or {}).get("path"))
                    yield f"{self.path}, row {number}", record
                    number += 1
        except Exception as error:  # pyarrow raises many kinds
            raise InputError(f"{self.path}, row {number}: cannot be read ({reason(error)})") from error

    @cached_property
    def _starts(self) -> list[int]:
        """First row of each row group, and the number of rows."""
        starts = [0]
        for number in range(self._file.num_row_groups):
            starts.append(starts[-1] + self._file.metadata.row_group(number).num_rows)
        return starts

    def open(self, column: str) -> ParquetFile:
        """The same file as the store of the pictures in a column."""
        return ParquetFile(self.path, column)

    def read(self, name: str) -> bytes:
        """See :meth:`ImageStore.read`; reads the row group of the picture, and keeps the last one."""
        row = int(name)
        with self._lock:
            if not self._group[1] or not self._starts[self._group[0]] <= row < self._starts[self._group[0] + 1]:
                number = next(i for i, start in enumerate(self._starts[1:]) if row < start)
                group = self._file.read_row_group(number, columns=[self._image])
                self._group = number, group.column(0)
            return _content(self._group[1][row - self._starts[self._group[0]]].as_py())

    def locate(self, name: str) -> str:
        """See :meth:`ImageStore.locate`."""
        return f"{self.path}, row {name}"

    def problem(self, name: str) -> str | None:
        """See :meth:`ImageStore.problem`."""
        return None


@dataclass
class HubTable(ImageStore):
    """A ``datasets.Dataset``: its rows, and the pictures in it.

    Args:
        table: The data set; its files are memory-mapped.
        where: Its name, for messages.
    """

    table: Any
    where: str
    _image: str = ""

    @property
    def columns(self) -> list[str]:
        """Names of the columns."""
        return list(self.table.column_names)

    def encoded(self, column: str) -> bool:
        """Whether a column has pictures, not their paths."""
        return _has_bytes(self.table.data.schema.field(column).type)

    def rows(self, columns: Columns) -> Lines:
        """The rows; a picture in the table has the number of its row as its name."""
        image = columns.names["image"]
        inside = self.encoded(image)
        plain = self.table.with_format("python")
        plain = plain.remove_columns(image) if inside else plain
        paths = None
        if inside and self.table.data.schema.field(image).type.num_fields:
            paths = needed("pyarrow.compute", self.where).struct_field(self.table.data.column(image), "path")
        labels = {name: feature.names for name, feature in self.table.features.items() if hasattr(feature, "int2str")}
        number = 0
        for batch in plain.iter(BATCH):
            count = len(next(iter(batch.values())))
            for index in range(count):
                record = {name: values[index] for name, values in batch.items() if name != image or not inside}
                record |= {name: names[record[name]] for name, names in labels.items() if record.get(name) is not None}
                if inside:
                    record[image] = Inside(str(number), paths[self._row(number)].as_py() if paths else None)
                yield f"{self.where}, row {number}", record
                number += 1

    def open(self, column: str) -> HubTable:
        """The same table as the store of the pictures in a column."""
        return HubTable(self.table, self.where, column)

    def read(self, name: str) -> bytes:
        """See :meth:`ImageStore.read`."""
        return _content(self.table.data.column(self._image)[self._row(int(name))].as_py())

    def _row(self, number: int) -> int:
        """Row of the table's data, of which the table may be a selection."""
        indices = self.table._indices
        return number if indices is None else int(indices.column(0)[number].as_py())

    def locate(self, name: str) -> str:
        """See :meth:`ImageStore.locate`."""
        return f"{self.where}, row {name}"

    def problem(self, name: str) -> str | None:
        """See :meth:`ImageStore.problem`."""
        return None


def arrow_file(path: Path) -> HubTable:
    """An arrow file, memory-mapped."""
    datasets = needed("datasets", str(path))
    try:
        return HubTable(datasets.Dataset.from_file(str(path)), str(path))
    except Exception as error:  # datasets and pyarrow raise many kinds
        raise InputError(f"{path} cannot be read as an arrow file ({reason(error)})") from error


def saved(folder: Path) -> dict[str, HubTable]:
    """What ``save_to_disk`` wrote, by split; "" if it has no splits."""
    datasets = needed("datasets", str(folder))
    try:
        return tables_of(datasets.load_from_disk(str(folder)), str(folder))
    except Exception as error:
        raise InputError(f"{folder} cannot be read ({reason(error)})") from error


def from_hub(name: str) -> dict[str, HubTable]:
    """A data set of the Hugging Face hub, by split."""
    datasets = needed("datasets", f"the data set {name!r}")
    try:
        return tables_of(datasets.load_dataset(name), name)
    except Exception as error:  # datasets, huggingface_hub and their transport raise many kinds
        raise InputError(f"{name!r} is no file or folder, and cannot be read from the hub ({reason(error)})") from error


def tables_of(given: Any, where: str) -> dict[str, HubTable]:
    """A ``datasets.Dataset``, or those in a ``DatasetDict``, by split."""
    tables = given if isinstance(given, Mapping) else {"": given}
    return {split: HubTable(table, f"{where} [{split}]" if split else where) for split, table in tables.items()}


def _has_bytes(kind: Any) -> bool:
    types = needed("pyarrow.types", "a table")
    binary = types.is_binary(kind) or types.is_large_binary(kind)
    return bool(binary or (types.is_struct(kind) and kind.get_field_index("bytes") >= 0))


def _content(value: Any) -> bytes:
    """The bytes of a cell: themselves, or in an object with bytes or a path."""
    if isinstance(value, Mapping):
        content, path = value.get("bytes"), value.get("path")
        value = content if content is not None else Path(path).read_bytes() if path else b""
    return value or b""
