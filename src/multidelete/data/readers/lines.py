"""Helpers of readers of line-based formats: numbered lines, examples built from lines, image files by name."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from multidelete.data.examples import Example, example_problem, json_problem, kind, path_problem
from multidelete.data.unusable import Unusable
from multidelete.utils.errors import InputError, did_you_mean


def file_in(root: Path, *names: str, hint: str = "") -> Path:
    """The first of these files that exists.

    Args:
        root: The folder with the data.
        names: Possible names of the file, below ``root``; the first is the official one.
        hint: End of the error message.
    """
    if not root.is_dir():
        raise InputError(f"{root} {'is a file' if root.exists() else 'does not exist'}; expected a folder with data")
    for name in names:
        if (root / name).is_file():
            return root / name
    raise InputError(f"{root} has no file {' or '.join(repr(name) for name in names)}{hint}")


def utf8_text(path: Path) -> str:
    """The content of a text file.

    Raises:
        InputError: It cannot be read, or is not UTF-8.
    """
    try:
        content = path.read_bytes()
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error.strerror or error}") from error
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        number = content.count(b"\n", 0, error.start) + 1
        raise InputError(f"{path}, line {number}: is not UTF-8; save the file as UTF-8") from error


def numbered_lines(path: Path, text: str | None = None) -> list[tuple[str, str]]:
    """The lines of a file that are not blank, as (location, line), with locations like "path, line 3".

    Args:
        path: The file.
        text: Its content, if it was read.
    """
    text = utf8_text(path) if text is None else text
    # Not splitlines(), which also splits at characters that a sentence may contain.
    lines = [
        (f"{path}, line {number}", line.removesuffix("\r"))
        for number, line in enumerate(text.split("\n"), start=1)
        if line.strip()
    ]
    if not lines:
        raise InputError(f"{path} is empty; expected one example per line")
    return lines


def json_content(path: Path) -> Any:
    """The content of a JSON file."""
    try:
        content = path.read_bytes()
        if not content.strip():
            raise InputError(f"{path} is empty")
        return json.loads(content.decode("utf-8-sig"))
    except UnicodeDecodeError as error:
        raise InputError(f"{path} is not UTF-8; save the file as UTF-8") from error
    except json.JSONDecodeError as error:
        raise InputError(f"{path} is not valid JSON ({error.msg}, line {error.lineno}); was it cut off?") from error
    except (ValueError, RecursionError) as error:
        raise InputError(f"{path} is not valid JSON ({error})") from error


def json_lines(
    path: Path, keys: Mapping[str, tuple[type, ...]], unusable: Unusable
) -> Iterator[tuple[int, str, dict[str, Any]]]:
    """The objects in a file of JSON lines, as (number among the lines from 0, location, object).

    Args:
        path: The file.
        keys: Required keys of each object, with the types allowed for the value.
        unusable: Lines without such an object are noted there.
    """
    for number, (where, line) in enumerate(numbered_lines(path)):
        record = _parse(line, keys)
        if isinstance(record, str):
            unusable.add(where, record)
        else:
            yield number, where, record


def _parse(line: str, keys: Mapping[str, tuple[type, ...]]) -> dict[str, Any] | str:
    """The object in a line, or the problem with the line."""
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
    """The rows of a table with a header, as (location, row), or (location, problem) for an invalid row.

    Args:
        path: A tab-separated file without quotes.
        columns: Required columns, in any order.
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
    """The identifier in the first line of the first of these files that exists, or an empty string."""
    for name in names:
        if (root / name).is_file():
            with (root / name).open("rb") as file:
                result = re.search(rb'"identifier"\s*:\s*"([^"]*)"', file.readline(1 << 20))
            return result[1].decode(errors="replace") if result else ""
    return ""


def truth(value: object) -> str | None:
    """``"true"`` or ``"false"`` for a truth value in any spelling, else None."""
    word = str(value).lower()
    return word if word in ("true", "false") else None


class ExampleBuilder:
    """Builds examples line by line and collects the problems of the lines.

    Args:
        unusable: "error" or "drop": what is done with lines that cannot be used.

    Attributes:
        unusable: The lines that cannot be used, in order.
    """

    def __init__(self, unusable: str = "error") -> None:
        self.unusable = Unusable(unusable)
        self._examples: dict[str, Example] = {}
        self._lines: dict[str, str] = {}
        self._keys: dict[tuple[str, str, str], str] = {}

    @property
    def examples(self) -> tuple[Example, ...]:
        """The examples, in the order of their first lines.

        Raises:
            InputError: A line is invalid.
        """
        self.unusable.check()
        return tuple(self._examples.values())

    def is_new(self, where: str, what: str, key: str, scope: str = "") -> bool:
        """Whether no earlier line has the same key; a repeated key is added to the problems.

        Args:
            where: Location of the line.
            what: Name of the key in the message.
            key: The key, which must be unique.
            scope: Part of the dataset in which the key must be unique; by default all of it.
        """
        full = (what, scope, key)
        if full in self._keys:
            self.unusable.add(where, f"{what} {key!r} was already used in {self._keys[full]}")
            return False
        self._keys[full] = where
        return True

    def add(self, where: str, example: Example, problem: str | None = None) -> None:
        """Add the example of a line; texts and labels are appended to those of earlier lines with the same id.

        Args:
            where: Location of the line.
            example: The example with the texts and labels of this line.
            problem: A problem with the line that the caller has detected.
        """
        problem = problem or example_problem(example)
        known = self._examples.get(example.id)
        if problem is None and known is not None and known.split != example.split:
            problem = (
                f"{example.id!r} is in the {example.split} split here, but in the {known.split} split in "
                f"{self._lines[example.id]}; expected it in one of them"
            )
        if problem is not None:
            self.unusable.add(where, problem)
        elif known is None:
            self._examples[example.id], self._lines[example.id] = replace(example, source=where), where
        else:
            self._examples[example.id] = replace(
                known,
                texts=known.texts + example.texts,
                labels=known.labels + example.labels,
                positions=known.positions + example.positions,
            )


class ImageFiles:
    """Index of the files in a folder and its subfolders by file name.

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
        """Path, below the folder, of the image with this file name; the name itself if :meth:`problem` is not None."""
        return self._paths.get(name, [name])[0]

    def problem(self, name: str) -> str | None:
        """The problem with the image of this file name (missing or ambiguous), or None."""
        paths = self._paths.get(name, [])
        if len(paths) > 1:
            return (
                f"image {name!r} is in {self.root} more than once ({', '.join(paths)}); "
                "name the right folder with images="
            )
        if not paths:
            return path_problem(name) or f"image {name!r} is not a file in {self.root} or the folders below it"
        return None


def image_files(root: Path, images: str | None) -> ImageFiles:
    """The image files of a dataset, in the folder ``images`` or anywhere below ``root``."""
    if images is not None and not (root / images).is_dir():
        raise InputError(f"{root} has no folder {images!r}; expected the folder with the images")
    return ImageFiles(root / images if images is not None else root)
