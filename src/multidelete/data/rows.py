"""Rows of a table, each a picture with one or several texts, to examples: columns by name, rows of a picture merged."""

from __future__ import annotations

import json
import math
from array import array
from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from multidelete.data.columns import Strings
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
class _Pair:
    """A text of a row, with its id, label and metadata if the table has them."""

    text: str
    id: str = ""
    label: str = ""
    metadata: Mapping[str, Value] = field(default_factory=lambda: NO_METADATA)


@dataclass(slots=True)
class _Picture:
    """A picture, with numbers of its pairs; ``shown`` is its name as people know it."""

    name: str
    split: str
    where: str
    group: str = ""
    shown: str = ""
    aliases: tuple[str, ...] = ()
    pairs: array[int] = field(default_factory=lambda: array("q"))


class _Pairs:
    """Pairs as columns: a large collection has too many for an object each."""

    def __init__(self) -> None:
        self.texts, self.ids, self.labels = Strings(), Strings(), Strings()
        self.metadata: list[Mapping[str, Value]] = []
        self.positions = array("q")

    def append(self, pair: _Pair, position: int) -> int:
        """Add a pair; its number."""
        self.texts.append(pair.text)
        self.ids.append(pair.id)
        self.labels.append(pair.label)
        self.metadata.append(pair.metadata)
        self.positions.append(position)
        return len(self.positions) - 1


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
        self._pairs, self._labelled, self._with_ids = _Pairs(), False, False
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
        picture, pairs = read
        first = self._counts[picture.split]
        self._counts[picture.split] += len(pairs)
        known = self._pictures.setdefault(picture.name, picture)
        if known.split != picture.split:
            self.unusable.add(
                row.where,
                f"image {picture.name!r} is in the {picture.split} split here, but in the {known.split} split "
                f"in {known.where}; expected it in one of them",
            )
            return
        seen = self._texts_of(known)
        for position, pair in enumerate(pairs, start=first):
            if pair.text in seen and not pair.label:  # the same text may be about two labels
                self._repeated.append(f"{row.where} repeats a pair of the image in {known.where}, and was left out")
                continue
            seen.add(pair.text)
            known.pairs.append(self._pairs.append(pair, position))

    def _texts_of(self, picture: _Picture) -> set[str]:
        """The texts of a picture, to find those that are repeated."""
        if picture.name in self._seen:
            return self._seen[picture.name]
        texts = {self._pairs.texts[number] for number in picture.pairs}
        if len(texts) >= FEW:
            self._seen[picture.name] = texts
        return texts

    def _read(self, row: Row, columns: Columns) -> tuple[_Picture, list[_Pair]] | str:
        """The picture of a row and the row's pairs, or the problem with the row."""
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
        problem = example_problem(Example("row", known, tuple(texts), (row.image,), tuple(labels)))
        if problem is not None:
            return problem
        self._labelled |= bool(labels)
        self._with_ids |= bool(ids)
        group = columns.value(row, "group")
        shown = row.shown or row.image.rpartition("/")[2]
        picture = _Picture(row.image, known, row.where, "" if group is None else str(group), shown)
        metadata = columns.metadata(row)
        pairs = []
        for number, text in enumerate(texts):
            own = {
                name: value[number] if isinstance(value, tuple) and len(value) == len(texts) else _flat(value)
                for name, value in metadata.items()
            }
            pairs.append(_Pair(text, ids[number] if ids else "", labels[number] if labels else "", own or NO_METADATA))
        return picture, pairs

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
        notes = [*notes, *counted(self._repeated, "rows"), *self.unusable.notes, *self.unlisted.notes]
        return Dataset(self.name, self._examples(usable), root=store, facts=facts, notes=notes)

    def _examples(self, pictures: list[_Picture]) -> Iterator[Example]:
        """The examples; ids of rows are ids of examples if each picture has one.

        Raises:
            InputError: Ids are used several times.
        """
        pairs, ids = self._pairs, self._pairs.ids
        of_examples = self._with_ids and all(len({ids[number] for number in each.pairs}) == 1 for each in pictures)
        read = [pairs.positions[number] for each in pictures if each.split == "train" for number in each.pairs]
        in_order = read == list(range(len(read)))
        times = Counter(name for each in pictures for name in (each.shown, f"{each.split}/{each.shown}"))
        seen: dict[str, str] = {}
        problems = self._repeated_ids(pictures) if self._with_ids and not of_examples else []
        pictures.reverse()
        while pictures:
            picture = pictures.pop()  # freed one by one: a large collection is not in memory twice
            numbers = picture.pairs
            key = ids[numbers[0]] if of_examples else self._key(picture, times)
            if key in seen:
                problems.append(f"{picture.where}: id {key!r} was already used in {seen[key]} (another image)")
            seen.setdefault(key, picture.where)
            has_ids = self._with_ids and not (of_examples and len(numbers) > 1)
            yield Example(
                key,
                picture.split,
                tuple(pairs.texts[number] for number in numbers),
                (picture.name,),
                tuple(pairs.labels[number] for number in numbers) if self._labelled else (),
                group=picture.group,
                text_ids=tuple(ids[number] for number in numbers) if has_ids else (),
                metadata=_columns([pairs.metadata[number] for number in numbers]),
                positions=() if in_order else tuple(pairs.positions[number] for number in numbers),
                aliases=picture.aliases,
                source=picture.where,
            )
        raise_all(problems, "rows")

    def _key(self, picture: _Picture, times: Counter[str]) -> str:
        """The shortest name that is unique; names in a table's store are numbers, which say nothing."""
        of_split = f"{picture.split}/{picture.shown}"
        names = (picture.shown, picture.name if picture.name.endswith(picture.shown) else of_split)
        return next((name for name in names if times[name] == 1), picture.name)

    def _repeated_ids(self, pictures: Sequence[_Picture]) -> list[str]:
        """Problems with ids of rows that several rows have."""
        counts = Counter(self._pairs.ids[number] for picture in pictures for number in picture.pairs)
        return [
            f"{picture.where}: id {key!r} is used {counts[key]} times; expected another id in each row"
            for picture in pictures
            for number in picture.pairs
            if counts[key := self._pairs.ids[number]] > 1
        ]


def _merged(pictures: list[_Picture], facts: list[ImageFacts]) -> tuple[list[_Picture], list[ImageFacts]]:
    """Pictures with the same content in the same split as one."""
    first: dict[tuple[str, str], int] = {}
    kept: list[int] = []
    for number, (picture, each) in enumerate(zip(pictures, facts, strict=True)):
        at = first.setdefault((picture.split, each.digest), number)
        if at == number:
            kept.append(number)
        else:
            pictures[at].pairs.extend(picture.pairs)
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
