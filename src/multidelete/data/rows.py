"""Rows of a table, each a picture with one or several texts, to examples: columns by name, rows of a picture merged."""

from __future__ import annotations

import json
import math
from array import array
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from multidelete.data.dataset import Dataset
from multidelete.data.examples import NO_METADATA, Example, Value, example_problem, split_problem
from multidelete.data.facts import fact
from multidelete.data.images import ImageFacts, ImageFile, facts_or_problems
from multidelete.data.stores import ImageStore
from multidelete.data.unusable import Unusable, counted
from multidelete.metrics.holdouts import HOLDOUTS
from multidelete.utils.errors import InputError, did_you_mean, raise_all

# Names of columns, in order of preference; upper and lower case are the same.
NAMES = {
    "image": (
        *("image", "file_name", "filename", "filepath", "file_path", "image_path", "image_file", "image_name"),
        *("img", "img_path", "picture", "photo", "path", "file", "jpg", "png", "webp"),
    ),
    "text": (
        *("text", "caption", "captions", "texts", "title", "sentence", "sentences", "raw", "txt", "comment"),
        *("hypothesis", "sentence2", "description", "alt_text", "prompt"),
    ),
    "id": ("id", "key", "uid"),
    "split": ("split",),
    "label": ("label", "labels", "gold_label"),
    "group": ("group",),
}
NEEDED = ("image", "text")
FEW = 64  # texts of a picture that are compared without an index
ADDRESSES = ("url", "image_url", "img_url")  # columns of data whose pictures have to be downloaded first

SPLIT_NAMES = {
    **dict.fromkeys(("train", "training", "restval"), "train"),
    **dict.fromkeys(("validation", "valid", "val", "dev"), "validation"),
    **dict.fromkeys(("test", "testing", "test1"), "test"),
    **{name: name for name in HOLDOUTS},
}


@dataclass(frozen=True, slots=True)
class Row:
    """A row of a table.

    Args:
        where: Where it was read, for messages: "pairs.csv, line 3".
        image: Name of its picture in the store; None if it has none.
        values: Value of each column.
        split: Its split, if there is no column for it.
        shown: Name of the picture as people know it; by default the file name.
    """

    where: str
    image: str | None
    values: Mapping[str, Any]
    split: str = "train"
    shown: str = ""


@dataclass(frozen=True)
class Columns:
    """Which column has what.

    Args:
        names: Name of the column of each role that the table has.
    """

    names: Mapping[str, str]

    @classmethod
    def of(cls, table: str, columns: Collection[str], given: Mapping[str, str | None]) -> Columns:
        """Find the columns of a table.

        Args:
            table: Name of the table, for messages.
            columns: Its columns.
            given: Column of a role, if it was named; None to find it.

        Raises:
            InputError: A column that was named does not exist, or no column has the pictures or the texts.
        """
        lower = {column.strip().lower(): column for column in reversed(list(columns))}
        names: dict[str, str] = {}
        listed = ", ".join(columns)
        if unknown_roles := given.keys() - NAMES.keys():
            raise InputError(f"unknown kind of column {min(unknown_roles)!r}, expected {', '.join(NAMES)}")
        for role, known in NAMES.items():
            wanted = given.get(role)
            if wanted is not None and wanted not in columns:
                hint = did_you_mean(wanted, columns)
                raise InputError(f"{table} has no column {wanted!r} (data.{role}); it has {listed}{hint}")
            found = wanted or next((lower[name] for name in known if name in lower), None)
            if found is not None and found not in names.values():
                names[role] = found
            elif role in NEEDED:
                hint = f"name it with data.{role}=COLUMN"
                if role == "image" and any(name in lower for name in ADDRESSES):
                    hint = "addresses are not downloaded: get the pictures first, for example with img2dataset"
                raise InputError(f"{table} has no column for the {role}; it has {listed}; {hint}")
        return cls(names)

    def value(self, row: Row, role: str) -> Any:
        """Value of a role in a row; None if the table has no such column, or the row no value."""
        value = row.values.get(self.names[role]) if role in self.names else None
        return None if isinstance(value, float) and math.isnan(value) else value

    def metadata(self, row: Row) -> dict[str, Value | tuple[Value, ...]]:
        """Values of all other columns."""
        used = set(self.names.values())
        return {name: fact(value) for name, value in row.values.items() if name not in used}


@dataclass(slots=True)
class _Picture:
    """The rows of one picture."""

    name: str
    split: str
    where: str
    texts: list[str] = field(default_factory=list)
    ids: list[str] = field(default_factory=list)
    labels: list[str] = field(default_factory=list)
    metadata: list[Mapping[str, Value]] = field(default_factory=list)
    positions: array[int] = field(default_factory=lambda: array("q"))
    group: str = ""
    shown: str = ""
    aliases: tuple[str, ...] = ()

    def extend(self, other: _Picture, kept: Sequence[int] | None = None) -> None:
        """Add the texts of another row, all or those with these indices."""
        for name in ("texts", "ids", "labels", "metadata", "positions"):
            values = getattr(other, name)
            getattr(self, name).extend(values if kept is None or not values else [values[index] for index in kept])


