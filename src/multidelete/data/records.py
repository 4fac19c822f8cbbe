"""Datasets from objects in memory: records, data frames, ``datasets.Dataset``, and torch datasets of pairs."""

from __future__ import annotations

import io
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path, PurePath
from typing import Any

import numpy as np
from PIL import Image

from multidelete.data.combine import UNSEEN, halved
from multidelete.data.dataset import Dataset
from multidelete.data.examples import kind
from multidelete.data.images import READ
from multidelete.data.rows import SPLIT_NAMES, Columns, Row, RowBuilder
from multidelete.data.stores import ImageStore, Joined, Memory
from multidelete.utils.errors import InputError


def from_records(parts: Mapping[str, Any], name: str, given: Mapping[str, str] | None, unusable: str) -> Dataset:
    """See :meth:`Dataset.from_records`.

    Args:
        parts: Records by split.
        name: Name of the dataset.
        given: Column of each role that was named.
        unusable: "error" or "drop".
    """
    builder = RowBuilder(name, unusable)
    stores: dict[str, ImageStore] = {}
    for split, records in _by_split(parts).items():
        for part, table in _tables(records, split):
            contents: dict[str, bytes | Path] = {}
            key = str(len(stores))
            columns: Columns | None = None
            store: ImageStore = Memory(contents)
            for number, record in enumerate(table):
                where = f"{part}[{number}]"
                columns = columns or Columns.of(part, list(record), given or {})
                column = columns.names["image"]
                shown, problem = _add(record.get(column), str(number), contents)
                kept = {**record, column: f"{key}/{number}" if problem is None else "?"}
                of_row = halved(f"{split}{number}") if split == UNSEEN else split
                builder.add(Row(where, kept, of_row, shown), columns, problem)
            if columns is None:
                raise InputError(f"{part} has no records; expected at least one")
            stores[key] = store
    return builder.dataset(Joined(stores))


def _by_split(parts: Mapping[str, Any]) -> dict[str, Any]:
    """The parts, with a ``datasets.DatasetDict`` in place of the training data as several."""
    train = parts["train"]
    if not isinstance(train, Mapping) or not all(hasattr(each, "cast_column") for each in train.values()):
        return dict(parts)
    inner = {SPLIT_NAMES.get(name.lower(), "train"): table for name, table in train.items()}
    return {**inner, **{name: part for name, part in parts.items() if name != "train"}}


def _tables(records: Any, split: str) -> Iterator[tuple[str, Iterable[Mapping[str, Any]]]]:
    """The records of an object, with its name for messages."""
    name = "records" if split == "train" else split
    if hasattr(records, "cast_column"):  # datasets.Dataset: pictures as they are stored
        yield name, _undecoded(records)
    elif hasattr(records, "to_dict") and hasattr(records, "columns"):  # pandas
        yield name, records.to_dict("records")
    elif isinstance(records, str | bytes | Mapping) or not hasattr(records, "__getitem__"):
        raise InputError(
            f"{name}: expected a list of records, a data frame, a datasets.Dataset or a torch dataset of (picture, "
            f"text), got {type(records).__name__}"
        )
    else:
        yield name, _named(name, records)


def _named(name: str, records: Any) -> Iterator[Mapping[str, Any]]:
    """The records of a list or a torch dataset: objects, or (picture, text)."""
    for number in range(len(records)):
        item = records[number]
        if isinstance(item, Mapping):
            yield item
        elif isinstance(item, tuple | list) and len(item) == 2:
            yield {"image": item[0], "text": item[1]}
        else:
            raise InputError(
                f"{name}[{number}]: expected an object with a picture and a text, or (picture, text), got {kind(item)}"
            )


def _undecoded(table: Any) -> Iterator[Mapping[str, Any]]:
    import datasets

    for name, feature in table.features.items():
        if isinstance(feature, datasets.Image):
            table = table.cast_column(name, datasets.Image(decode=False))
    labels = {name: feature for name, feature in table.features.items() if isinstance(feature, datasets.ClassLabel)}
    for record in table:
        yield {**record, **{name: feature.int2str(record[name]) for name, feature in labels.items()}}


def _add(value: Any, number: str, contents: dict[str, bytes | Path]) -> tuple[str, str | None]:
    """Add a picture; its name as people know it, and the problem with it."""
    if isinstance(value, Mapping) and {"bytes", "path"} & value.keys():  # datasets
        path = value.get("path")
        shown = PurePath(path).name if path else ""
        value = value.get("bytes") or (Path(path) if path else None)
    else:
        shown = PurePath(value).name if isinstance(value, str | Path) else ""
        if isinstance(value, Image.Image):
            shown = PurePath(getattr(value, "filename", "")).name
    if isinstance(value, str | Path):
        contents[number] = Path(value)
        return shown, None if Path(value).is_file() else f"image {str(value)!r} is not a file"
    if isinstance(value, bytes | bytearray):
        contents[number] = bytes(value)
        return shown or number, None
    if isinstance(value, np.ndarray):
        try:
            value = Image.fromarray(value)
        except (TypeError, ValueError):
            return number, f"expected an array (H, W, 3) of uint8, got {value.dtype} of {value.shape}"
    if not isinstance(value, Image.Image):
        return number, f"expected a picture (of PIL, an array, bytes of {READ}, or a path), got {kind(value)}"
    encoded = io.BytesIO()
    lossless = {"F": "TIFF", "CMYK": "TIFF"}.get(value.mode, "PNG")
    value = value.convert("RGB") if value.mode in ("YCbCr", "LAB", "HSV") else value
    value.save(encoded, lossless, exif=value.getexif())
    contents[number] = encoded.getvalue()
    return shown or number, None
