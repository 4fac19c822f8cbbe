"""Names of what must go: ids, file names, paths, single pairs, and lists of them in files of several formats."""

from __future__ import annotations

import re
import unicodedata
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import Any
from urllib.parse import unquote, urlsplit

import numpy as np

from multidelete.data.dataset import Dataset, Rows
from multidelete.data.examples import kind
from multidelete.data.readers.delimited import SUFFIXES, rows_of
from multidelete.data.readers.lines import json_content
from multidelete.data.rows import NAMES
from multidelete.utils.errors import InputError, did_you_mean, raise_all

Entries = list[tuple[str, Any]]  # location and name of each entry; a name is a string or (image, text)

EXPECTED = "a text file with one id per line"
PAIR = re.compile(r"(.+)#(\d+)", re.DOTALL)
TABLES = (".csv", ".tsv", ".jsonl", ".ndjson", ".json")


def entries_of(given: Any, name: str, column: str | None = None) -> tuple[str, Entries]:
    """Name of a list for messages, and its entries.

    Args:
        given: A list of names, or the path of a file with them, or names separated by commas.
        name: Name of the list, if it is not a file.
        column: Column of a table that has the names.

    Raises:
        InputError: The list cannot be read, or an entry is no name.
    """
    if isinstance(given, str | Path):
        path = Path(given)
        if path.exists() or isinstance(given, Path) or "\n" in given:
            return path.name, _file_entries(path, column)
        names = [each.strip() for each in given.split(",") if each.strip()]
        return name, [(f"entry {number}", each) for number, each in enumerate(names, start=1)]
    if not isinstance(given, Iterable):
        raise InputError(f"{name}: expected a list of ids or the path of a file, got {given!r}")
    entries = []
    for number, entry in enumerate(given, start=1):
        entries.append((f"entry {number}", _name(entry, f"{name}, entry {number}", column)))
    return name, entries


def _name(entry: Any, where: str, column: str | None) -> Any:
    if isinstance(entry, str):
        return entry
    if isinstance(entry, int | np.integer) and not isinstance(entry, bool):
        return str(entry)
    if isinstance(entry, tuple | list) and len(entry) == 2 and all(isinstance(each, str) for each in entry):
        return tuple(entry)
    if isinstance(entry, Mapping):
        return _named_in(entry, where, column)
    raise InputError(f"{where}: expected an id as a string, or (image, text), got {entry!r}")


def _named_in(record: Mapping[str, Any], where: str, column: str | None) -> Any:
    """The name in an object or a row of a table: its id, its image and text, or its image."""
    if column is not None:
        if record.get(column) is None:
            hint = did_you_mean(column, record)
            raise InputError(f"{where}: there is no column {column!r}; it has {', '.join(record)}{hint}")
        return str(record[column])
    lower = {str(key).lower(): value for key, value in record.items() if value is not None and value != ""}
    found = {
        role: next((lower[name] for name in NAMES[role] if name in lower), None) for role in ("id", "image", "text")
    }
    if found["id"] is not None:
        return str(found["id"])
    if found["image"] is not None:
        return str(found["image"]) if found["text"] is None else (str(found["image"]), str(found["text"]))
    if len(lower) == 1:
        return str(next(iter(lower.values())))
    raise InputError(
        f"{where}: it names neither an id nor an image; it has {', '.join(record)}; name the column with forget.column"
    )


def _file_entries(path: Path, column: str | None) -> Entries:
    if path.is_dir():
        raise InputError(f"{path} is a folder; expected {EXPECTED}")
    if not path.exists():
        raise InputError(f"there is no file {path}; expected {EXPECTED} (ids as such go in a list)")
    suffix = path.suffix.lower()
    if suffix == ".json":
        content = json_content(path)
        if (
            isinstance(content, Mapping)
            and len(lists := [each for each in content.values() if isinstance(each, list)]) == 1
        ):
            content = lists[0]
        if not isinstance(content, list):
            raise InputError(f"{path} has no list of names; expected a list, got {kind(content)}")
        return [
            (f"entry {number}", _name(each, f"{path.name}, entry {number}", column))
            for number, each in enumerate(content, start=1)
        ]
    lines = _lines(path)
    first = lines[0] if lines else ""
    if suffix in TABLES and suffix in SUFFIXES and (suffix == ".jsonl" or column or re.search(r"[,\t;|]", first)):
        return _table_entries(path, column)
    header = suffix in TABLES and first.strip().lower() in {name for names in NAMES.values() for name in names}
    return [
        (f"line {number}", tuple(line.split("\t", 1)) if "\t" in line else line)
        for number, line in enumerate(map(str.strip, lines), start=1)
        if line and not (header and number == 1)
    ]


def _table_entries(path: Path, column: str | None) -> Entries:
    entries: Entries = []
    problems = []
    for where, record in rows_of(path, []):
        location = where.removeprefix(f"{path}, ")
        if isinstance(record, str):
            problems.append(f"{path.name}, {location}: {record}")
        else:
            entries.append((location, _named_in(record, f"{path.name}, {location}", column)))
    raise_all(problems, "lines")
    return entries