class RowBuilder:
    """Collects rows of one or several tables, and makes a dataset of them.

    Args:
        name: Name of the dataset.
        unusable: "error" or "drop": what is done with rows that cannot be used.

    Attributes:
        unusable: Rows that cannot be used.
        unlisted: Rows of pictures that belong to no split; they are left out.
    """

    def __init__(self, name: str, unusable: str = "error") -> None:
        self.name = name
        self.unusable = Unusable(unusable, "rows")
        self.unlisted = Unusable("drop", "rows")
        self._pictures: dict[str, _Picture] = {}
        self._seen: dict[str, set[str]] = {}  # texts of the pictures that have many
        self._repeated: list[str] = []
        self._counts = Counter[str]()  # pairs of each split that were read, usable or not

    def add(self, row: Row, columns: Columns, problem: str | None = None) -> None:
        """Add a row.

        Args:
            row: The row.
            columns: Which column has what.
            problem: A problem with the picture that the caller has detected.
        """
        read = self._read(row, columns) if problem is None else problem
        if isinstance(read, str):
            self.unusable.add(row.where, read)
            self._counts[row.split] += 1
            return
        read.positions.extend(range(self._counts[read.split], self._counts[read.split] + len(read.texts)))
        self._counts[read.split] += len(read.texts)
        known = self._pictures.get(read.name)
        if known is not None and known.split != read.split:
            self.unusable.add(
                row.where,
                f"image {read.name!r} is in the {read.split} split here, but in the {known.split} split "
                f"in {known.where}; expected it in one of them",
            )
            return
        if known is None:
            known = replace(read, texts=[], ids=[], labels=[], metadata=[], positions=array("q"))
            self._pictures[read.name] = known
        kept = self._kept(known, read, row.where)
        known.extend(read, kept)

    def _kept(self, known: _Picture, read: _Picture, where: str) -> list[int]:
        """Indices of the texts of a row that no earlier row of the picture has."""
        if read.labels:  # the same text may be about two labels
            return list(range(len(read.texts)))
        kept = []
        seen = set(known.texts) if len(known.texts) < FEW else self._seen.setdefault(known.name, set(known.texts))
        for number, text in enumerate(read.texts):
            if text in seen:
                self._repeated.append(f"{where} repeats a pair of the image in {known.where}, and was left out")
            else:
                seen.add(text)
                kept.append(number)
        return kept

    def _read(self, row: Row, columns: Columns) -> _Picture | str:
        """The picture of a row with the row's texts, or the problem with the row."""
        if row.image is None:
            return f"the column {columns.names['image']!r} is empty; expected a picture"
        texts = _texts(columns.value(row, "text"))
        if isinstance(texts, str):
            return texts
        split = columns.value(row, "split")
        known = SPLIT_NAMES.get(str(split).strip().lower()) if split is not None else row.split
        if known is None:
            return split_problem(str(split))
        if not texts or not all(text.strip() for text in texts):
            return f"the column {columns.names['text']!r} is empty; expected a text"
        labels = _listed(columns.value(row, "label"), len(texts))
        if "label" in columns.names and not all(label.strip() for label in labels or [""]):
            return f"the column {columns.names['label']!r} is empty; expected a label"
        ids = _listed(columns.value(row, "id"), len(texts))
        if "id" in columns.names and not all(each.strip() for each in ids or [""]):
            return f"the column {columns.names['id']!r} is empty; expected an id"
        metadata = columns.metadata(row)
        of_texts: list[Mapping[str, Value]] = [NO_METADATA] * len(texts)
        if metadata:
            of_texts = [
                {
                    name: value[number] if isinstance(value, tuple) and len(value) == len(texts) else _flat(value)
                    for name, value in metadata.items()
                }
                for number in range(len(texts))
            ]
        group = columns.value(row, "group")
        picture = _Picture(row.image, known, row.where, texts, ids, labels, of_texts)
        picture.group = "" if group is None else str(group)
        picture.shown = row.shown or picture.name.rpartition("/")[2]
        problem = example_problem(Example("row", known, tuple(texts), (picture.name,), tuple(labels)))
        return problem or picture

    def dataset(self, store: ImageStore, notes: Sequence[str] = ()) -> Dataset:
        """The dataset of all rows; pictures of one split with the same content become one example.

        Args:
            store: Where the pictures are.
            notes: What was noticed while the rows were read.

        Raises:
            InputError: Rows or pictures cannot be used; up to ten are named.
        """
        pictures = list(self._pictures.values())
        self._pictures, self._seen = {}, {}
        files = [ImageFile(each.shown, store, each.name, each.where) for each in pictures]
        usable: list[_Picture] = []
        facts: list[ImageFacts] = []
        for picture, file, each in zip(pictures, files, facts_or_problems(files), strict=True):
            if isinstance(each, str):
                self.unusable.add(picture.where, file.problem(each))
            else:
                usable.append(picture)
                facts.append(each)
        self.unusable.check()
        del pictures, files
        usable, facts = _merged(usable, facts)
        examples = self._examples(usable)
        notes = [*notes, *counted(self._repeated, "rows"), *self.unusable.notes, *self.unlisted.notes]
        return Dataset(self.name, examples, root=store, facts=facts, notes=notes)

    def _examples(self, pictures: list[_Picture]) -> list[Example]:
        """The examples; ids of rows are ids of examples if each picture has one."""
        of_examples = bool(pictures) and all(each.ids and len(set(each.ids)) == 1 for each in pictures)
        read = [number for each in pictures if each.split == "train" for number in each.positions]
        in_order = read == list(range(len(read)))
        shown = [each.shown for each in pictures]
        times = Counter(shown)
        examples = []
        problems = []
        seen: dict[str, str] = {}
        pictures.reverse()
        for short in shown:
            picture = pictures.pop()  # freed one by one: a large collection is not in memory twice
            key = picture.ids[0] if of_examples else short if times[short] == 1 else picture.name
            if key in seen:
                problems.append(f"{picture.where}: id {key!r} was already used in {seen[key]} (another image)")
            seen.setdefault(key, picture.where)
            own_ids = () if of_examples and len(picture.texts) > 1 else tuple(picture.ids)
            examples.append(
                Example(
                    key,
                    picture.split,
                    tuple(picture.texts),
                    (picture.name,),
                    tuple(picture.labels),
                    group=picture.group,
                    text_ids=own_ids if len(own_ids) == len(picture.texts) else (),
                    metadata=_columns(picture.metadata),
                    positions=() if in_order else tuple(picture.positions),
                    aliases=picture.aliases,
                    source=picture.where,
                )
            )
        if not of_examples:
            counts = Counter(text_id for example in examples for text_id in example.text_ids)
            problems += [
                f"{example.source}: id {text_id!r} is used {counts[text_id]} times; expected another id in each row"
                for example in examples
                for text_id in example.text_ids
                if counts[text_id] > 1
            ]
        raise_all(problems, "rows")
        return examples


