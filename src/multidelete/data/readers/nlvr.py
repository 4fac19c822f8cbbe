"""NLVR: true or false statements about drawings of three boxes with coloured shapes (Suhr et al., 2017)."""

from __future__ import annotations

import re
from pathlib import Path

from multidelete.data.dataset import Dataset
from multidelete.data.examples import Example, kind
from multidelete.data.layouts import reader
from multidelete.data.readers.lines import ExampleBuilder, file_in, first_identifier, image_files, json_lines, truth
from multidelete.utils.errors import InputError

FILES = {"train": "train", "validation": "dev", "test": "test"}
ARRANGEMENTS = 6
IDENTIFIER = re.compile(r"\d+-\d+", re.ASCII)

_KEYS = {"identifier": (str,), "sentence": (str,), "label": (str, bool)}


def holds_nlvr(root: Path) -> bool:
    """Whether the first identifier has the form of NLVR."""
    names = [file for name in FILES.values() for file in (f"{name}.json", f"{name}/{name}.json")]
    return IDENTIFIER.fullmatch(first_identifier(root, names)) is not None


@reader(
    layout='train.json with identifiers like "1-0"', detects=holds_nlvr, files=("train.json", "dev.json", "test*.json")
)
def nlvr(
    root: str | Path,
    images: str | None = None,
    boxes: int = 3,
    arrangements: int = ARRANGEMENTS,
    unusable: str = "error",
) -> Dataset:
    """NLVR: drawings of three boxes with a statement, true or false; an example is one image, as "train-2321-0-5".

    The same three boxes are drawn in six orders. The six images of a line make a group: they are deleted together.

    Args:
        root: Folder with ``train.json``, ``dev.json`` and ``test.json``, or ``train/train.json`` and so on.
        images: Folder of the images, below ``root``; by default ``root`` and its subfolders are searched.
        boxes: 3 splits an image into its boxes, one picture each; 1 keeps it as one picture.
        arrangements: Number of the six orders to read.
        unusable: "error" or "drop": treatment of lines that cannot be used, such as those whose images are missing.
    """
    if boxes not in (1, 3):
        raise InputError(f"boxes is 3 (each box a picture) or 1 (the image as one picture), got {boxes}")
    if not 1 <= arrangements <= ARRANGEMENTS:
        raise InputError(f"arrangements is a number from 1 to {ARRANGEMENTS}, got {arrangements}")
    root = Path(root)
    paths = {split: file_in(root, f"{name}.json", f"{name}/{name}.json") for split, name in FILES.items()}
    files = image_files(root, images)
    builder = ExampleBuilder(unusable)
    for split, path in paths.items():
        for _, where, line in json_lines(path, _KEYS, builder.unusable):
            identifier, label = line["identifier"], truth(line["label"])
            # The official release names no files: they follow from the identifier.
            named = line.get("images", [f"{FILES[split]}-{identifier}-{k}.png" for k in range(ARRANGEMENTS)])
            problem = _line_problem(identifier, line["label"], named)
            if problem is not None:
                builder.unusable.add(where, problem)
                continue
            if not builder.is_new(where, "identifier", identifier, scope=split):
                continue
            for name in named[:arrangements]:
                stem = Path(name).stem
                if not builder.is_new(where, "image", stem):
                    break
                if missing := files.problem(name):
                    builder.unusable.add(where, missing)
                    break
                example = Example(
                    id=stem,
                    split=split,
                    texts=(line["sentence"],),
                    images=(files.path(name),),
                    labels=(label or "",),
                    panels=boxes,
                    group=f"{FILES[split]}-{identifier}",
                )
                builder.add(where, example)
    return Dataset("nlvr", builder.examples, root=files.root, notes=builder.unusable.notes)


def _line_problem(identifier: str, label: object, images: object) -> str | None:
    if not IDENTIFIER.fullmatch(identifier):
        return f"identifier {identifier!r} is not one of NLVR; expected set and position, as in '2321-0'"
    if truth(label) is None:
        return f"unknown label {label!r}, expected 'true' or 'false'"
    if not isinstance(images, list):
        return f"'images' must be a list, got {kind(images)}"
    if not all(isinstance(name, str) for name in images):
        return "'images' must be a list of file names"
    if len(images) != ARRANGEMENTS:
        return f"'images' names {len(images)} files, expected {ARRANGEMENTS}, one for each order of the boxes"
    return None