def _lines(path: Path) -> list[str]:
    try:
        return path.read_bytes().decode("utf-8-sig").splitlines()
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error.strerror or error}") from error
    except UnicodeDecodeError as error:
        raise InputError(f"{path} is not UTF-8; save it as a UTF-8 text file with one id per line") from error


def normalised(name: str) -> str:
    """A file name or path as it is compared: Unicode NFC, without URL coding, scheme, host and query.

    >>> normalised("https://example.org/photos/caf%C3%A9.jpg?width=200")
    'photos/café.jpg'
    """
    if "://" in name:
        name = urlsplit(name).path
    return unicodedata.normalize("NFC", unquote(name)).replace("\\", "/").removeprefix("./").strip("/")


class Names:
    """Finds the pairs that a name stands for.

    Args:
        dataset: The dataset.
    """

    def __init__(self, dataset: Dataset) -> None:
        self.dataset = dataset
        self.rows = dataset.rows_by_id
        self._texts: dict[str, int] | None = None
        self._files: dict[str, list[int]] | None = None

    def pairs(self, name: Any) -> Rows | str:
        """Text rows of the pairs with a name, or the problem with it."""
        if isinstance(name, tuple):
            return self._image_and_text(*name)
        row = self.rows.get(name)
        if row is None and name in self.texts:
            return self._of(self.dataset.text_examples[self.texts[name]], self.texts[name])
        if row is None:
            found = self._example(name)
            if isinstance(found, str) and (match := PAIR.fullmatch(name)):
                example = self.rows[match[1]] if match[1] in self.rows else self._example(match[1])
                if isinstance(example, int):
                    return self._numbered(example, int(match[2]))
            if isinstance(found, str):
                return found
            row = found
        return self._of(row)

    @property
    def texts(self) -> dict[str, int]:
        """Text row of each id of a text; -1 where several have it."""
        if self._texts is None:
            self._texts = {}
            for row, example in enumerate(self.dataset.examples):
                for number, text_id in enumerate(example.text_ids):
                    at = int(self.dataset.text_starts[row]) + number
                    self._texts[text_id] = -1 if text_id in self._texts else at
            self._texts = {name: at for name, at in self._texts.items() if at >= 0}
        return self._texts

    def _of(self, example: int, text: int | None = None) -> Rows | str:
        """The pairs of an example, or one of them, if it is in the training split."""
        split = self.dataset.examples[example].split
        if split != "train":
            name = self.dataset.examples[example].id
            return f"{name!r} is in the {split} split; only examples of the training split can be forgotten"
        if text is not None:
            return np.array([text], dtype=np.int64)
        return self.dataset.text_rows(np.array([example], dtype=np.int64))

    def _numbered(self, example: int, number: int) -> Rows | str:
        count = int(self.dataset.text_counts[example])
        if number >= count:
            name = self.dataset.examples[example].id
            return f"{name!r} has no text {number}; it has {count:,}, numbered from 0"
        return self._of(example, int(self.dataset.text_starts[example]) + number)

    def _image_and_text(self, image: str, text: str) -> Rows | str:
        base, numbered = image, PAIR.fullmatch(image)
        example = self.rows.get(image)
        found = self._example(image) if example is None else example
        if isinstance(found, str) and numbered:  # a line of Flickr8k.token.txt: image.jpg#2, tab, text
            base = numbered[1]
            found = self.rows[base] if base in self.rows else self._example(base)
        if isinstance(found, str):
            return found
        wanted = " ".join(unicodedata.normalize("NFC", text).split())
        texts = [" ".join(unicodedata.normalize("NFC", each).split()) for each in self.dataset.examples[found].texts]
        if wanted not in texts:
            return f"{base!r} has no text {text!r}{did_you_mean(wanted, texts)}"
        return self._of(found, int(self.dataset.text_starts[found]) + texts.index(wanted))

    def _example(self, name: str) -> int | str:
        """The example with a file name or path, or the problem with it."""
        wanted = normalised(name)
        base = PurePosixPath(wanted).name
        rows = self.files.get(wanted) or self.files.get(base) or []
        if len(rows) > 1 and "/" in wanted:
            rows = [row for row in rows if any(_ends_alike(path, wanted) for path in self._paths(row))] or rows
        train = [row for row in rows if self.dataset.examples[row].split == "train"]
        if len(train or rows) == 1:
            return (train or rows)[0]
        if rows:
            found = ", ".join(repr(self.dataset.examples[row].id) for row in rows[:3])
            return f"{name!r} may be any of {len(rows)} examples ({found}, ...); use the id"
        return f"{name!r} is not in the training split"

    def _paths(self, row: int) -> list[str]:
        example = self.dataset.examples[row]
        return [normalised(each) for each in (example.id, *example.images, *example.aliases)]

    @property
    def files(self) -> dict[str, list[int]]:
        """Rows of the examples with a path, a file name, or a file name without its ending."""
        if self._files is None:
            files: defaultdict[str, list[int]] = defaultdict(list)
            for row in range(len(self.dataset)):
                keys: dict[str, None] = {}
                for path in self._paths(row):
                    keys |= dict.fromkeys((path, PurePosixPath(path).name, PurePosixPath(path).stem))
                for key in keys:
                    files[key].append(row)
            self._files = dict(files)
        return self._files


