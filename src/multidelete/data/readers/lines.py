"""What the readers of line by line formats share: numbered lines, examples gathered from them, image files by name."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from multidelete.data.examples import Example, example_problem, json_problem, kind, path_problem, raise_first
from multidelete.utils.errors import InputError, did_you_mean


def file_in(root: Path, *names: str, hint: str = "") -> Path:
    """The first of these files that the folder has.

    Args:
        root: The folder with the data.
        names: What the file may be called, below ``root``; the first is the official name.
        hint: What else helps where there is none.
    """
    if not root.is_dir():
        raise InputError(f"{root} {'is a file' if root.exists() else 'does not exist'}; expected a folder with data")
    for name in names:
        if (root / name).is_file():
            return root / name
    raise InputError(f"{root} has no file {' or '.join(repr(name) for name in names)}{hint}")


def numbered_lines(path: Path) -> list[tuple[str, str]]:
    """The lines of a file that are not blank, each with where it stands ("path, line 3")."""
    try:
        content = path.read_bytes()
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error.strerror or error}") from error
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        number = content.count(b"\n", 0, error.start) + 1
        raise InputError(f"{path}, line {number}: is not UTF-8; save the file as UTF-8") from error
    # Not splitlines(), which also cuts at characters that a sentence may hold.
    lines = [
        (f"{path}, line {number}", line.removesuffix("\r"))
        for number, line in enumerate(text.split("\n"), start=1)
        if line.strip()
    ]
    if not lines:
        raise InputError(f"{path} is empty; expected one example per line")
    return lines


def json_lines(path: Path, keys: Mapping[str, tuple[type, ...]]) -> list[tuple[str, dict[str, Any]]]:
    """The objects in a file of JSON lines, each with where it stands.

    Args:
        path: The file.
        keys: What each object must hold, and the types that the value may have.
    """
    records = []
    problems = []
    for where, line in numbered_lines(path):
        record = _parse(line, keys)
        if isinstance(record, str):
            problems.append(f"{where}: {record}")
        else:
            records.append((where, record))
    raise_first(problems, "lines")
    return records


def _parse(line: str, keys: Mapping[str, tuple[type, ...]]) -> dict[str, Any] | str:
    """The object that a line holds, or what is wrong with the line."""
    try:
        record = json.loads(line)
    except (ValueError, RecursionError) as error:
        return json_problem(error)
    if not isinstance(record, dict):
        return f"expected an object with {', '.join(keys)}, got {kind(record)}"
    for key, types in keys.items():
        if key not in record:
            return f"the key {key!r} is missing{did_you_mean(key, record)}"
        if type(record[key]) not in types:
            expected = " or ".join(kind(one()) for one in types)
            return f"{key!r} must be {expected}, got {kind(record[key])}"
    return record


def tsv_lines(path: Path, columns: Sequence[str]) -> Iterator[tuple[str, dict[str, str] | str]]:
    """The rows of a table with a header, each with where it stands; in place of a row, what is wrong with it.

    Args:
        path: The file: tab-separated, without quotes.
        columns: What the header must name, in any order.
    """
    (where, first), *lines = numbered_lines(path)
    header = first.split("\t")
    for column in columns:
        if column not in header:
            raise InputError(f"{where}: the header has no column {column!r}{did_you_mean(column, header)}")
    if not lines:
        raise InputError(f"{path} has a header only; expected one example per line")
    for where, line in lines:
        fields = line.split("\t")
        if len(fields) == len(header):
            yield where, dict(zip(header, fields, strict=True))
        else:
            yield where, f"expected {len(header)} columns as in the header, got {len(fields)}; was the line cut off?"


def first_identifier(root: Path, names: Sequence[str]) -> str:
    """The identifier in the first line of the first of these files that there is; empty where there is none."""
    for name in names:
        if (root / name).is_file():
            with (root / name).open("rb") as file:
                result = re.search(rb'"identifier"\s*:\s*"([^"]*)"', file.readline(1 << 20))
            return result[1].decode(errors="replace") if result else ""
    return ""


def truth(value: object) -> str | None:
    """``"true"`` or ``"false"``, however it was written; None where it is neither."""
    word = str(value).lower()
    return word if word in ("true", "false") else None


class Gathered:
    """Examples that grow line by line, and what is wrong with the lines.

    Attributes:
        problems: One sentence for each wrong line, in order.
    """

    def __init__(self) -> None:
        self.problems: list[str] = []
        self._examples: dict[str, Example] = {}
        self._lines: dict[str, str] = {}
        self._keys: dict[tuple[str, str, str], str] = {}

    @property
    def examples(self) -> tuple[Example, ...]:
        """The examples, in the order of their first lines.

        Raises:
            InputError: There is a problem.
        """
        raise_first(self.problems, "lines")
        return tuple(self._examples.values())

    def is_new(self, where: str, what: str, key: str, scope: str = "") -> bool:
        """Whether no line before this one had the same key; it is a problem where one had.

        Args:
            where: The line.
            what: What the key is called.
            key: What only one line may have.
            scope: Part of the dataset within which it may not be repeated; by default all of it.
        """
        full = (what, scope, key)
        if full in self._keys:
            self.problems.append(f"{where}: {what} {key!r} was already used in {self._keys[full]}")
            return False
        self._keys[full] = where
        return True

    def add(self, where: str, example: Example, problem: str | None = None) -> None:
        """Take in what a line says of an example: its texts join those of earlier lines.

        Args:
            where: The line.
            example: With the texts and labels of this line alone.
            problem: What is already known to be wrong with the line.
        """
        problem = problem or example_problem(example)
        known = self._examples.get(example.id)
        if problem is None and known is not None and known.split != example.split:
            problem = (
                f"{example.id!r} is in the {example.split} split here, but in the {known.split} split in "
                f"{self._lines[example.id]}; expected it in one of them"
            )
        if problem is not None:
            self.problems.append(f"{where}: {problem}")
        elif known is None:
            self._examples[example.id], self._lines[example.id] = example, where
        else:
            self._examples[example.id] = replace(
                known, texts=known.texts + example.texts, labels=known.labels + example.labels
            )


class ImageFiles:
    """The files in a folder and the folders below it, listed once and found by their names.

    Args:
        root: The folder.

    Attributes:
        root: The folder.
    """

    def __init__(self, root: Path) -> None:
        self.root = root
        self._paths: dict[str, list[str]] = {}
        seen: set[str] = set()
        for folder, subfolders, names in os.walk(root, followlinks=True):
            subfolders.sort()
            real = os.path.realpath(folder)
            if real in seen:  # a link may lead back to a folder above it
                subfolders.clear()
                continue
            seen.add(real)
            below = Path(os.path.relpath(folder, root)).as_posix()
            for name in names:
                self._paths.setdefault(name, []).append(name if below == "." else f"{below}/{name}")

    def __contains__(self, name: str) -> bool:
        return name in self._paths

    def path(self, name: str) -> str:
        """Path of the image with this file name, below the folder; the name itself where :meth:`problem` has one."""
        return self._paths.get(name, [name])[0]

    def problem(self, name: str) -> str | None:
        """What is wrong with the image of this file name, if anything."""
        result = self._paths.get(name, [])
        if len(result) > 1:
            places = ", ".join(result)
            return f"image {name!r} is in {self.root} more than once ({places}); name the right folder with images="
        if not result:
            return path_problem(name) or f"image {name!r} is not a file in {self.root} or the folders below it"
        return None


def image_files(root: Path, images: str | None) -> ImageFiles:
    """The image files of a dataset: in the folder that was named, or anywhere below its root."""
    if images is not None and not (root / images).is_dir():
        raise InputError(f"{root} has no folder {images!r}; expected the folder with the images")
    return ImageFiles(root / images if images is not None else root)
