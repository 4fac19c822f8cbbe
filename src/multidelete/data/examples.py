"""Examples: the items that a deletion request names, and the checks of what every reader returns."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Any

from multidelete.metrics.holdouts import HOLDOUTS
from multidelete.utils.errors import did_you_mean

Value = str | int | float | bool | None
NO_METADATA: Mapping[str, Any] = {}
SPLITS = ("train", "validation", "test")
ALL_SPLITS = (*SPLITS, *HOLDOUTS)

_KINDS = {str: "a string", list: "a list", dict: "an object", bool: "true or false", type(None): "null"}


@dataclass(frozen=True, slots=True)
class Example:
    """An image, several images that belong together, or two nodes of a graph, with their texts; deleted as one.

    Args:
        id: Unique in the dataset.
        split: One of ``ALL_SPLITS``.
        texts: Captions, hypotheses, statements or sentences, at least one.
        images: Paths of the image files below the dataset's image root; empty for generated pixels and for a graph.
        labels: The label of each text; empty in retrieval.
        nodes: Ids of the two nodes of the graph that the texts are about.
        panels: Pictures side by side in each image file, into which it is cut.
        group: Examples with the same group are sampled together and must be deleted together.
        text_ids: Id of each text, if texts have ids of their own (of captions, of rows of a table).
        metadata: Further facts by name: one value, or a tuple with one value for each text.
        positions: Number of each text among those of its split in the files that were read, from 0, if it is not the
            number among those of the examples.
        aliases: Other names of the picture: of files with the same content that were merged with it.
        source: Where the example was read, for messages: "manifest.jsonl, line 3".
    """

    id: str
    split: str
    texts: tuple[str, ...]
    images: tuple[str, ...] = ()
    labels: tuple[str, ...] = ()
    nodes: tuple[str, ...] = ()
    panels: int = 1
    group: str = ""
    text_ids: tuple[str, ...] = ()
    metadata: Mapping[str, Value | tuple[Value, ...]] = field(default_factory=lambda: NO_METADATA)
    positions: tuple[int, ...] = ()
    aliases: tuple[str, ...] = ()
    source: str = field(default="", compare=False, repr=False)

    def fact(self, name: str, number: int) -> Value:
        """Metadata of one of its texts; None if there is none with this name.

        Args:
            name: Name of the metadata.
            number: Index of the text.
        """
        value = self.metadata.get(name)
        return value[number] if isinstance(value, tuple) else value

    @property
    def pictures(self) -> int:
        """Number of pictures in the image files."""
        return len(self.images) * self.panels


def example_problem(example: Example) -> str | None:
    """The problem with the id, split, texts or labels of an example, or None."""
    if not example.id.strip():
        return "'id' is empty; expected a name that is unique in the dataset"
    if example.split not in ALL_SPLITS:
        return split_problem(example.split)
    if not example.texts:
        return f"example {example.id!r} has no texts; expected at least one"
    for number, text in enumerate(example.texts, start=1):
        if not text.strip():
            return f"text {number} of example {example.id!r} is blank; expected words"
    if example.labels and len(example.labels) != len(example.texts):
        return (
            f"example {example.id!r} has {len(example.texts)} texts and {len(example.labels)} labels; "
            "expected one for each text"
        )
    if any(not label.strip() for label in example.labels):
        return f"a label of example {example.id!r} is blank; expected the name of a class"
    if example.text_ids and len(example.text_ids) != len(example.texts):
        return f"example {example.id!r} has {len(example.texts)} texts and {len(example.text_ids)} ids of texts"
    if example.panels < 1:
        return f"example {example.id!r} has {example.panels} panels; expected at least 1"
    try:
        "".join((example.id, *example.images, *example.texts, *example.labels, *example.nodes, example.group)).encode()
    except UnicodeEncodeError:
        return "holds half of a surrogate pair, which is not valid Unicode; was a text cut inside a character?"
    return None


def path_problem(image: str) -> str | None:
    """The problem with a relative image path, or None; the file itself is not looked for."""
    if not image:
        return "the image path is empty; expected the path of the image file"
    if "\0" in image:
        return f"image path {image!r} holds a null character, which no path can"
    if PurePosixPath(image).is_absolute() or PureWindowsPath(image).anchor:
        return f"image path {image!r} is absolute; expected a path below the folder of the images"
    if ".." in PurePosixPath(image).parts or ".." in PureWindowsPath(image).parts:
        return f"image path {image!r} leaves the folder of the images; expected a path without '..'"
    return None


def images_problem(example: Example, root: Path | None = None) -> str | None:
    """The problem with the image paths of an example, or None; with ``root``, the files must exist."""
    if not example.images:
        return path_problem("")
    problems = (path_problem(name) if root is None else image_problem(root, name) for name in example.images)
    return next(filter(None, problems), None)


def image_problem(root: Path, image: str) -> str | None:
    """The problem with the path of an image or a missing file, or None; the file is not opened."""
    problem = path_problem(image)
    if problem is None and not (root / image).is_file():
        problem = f"image {image!r} is not a file in {root}"
    return problem


def split_problem(split: str) -> str:
    """The message for a split that is not one of ``SPLITS``."""
    hint = "; did you mean 'validation'?" if split.lower() in ("val", "dev") else did_you_mean(split, SPLITS)
    return f"unknown split {split!r}, expected 'train', 'validation' or 'test'{hint}"


def json_problem(error: ValueError | RecursionError) -> str:
    """The problem with a line that is not JSON."""
    if isinstance(error, json.JSONDecodeError):
        return f"is not valid JSON ({error.msg}, column {error.colno}); was the line cut off?"
    return f"is not valid JSON ({error})"


def kind(value: object) -> str:
    """Name of the type of a JSON value."""
    return _KINDS.get(type(value), "a number")
