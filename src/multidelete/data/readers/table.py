"""Tables of pictures and texts in any common format, as files, folders, data sets of the hub, or objects in memory."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator
from dataclasses import replace
from itertools import chain
from pathlib import Path, PurePath
from typing import Any

from multidelete.data.dataset import Dataset
from multidelete.data.layouts import reader
from multidelete.data.readers.columnar import HubTable, ParquetFile, arrow_file, from_hub, saved
from multidelete.data.readers.delimited import SUFFIXES, rows_of
from multidelete.data.readers.lines import numbered_lines
from multidelete.data.readers.tars import PICTURES, tar_rows
from multidelete.data.rows import SPLIT_NAMES
from multidelete.data.sources import Source, dataset_of
from multidelete.data.stores import Files, ImageStore, Slices
from multidelete.utils.errors import InputError

SAVED = ("dataset_dict.json", "state.json")  # what datasets' save_to_disk writes
CAPTIONS = ("captions*.json", "annotations/captions*.json")  # of COCO
TEXT_TABLES = ("*.csv", "*.tsv", "*.jsonl", "*.ndjson", "captions.txt", "*.token.txt", "*.token", "*.json")
# Tables in a folder, first those that say most: the files of the first line that has any are read together.
KINDS = (
    ("*.tar", "*/*.tar"),
    ("*.parquet", "*/*.parquet"),
    ("*.arrow", "*/*.arrow"),
    CAPTIONS,
    ("metadata.*", "*/metadata.*"),
    TEXT_TABLES,
    tuple(f"*/{pattern}" for pattern in TEXT_TABLES[:-1]),
)


def holds_table(root: Path) -> bool:
    """Whether a folder has tables."""
    return any((root / name).is_file() for name in SAVED) or bool(table_files(root))


def table_files(root: Path) -> list[Path]:
    """The files of a folder that are read together."""
    for patterns in KINDS:
        found = sorted(
            path
            for pattern in patterns
            for path in root.glob(pattern)
            if path.is_file() and path.suffix.lower() in READ and (pattern != "*.json" or _is_list(path))
        )
        if found:
            return found
    return []


@reader(layout="a table of pictures and texts (CSV, TSV, JSON, parquet, arrow, tar)", detects=holds_table)
def table(
    root: str | Path,
    image: str | None = None,
    text: str | None = None,
    id: str | None = None,
    split: str | None = None,
    label: str | None = None,
    group: str | None = None,
    images: str | None = None,
    unusable: str = "error",
) -> Dataset:
    """A table with a picture and a text in each row: CSV, TSV, JSON, JSON lines, parquet, arrow, tars, COCO captions.

    Rows of the same picture (same path, or same bytes in a split) become one example with several texts. Columns are
    found by their names ("image", "file_name", "filepath" ..., "text", "caption", "title" ...), or are named. Other
    columns are metadata. A file whose name or folder says a split ("val.csv", "test/metadata.jsonl") has it.

    Args:
        root: A file, a folder, or the id of a data set on the Hugging Face hub.
        image: Column of the pictures: paths, or the pictures themselves.
        text: Column of the texts; a cell may have a list of them.
        id: Column of the ids, of pictures or of rows.
        split: Column of the split: train, validation (val, dev) or test.
        label: Column of the labels.
        group: Column of groups; the pictures of a group are deleted together.
        images: Folder of the pictures; by default they are looked for next to the table.
        unusable: "error" or "drop": what is done with rows that cannot be used.
    """
    given = {"image": image, "text": text, "id": id, "split": split, "label": label, "group": group}
    notes: list[str] = []
    sources = list(_sources(root, notes))
    if not sources:
        raise InputError(f"{root} has no table")
    folder = Path(root) if Path(root).is_dir() else Path(root).parent
    files = Files(folder.absolute().parent)
    return dataset_of(
        sources,
        PurePath(str(root)).stem,
        given,
        unusable,
        files,
        lambda source: FileFinder(Path(source.where).parent, files, images),
        notes,
    )


class FileFinder:
    """Finds the files of a table's pictures.

    Args:
        folder: Folder of the table.
        files: Store of the files.
        images: Folder of the pictures, if it was named.
    """

    def __init__(self, folder: Path, files: Files, images: str | None) -> None:
        self.files = files
        self.folder = folder.absolute()
        self.tiers = [[self.folder], _subfolders(self.folder)]
        if images is not None:
            named = [path for path in (self.folder / images, Path(images).absolute()) if path.is_dir()]
            if not named:
                raise InputError(f"there is no folder {images!r} (data.images), neither as such nor in {folder}")
            self.tiers = [named[:1]]
        elif not _has_pictures(self.folder):  # else folders next to it may hold another version of the data
            self.tiers.append(_subfolders(self.folder.parent))
        self._last: tuple[str, tuple[str, str | None]] = ("", ("", None))

    def __call__(self, value: str) -> tuple[str, str | None]:
        """Name of a picture in the store, and the problem with it."""
        if value != self._last[0]:  # rows of one picture follow each other
            self._last = value, self._find(value)
        return self._last[1]

    def _find(self, value: str) -> tuple[str, str | None]:
        if "\0" in value:
            return value, f"image path {value!r} holds a null character, which no path can"
        for folders in self.tiers:
            found = [path for folder in folders if os.path.isfile(path := str(folder / value))]
            if len(found) > 1 and not os.path.isabs(value):
                where = ", ".join(found)
                return value, f"image {value!r} is more than one file ({where}); name their folder with data.images="
            if found:
                return os.path.normpath(found[0]).removeprefix(f"{self.files.root}{os.sep}"), None
        where = f"in {self.tiers[0][0]}" + ("", " or its folders", " or the folders next to it")[len(self.tiers) - 1]
        return value, f"image {value!r} is not a file {where}; data.images=FOLDER names the folder of the pictures"


def _is_list(path: Path) -> bool:
    """Whether a JSON file has a list; other files in a folder are settings."""
    with path.open("rb") as file:
        return file.read(64).removeprefix(b"\xef\xbb\xbf").lstrip().startswith(b"[")


def _has_pictures(folder: Path) -> bool:
    """Whether a file below a folder is named like a picture."""
    return any(name.rpartition(".")[2].lower() in PICTURES for _, _, names in os.walk(folder) for name in names)


def _subfolders(folder: Path) -> list[Path]:
    try:
        entries = [entry.name for entry in os.scandir(folder) if entry.is_dir() and not entry.name.startswith(".")]
    except OSError:
        return []
    return [folder / name for name in sorted(entries)[:100]]


def _sources(root: str | Path, notes: list[str]) -> Iterator[Source]:
    path = Path(root)
    if not path.exists():
        for name, table in from_hub(str(root)).items():
            yield _hub_source(table, name)
        return
    if path.is_dir() and any((path / name).is_file() for name in SAVED):
        for name, table in saved(path).items():
            yield _hub_source(table, name)
        return
    files = table_files(path) if path.is_dir() else [path]
    splits = [split_of(file, path) for file in files]
    texts = [file for file in files if file.suffix.lower() in SUFFIXES]
    if len(texts) > 1 and len(set(splits)) < len(splits):
        names = ", ".join(str(file.relative_to(path)) for file in files[:8])
        raise InputError(f"{path} has {len(files)} tables ({names}); name one of them, as {files[0]}")
    for file, split in zip(files, splits, strict=True):
        source = READ.get(file.suffix.lower())
        if source is None:
            raise InputError(f"{file} is no table; expected {', '.join(READ)}")
        yield replace(source(file, split, notes), part=part_of(file.stem))


def _split_lists(folder: Path) -> dict[str, tuple[str, str]]:
    """Split of file names, and the place of the entry, from the lists of Flickr8k, as ``Flickr_8k.trainImages.txt``."""
    return {
        line.strip(): (SPLIT_NAMES[word], where)
        for word in ("train", "dev", "test")
        for path in folder.glob(f"*.{word}Images.txt")
        for where, line in numbered_lines(path)
    }


PARTS = re.compile(r"(forget|retain(?:_[a-z]+)?|holdout_(?:association|identity))(?![a-z_])")


def split_of(file: Path, root: Path) -> str:
    """Split that the name of a file, or of its folder, says; train if it says none."""
    part = part_of(file.stem)
    if part:
        return SPLIT_NAMES.get(part, "train")
    names = [file.stem, *(folder.name for folder in file.parents if folder != root and root in folder.parents)]
    words = chain.from_iterable(re.split(r"[^a-z0-9]+|(?<=[a-z])(?=20\d\d)", name.lower()) for name in names)
    return next((SPLIT_NAMES[word] for word in words if word in SPLIT_NAMES), "train")


def part_of(name: str) -> str:
    """Part of an unlearning benchmark that the name of a split or file says (SALMUBench, TOFU ...), or ""."""
    match = PARTS.match(name.lower())
    return match[1] if match else ""


def _hub_source(table: HubTable, split: str) -> Source:
    part = part_of(split)
    known = SPLIT_NAMES.get(part or split.split(".")[0].lower(), "train")
    return replace(columnar_source(table, table.where, known), part=part)


def columnar_source(table: HubTable | ParquetFile, where: str, split: str, prefix: str | None = None) -> Source:
    """A columnar table as a source.

    Args:
        table: The table.
        where: Its name, for messages.
        split: Split of its rows.
        prefix: Start of the names of pictures without a path; by default the name of the table.
    """
    prefix = f"{PurePath(where).stem}/" if prefix is None else prefix
    return Source(where, split, table.columns, table.rows, lambda name: _opened(table, name), prefix)


def _opened(table: HubTable | ParquetFile, column: str) -> ImageStore | None:
    return table.open(column) if table.encoded(column) else None


def _text_source(path: Path, split: str, notes: list[str]) -> Source:
    lines = rows_of(path, notes)
    first: list[Any] = []
    names: dict[str, None] = {}
    for where, record in lines:  # up to the first row that can be read
        first.append((where, record))
        if not isinstance(record, str):
            names.update(dict.fromkeys(record))
            break
    if not names:
        raise InputError(
            "\n".join(f"{where}: {record}" for where, record in first[:10])
            or f"{path} has a header only; expected one row for each text"
        )
    splits = _split_lists(path.parent)
    return Source(
        str(path), split, list(names), lambda columns: chain(first, lines), lambda column: None, splits=splits
    )


def _parquet_source(path: Path, split: str, notes: list[str]) -> Source:
    return columnar_source(ParquetFile(path), str(path), split)


def _arrow_source(path: Path, split: str, notes: list[str]) -> Source:
    return columnar_source(arrow_file(path), str(path), split)


def _tar_source(path: Path, split: str, notes: list[str]) -> Source:
    slices: dict[str, int] = {}
    lines = tar_rows(path, notes, slices)
    first = next(lines, None)
    if first is None:
        raise InputError(f"{path} has no samples; expected members such as 000000.jpg and 000000.txt")
    columns = list(first[1]) if isinstance(first[1], dict) else ["key", "image", "text"]
    return Source(str(path), split, columns, lambda columns: chain([first], lines), lambda column: Slices(path, slices))


READ: dict[str, Callable[[Path, str, list[str]], Source]] = {
    ".tar": _tar_source,
    ".parquet": _parquet_source,
    ".arrow": _arrow_source,
    **dict.fromkeys(SUFFIXES, _text_source),
}