def _ends_alike(path: str, wanted: str) -> bool:
    one, other = path.split("/"), wanted.split("/")
    length = min(len(one), len(other))
    return one[-length:] == other[-length:]


def named_pairs(dataset: Dataset, source: str, entries: Entries, notes: list[str]) -> Rows:
    """Text rows of the pairs that a list names, in its order.

    Args:
        dataset: The dataset.
        source: Name of the list, for messages.
        entries: Location and name of each entry.
        notes: Repeated entries are noted here.

    Raises:
        InputError: Names are unknown, ambiguous, or not of the training split.
    """
    names = Names(dataset)
    entries = [(location, _without_comment(location, name, names)) for location, name in entries]
    entries = [(location, name) for location, name in entries if name != ""]
    if not entries:
        raise InputError(f"{source} names no ids; expected at least one example to forget")
    owners: dict[int, str] = {}  # location where each pair was named
    problems: list[str] = []
    for location, name in entries:
        rows = names.pairs(name)
        if isinstance(rows, str):
            problems.append(f"{source}, {location}: {rows}{_hint(rows, name, dataset, first=not problems)}")
            continue
        repeated = [owners[row] for row in rows.tolist() if row in owners]
        if repeated:
            notes.append(f"{source}, {location}: {_shown(name)} was already named in {repeated[0]}")
        for row in rows.tolist():
            owners.setdefault(row, location)
    if len(entries) == 1 and problems and source == "ids" and isinstance(entries[0][1], str):
        problems = [f"there is no file {entries[0][1]} ({EXPECTED}), and {problems[0].removeprefix('ids, entry 1: ')}"]
    raise_all(problems, "lines" if entries[0][0].startswith("line") else "entries")
    return np.array(list(owners), dtype=np.int64)


def _hint(problem: str, name: Any, dataset: Dataset, *, first: bool) -> str:
    # The search for a similar id is slow: it is done for the first problem only.
    if not first or not problem.endswith("is not in the training split"):
        return ""
    return did_you_mean(
        name if isinstance(name, str) else name[0],
        [example.id for example in dataset.examples if example.split == "train"],
    )


def _without_comment(location: str, name: Any, names: Names) -> Any:
    """A line of a text file without its comment, unless all of the line is a name."""
    if not location.startswith("line") or not isinstance(name, str) or name in names.rows or name in names.texts:
        return name
    return "" if name.startswith("#") else re.split(r"\s#", name)[0].strip()


def _shown(name: Any) -> str:
    return repr(name) if isinstance(name, str) else f"the pair of {name[0]!r}"


def pair_names(dataset: Dataset, rows: Rows) -> tuple[str, ...]:
    """Names of pairs, in order: the id of an example whose texts are all among them, else ``ID#2`` for each pair."""
    own = dataset.text_examples[rows]
    counts = np.bincount(own, minlength=len(dataset))
    names: dict[str, None] = {}
    for row, example in zip(rows.tolist(), own.tolist(), strict=True):
        name = dataset.examples[example].id
        if counts[example] < dataset.text_counts[example]:
            name = f"{name}#{row - int(dataset.text_starts[example])}"
        names[name] = None
    return tuple(names)


def numbered_pairs(dataset: Dataset, rows: str | Path | Sequence[int], first: int | None) -> tuple[str, Rows]:
    """Name of a list of row numbers, and the training pairs with these numbers.

    Args:
        dataset: The dataset.
        rows: Numbers of training pairs in the order of the data, from 0, or a file with one in each line, as MU-Bench
            publishes its deletion sets.
        first: Only the first entries are used.

    Raises:
        InputError: An entry is no number of a training pair.
    """
    train = dataset.text_rows(dataset.rows("train"))
    listed = [number for row in dataset.rows("train").tolist() for number in dataset.examples[row].positions]
    row_of = dict(zip(listed or range(len(train)), train.tolist(), strict=True))
    largest = max(row_of)
    source = Path(rows).name if isinstance(rows, str | Path) else "rows"
    lines: Sequence[Any] = _lines(Path(rows)) if isinstance(rows, str | Path) else rows
    numbers: dict[int, None] = {}
    problems = []
    for number, line in enumerate(lines, start=1):
        text = str(line).strip()
        if not text:
            continue
        chosen = int(text) if text.isdecimal() else -1
        if chosen not in row_of:
            was = "was left out" if 0 <= chosen < largest else "is no number of a training pair"
            problems.append(f"{source}, line {number}: {text!r} {was}; expected 0 to {largest:,}")
        numbers[chosen] = None
    raise_all(problems, "lines")
    if not numbers:
        raise InputError(f"{source} has no numbers; expected at least one training pair to forget")
    return source, np.array([row_of[chosen] for chosen in numbers][:first], dtype=np.int64)
