"""Reading and writing ``manifest.jsonl``: one example per line."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from multidelete.data.examples import NO_METADATA, Example, example_problem, images_problem, json_problem, kind
from multidelete.data.facts import fact
from multidelete.data.unusable import Unusable
from multidelete.models.graph import Graph
from multidelete.utils.errors import InputError, did_you_mean

MANIFEST = "manifest.jsonl"

_REQUIRED = ("id", "split", "texts")
_OPTIONAL = ("image", "images", "labels", "nodes", "panels", "group", "text_ids")
_KEYS = (*_REQUIRED, *_OPTIONAL)


def read_manifest(folder: Path, graph: Graph | None, unusable: Unusable) -> list[Example]:
    """Read and check the examples of ``manifest.jsonl``.

    Args:
        folder: Folder of the manifest; image paths start from here.
        graph: Graph of the examples' nodes; without it, every example must have images that exist.
        unusable: Lines that cannot be used are noted there.

    Raises:
        InputError: Lines are wrong; up to ten are named.
    """
    manifest = folder / MANIFEST
    examples: list[Example] = []
    first_lines: dict[str, int] = {}
    content = manifest.read_bytes().removeprefix(b"\xef\xbb\xbf")
    for number, line in enumerate(content.split(b"\n"), start=1):
        if not line.strip():
            continue
        example = _parse_line(line)
        problem = example if isinstance(example, str) else None
        if isinstance(example, Example):
            problem = graph.pair_problem(example.nodes) if graph else images_problem(example, folder)
            if example.id in first_lines:
                problem = f"id {example.id!r} was already used in line {first_lines[example.id]}"
            first_lines.setdefault(example.id, number)
            if problem is None:
                examples.append(replace(example, source=f"{manifest}, line {number}"))
        if problem:
            unusable.add(f"{manifest}, line {number}", problem)
    unusable.check()
    if not examples:
        raise InputError(f"{manifest} is empty; expected one line of JSON per example")
    if not any(example.split == "train" for example in examples):
        raise InputError(f"{manifest} has no line with the split 'train': nothing could be learned")
    return examples


def write_manifest(folder: Path, examples: Sequence[Example], images: Sequence[Sequence[str]]) -> None:
    """Write ``manifest.jsonl``.

    Args:
        folder: Folder to write it to.
        examples: One for each line.
        images: Paths of the image files of each example, from ``folder``.
    """
    with (folder / MANIFEST).open("w", encoding="utf-8", newline="\n") as lines:
        for example, names in zip(examples, images, strict=True):
            record: dict[str, Any] = {"id": example.id, "split": example.split, "texts": example.texts}
            if names:
                record |= {"image": names[0]} if len(names) == 1 else {"images": names}
            record |= {
                key: value for key in ("labels", "nodes", "group", "text_ids") if (value := getattr(example, key))
            }
            if example.panels > 1:
                record["panels"] = example.panels
            record |= {key: value for key, value in example.metadata.items() if key not in record}
            lines.write(json.dumps(record, ensure_ascii=False) + "\n")


def _parse_line(line: bytes) -> Example | str:
    """The example of a line of the manifest, or the problem with the line."""
    try:
        record = json.loads(line.decode())
    except UnicodeDecodeError:
        return "is not UTF-8; save the manifest as UTF-8"
    except (ValueError, RecursionError) as error:
        return json_problem(error)
    if not isinstance(record, dict):
        return f"expected a JSON object with {', '.join(_REQUIRED)}, got {kind(record)}"
    for key in record:
        if key not in _KEYS and (hint := did_you_mean(key, _KEYS)):
            return f"unknown key {key!r}, expected {', '.join(_KEYS)}{hint}"
    for key in _REQUIRED:
        if key not in record:
            return f"the key {key!r} is missing, expected {', '.join(_REQUIRED)}"
    if not {"image", "images", "nodes"} & record.keys():
        return "the key 'image' is missing, expected it, or 'images' (several), or 'nodes' (of a graph)"
    for key in ("id", "split", "image", "group"):
        if not isinstance(record.get(key, ""), str):
            return f"{key!r} must be a string, got {kind(record[key])}"
    for key in ("texts", "images", "labels", "nodes", "text_ids"):
        if not isinstance(values := record.get(key, []), list):
            return f"{key!r} must be a list of strings, got {kind(values)}"
        for number, value in enumerate(values, start=1):
            if not isinstance(value, str):
                return f"{key!r} must be a list of strings, but {key[:-1]} {number} is {kind(value)}"
    if type(panels := record.get("panels", 1)) is not int:
        return f"'panels' must be an integer, got {panels!r}"
    if "image" in record and "images" in record:
        return "has both 'image' and 'images'; expected one of them"
    images = [record["image"]] if "image" in record else record.get("images", [])
    example = Example(
        record["id"],
        record["split"],
        tuple(record["texts"]),
        tuple(images),
        tuple(record.get("labels", [])),
        tuple(record.get("nodes", [])),
        panels,
        record.get("group", ""),
        metadata={key: fact(value) for key, value in record.items() if key not in _KEYS} or NO_METADATA,
        text_ids=tuple(record.get("text_ids", [])),
    )
    if wrong := [key for key, value in example.metadata.items() if _misfits(value, len(example.texts))]:
        return f"{wrong[0]!r} has another number of values than there are texts; expected one value, or one for each"
    return example_problem(example) or example


def _misfits(value: object, count: int) -> bool:
    return isinstance(value, tuple) and len(value) != count