def _merged(pictures: list[_Picture], facts: list[ImageFacts]) -> tuple[list[_Picture], list[ImageFacts]]:
    """Pictures with the same content in the same split as one."""
    first: dict[tuple[str, str], int] = {}
    kept: list[int] = []
    for number, (picture, each) in enumerate(zip(pictures, facts, strict=True)):
        at = first.setdefault((picture.split, each.digest), number)
        if at == number:
            kept.append(number)
        else:
            pictures[at].extend(picture)
            pictures[at].aliases += (picture.shown,)
    return [pictures[number] for number in kept], [facts[number] for number in kept]


def _columns(rows: Sequence[Mapping[str, Value]]) -> Mapping[str, Value | tuple[Value, ...]]:
    """Metadata of an example from those of its texts; values that all texts have in common are kept once."""
    if not any(rows):
        return NO_METADATA
    result: dict[str, Value | tuple[Value, ...]] = {}
    for name in dict.fromkeys(name for row in rows for name in row):
        values = tuple(row.get(name) for row in rows)
        result[name] = values[0] if len(set(values)) == 1 else values
    return result


def _texts(value: Any) -> list[str] | str:
    """The texts of a cell, or the problem with it; a JSON list in a cell is a list."""
    if isinstance(value, str) and value.startswith('["') and value.endswith('"]'):
        try:
            value = json.loads(value)
        except ValueError as error:
            return f"the list of texts is not valid JSON ({error})"
    if value is None:
        return []
    values = list(value) if isinstance(value, list | tuple | np.ndarray) else [value]
    texts = [each.get("raw", each.get("caption")) if isinstance(each, Mapping) else each for each in values]
    texts = [each.strip() if isinstance(each, str) else each for each in texts]
    wrong = next((each for each in texts if not isinstance(each, str)), None)
    return f"expected a text, got {wrong!r}" if wrong is not None or None in texts else texts


def _listed(value: Any, count: int) -> list[str]:
    """Labels or ids of the texts of a row, which has one for all of them or one for each."""
    if value is None:
        return []
    values = list(value) if isinstance(value, list | tuple | np.ndarray) else [value] * count
    return [_word(each) for each in values]


def _word(value: Any) -> str:
    return str(int(value)) if isinstance(value, float) and value.is_integer() else str(value)


def _flat(value: Value | tuple[Value, ...]) -> Value:
    return json.dumps(value) if isinstance(value, tuple) else value
