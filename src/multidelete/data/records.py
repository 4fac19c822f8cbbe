"""Datasets from objects in memory: records, data frames, ``datasets.Dataset``, and torch datasets of pairs."""

from __future__ import annotations

import io
from collections.abc import Iterable, Iterator, Mapping
from itertools import chain
from pathlib import Path, PurePath
from typing import Any

import numpy as np
from PIL import Image

from multidelete.data.combine import UNSEEN, joined
from multidelete.data.dataset import Dataset
from multidelete.data.examples import kind
from multidelete.data.images import READ
from multidelete.data.readers.columnar import tables_of
from multidelete.data.readers.table import columnar_source
from multidelete.data.rows import SPLIT_NAMES, Columns
from multidelete.data.sources import Inside, Lines, Source, dataset_of
from multidelete.data.stores import Memory
from multidelete.utils.errors import InputError


def from_records(parts: Mapping[str, Any], name: str, given: Mapping[str, str] | None, unusable: str) -> Dataset:
    """See :meth:`Dataset.from_records`.

    Args:
        parts: Records by split.
        name: Name of the dataset.
        given: Column of each role that was named.
        unusable: "error" or "drop".
    """

    def read(splits: Iterable[str]) -> Dataset:
        sources = [source for split in splits for source in _sources(parts[split], split)]
        return dataset_of(sources, name, given or {}, unusable)

    dataset = read(split for split in parts if split != UNSEEN)
    return joined(dataset, read([UNSEEN]), UNSEEN) if UNSEEN in parts else dataset


def _sources(records: Any, split: str) -> Iterator[Source]:
    """The tables of an object: several of a ``datasets.DatasetDict``, else one."""
    name, split = ("records" if split == "train" else split), ("train" if split == UNSEEN else split)
    several = isinstance(records, Mapping) and all(hasattr(each, "cast_column") for each in records.values())
    if hasattr(records, "cast_column") or (several and records):
        for own, table in tables_of(records, name).items():
            yield columnar_source(table, table.where, SPLIT_NAMES.get(own.lower(), split), prefix="")
    elif hasattr(records, "to_dict") and hasattr(records, "columns"):  # pandas
        yield _source(name, split, iter(records.to_dict("records")))
    elif isinstance(records, str | bytes | Mapping) or not hasattr(records, "__getitem__"):
        raise InputError(
            f"{name}: expected a list of records, a data frame, a datasets.Dataset or a torch dataset of (picture, "
            f"text), got {type(records).__name__}"
        )
    else:
        yield _source(name, split, _named(name, records))


def _source(name: str, split: str, records: Iterator[Mapping[str, Any]]) -> Source:
    first = next(records, None)
    if first is None:
        raise InputError(f"{name} has no records; expected at least one")
    contents: dict[str, bytes | Path] = {}

    def rows(columns: Columns) -> Lines:
        image = columns.names["image"]
        for number, record in enumerate(chain([first], records)):
            shown, problem = _add(record.get(image), str(number), contents)
            yield f"{name}[{number}]", problem or {**record, image: Inside(str(number), shown or str(number))}

    return Source(name, split, list(first), rows, lambda column: Memory(contents))


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
        return shown, None
    if isinstance(value, np.ndarray):
        try:
            value = Image.fromarray(value)
        except (TypeError, ValueError):
            return "", f"expected an array (H, W, 3) of uint8, got {value.dtype} of {value.shape}"
    if not isinstance(value, Image.Image):
        return "", f"expected a picture (of PIL, an array, bytes of {READ}, or a path), got {kind(value)}"
    encoded = io.BytesIO()
    lossless = {"F": "TIFF", "CMYK": "TIFF"}.get(value.mode, "PNG")
    value = value.convert("RGB") if value.mode in ("YCbCr", "LAB", "HSV") else value
    value.save(encoded, lossless, exif=value.getexif())
    contents[number] = encoded.getvalue()
    return shown, None
