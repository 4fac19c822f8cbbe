"""Tables in text files: CSV, TSV, JSON, JSON lines, and the caption files of Flickr8k, Flickr30k and COCO."""

from __future__ import annotations

import csv
import io
import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

from multidelete.data.examples import json_problem, kind
from multidelete.data.readers.lines import json_content, numbered_lines, utf8_text
from multidelete.data.sources import Lines
from multidelete.utils.errors import InputError, raise_all

SEPARATORS = ",\t;|"
TOKEN = re.compile(r"([^\t]+)#(\d+)\t(.*)")  # Flickr8k.token.txt: "1000268201_693b08cb0e.jpg#0\tA child ..."
# The header of Flickr30k's results.csv, and its row that lacks a separator.
RESULTS = "image_name| comment_number| comment"
NO_SEPARATOR = re.compile(r"([^|]+)\|\s*(\d+)\s+([^|]+)")

csv.field_size_limit(1 << 28)


def rows_of(path: Path, notes: list[str]) -> Lines:
    """The rows of a table, read one after another.

    Args:
        path: A file with one of the names in ``SUFFIXES``.
        notes: Notes of rows that were read although they are malformed are appended here.

    Raises:
        InputError: The file cannot be read as a table.
    """
    return SUFFIXES[path.suffix.lower()](path, notes)


def _delimited(path: Path, notes: list[str]) -> Lines:
    """A table with a header, whose separator is found from it, or one of the caption files without."""
    text = utf8_text(path)
    lines = numbered_lines(path, text)
    first = lines[0][1]
    if TOKEN.fullmatch(first):
        return _tokens(lines)
    if first.replace(" ", "") == RESULTS.replace(" ", ""):
        return _results(lines, notes)
    separator = max(SEPARATORS, key=first.count)
    if not first.count(separator):
        raise InputError(
            f"{lines[0][0]}: expected a header with the names of columns, separated by commas or tabs, got {first!r}"
        )
    return _tsv(lines) if separator == "\t" else _csv(path, text, separator)


def _csv(path: Path, text: str, separator: str) -> Lines:
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=separator, strict=True)
    header: list[str] = []
    while True:
        where = f"{path}, line {reader.line_num + 1}"
        try:
            fields = next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            hint = "; is a quote not closed?" if "end of data" in str(error) else ""
            yield where, f"is not valid CSV ({error}){hint}"
            continue
        if not fields or not any(field.strip() for field in fields):
            continue
        if not header:
            header = [field.strip() for field in fields]
            continue
        yield where, _record(header, fields)


def _tsv(lines: list[tuple[str, str]]) -> Lines:
    """Tab-separated values; quotes are a part of a value, unless they enclose it."""
    header = [name.strip() for name in lines[0][1].split("\t")]
    for where, line in lines[1:]:
        yield where, _record(header, [_unquoted(field) for field in line.split("\t")])


def _unquoted(field: str) -> str:
    enclosed = len(field) > 1 and field[0] == field[-1] == '"'
    return field[1:-1].replace('""', '"') if enclosed else field


def _record(header: list[str], fields: list[str]) -> dict[str, Any] | str:
    if len(fields) == len(header):
        return dict(zip(header, fields, strict=True))
    names = ", ".join(header)
    hint = "put quotes around a text with commas" if len(fields) > len(header) else "was the line cut off?"
    return f"expected {len(header)} columns as in the header ({names}), got {len(fields)}; {hint}"


def _tokens(lines: list[tuple[str, str]]) -> Lines:
    for where, line in lines:
        match = TOKEN.fullmatch(line)
        if match is None:
            yield where, "expected 'image.jpg#0', a tab and a caption; was the line cut off?"
        else:
            yield where, {"image": match[1], "id": f"{match[1]}#{match[2]}", "text": match[3]}


def _results(lines: list[tuple[str, str]], notes: list[str]) -> Lines:
    for where, line in lines[1:]:
        fields = [field.strip() for field in line.split("|")]
        if len(fields) != 3 and (match := NO_SEPARATOR.fullmatch(line)):
            fields = [match[1].strip(), match[2], match[3].strip()]
            notes.append(f"{where}: a separator is missing; read as caption {match[2]} of {fields[0]}")
        if len(fields) != 3 or not fields[1].isdecimal():
            yield where, f"expected {RESULTS.replace('|', ' |')}, got {line!r}"
        else:
            yield where, {"image": fields[0], "id": f"{fields[0]}#{fields[1]}", "text": fields[2]}


def _json_lines(path: Path, notes: list[str]) -> Lines:
    for where, line in numbered_lines(path):
        try:
            record = json.loads(line)
        except (ValueError, RecursionError) as error:
            yield where, json_problem(error)
            continue
        yield where, record if isinstance(record, dict) else f"expected an object, got {kind(record)}"


def _json(path: Path, notes: list[str]) -> Lines:
    """A list of objects, alone or as the only list of an object; or captions in the format of COCO."""
    content = json_content(path)
    if is_coco(content):
        return _coco(path, content)
    lists = [each for each in content.values() if isinstance(each, list)] if isinstance(content, dict) else [content]
    if len(lists) != 1 or not isinstance(lists[0], list):
        raise InputError(f"{path} is no table; expected a list of objects, or the captions of COCO")
    return (
        (f"{path}, entry {number}", each if isinstance(each, dict) else f"expected an object, got {kind(each)}")
        for number, each in enumerate(lists[0], start=1)
    )


def is_coco(content: Any) -> bool:
    """Whether JSON is in the format of COCO's annotations."""
    return isinstance(content, dict) and all(isinstance(content.get(key), list) for key in ("images", "annotations"))


def _coco(path: Path, content: dict[str, Any]) -> Lines:
    names: dict[Any, str] = {}
    problems = []
    for number, image in enumerate(content["images"]):
        if not isinstance(image, dict) or not isinstance(image.get("file_name"), str) or "id" not in image:
            problems.append(f"{path}, images[{number}]: expected an object with 'id' and 'file_name'")
        else:
            names[image["id"]] = image["file_name"]
    raise_all(problems, "images")
    for number, annotation in enumerate(content["annotations"]):
        where = f"{path}, annotations[{number}]"
        if not isinstance(annotation, dict) or "image_id" not in annotation or "caption" not in annotation:
            yield where, "expected an object with 'image_id' and 'caption'; are these captions (captions_*.json)?"
        elif annotation["image_id"] not in names:
            yield where, f"image_id {annotation['image_id']!r} is none of the ids in 'images'"
        else:
            further = {key: value for key, value in annotation.items() if key not in ("id", "caption")}
            name = names[annotation["image_id"]]
            found = {"image": name, "text": annotation["caption"], **further}
            yield where, {**found, "id": annotation["id"]} if "id" in annotation else found


SUFFIXES: dict[str, Callable[[Path, list[str]], Lines]] = {
    ".csv": _delimited,
    ".tsv": _delimited,
    ".txt": _delimited,
    ".token": _delimited,
    ".jsonl": _json_lines,
    ".ndjson": _json_lines,
    ".json": _json,
}
