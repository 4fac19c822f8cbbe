"""NLVR2: true or false statements about two photographs (Suhr et al., 2019)."""

from __future__ import annotations

import re
from pathlib import Path

from multidelete.data.dataset import Dataset
from multidelete.data.examples import Example
from multidelete.data.layouts import reader
from multidelete.data.readers.lines import ExampleBuilder, file_in, first_identifier, image_files, json_lines, truth

FILES = {"train": ("train.json",), "validation": ("dev.json",), "test": ("test1.json", "test.json")}
IDENTIFIER = re.compile(r"(\w+-\d+-\d+)-\d+", re.ASCII)

_KEYS = {"identifier": (str,), "sentence": (str,), "label": (str, bool)}


def holds_nlvr2(root: Path) -> bool:
    """Whether the first identifier has the form of NLVR2."""
    return IDENTIFIER.fullmatch(first_identifier(root, sum(FILES.values(), ()))) is not None


@reader(
    layout='train.json with identifiers like "train-1-0-0"',
    detects=holds_nlvr2,
    files=("train.json", "dev.json", "test*.json"),
)
def nlvr2(root: str | Path, images: str | None = None, unusable: str = "error") -> Dataset:
    """NLVR2: pairs of photographs with statements, true or false; an example is a pair, as "dev-850-0".

    The two images of the pair are ``dev-850-0-img0.png`` and ``dev-850-0-img1.png``. They may lie in folders as the
    official release has them (``images/train/<directory>/``, ``dev/``, ``test1/``) or all in one.

    Args:
        root: Folder with ``train.json``, ``dev.json`` and ``test1.json`` (or ``test.json``).
        images: Folder of the images, below ``root``; by default ``root`` and its subfolders are searched.
        unusable: "error" or "drop": treatment of lines that cannot be used, such as those whose images are missing.
    """
    root = Path(root)
    builder = ExampleBuilder(unusable)
    paths = {split: file_in(root, *names) for split, names in FILES.items()}
    files = image_files(root, images)
    for split, path in paths.items():
        for number, where, line in json_lines(path, _KEYS, builder.unusable):
            match = IDENTIFIER.fullmatch(line["identifier"])
            if match is None:
                form = "expected split, set, pair and sentence, as in 'dev-850-0-0'"
                builder.unusable.add(where, f"identifier {line['identifier']!r} is not one of NLVR2; {form}")
                continue
            if not builder.is_new(where, "identifier", line["identifier"]):
                continue
            pair = match[1]
            label = truth(line["label"])
            names = [f"{pair}-img{side}.png" for side in (0, 1)]
            problem = next(filter(None, map(files.problem, names)), None)
            if problem is not None:
                problem += f"; a statement is about both images of the pair {pair!r}"
            if label is None:
                problem = f"unknown label {line['label']!r}, expected 'True' or 'False'"
            pictures = tuple(files.path(name) for name in names)
            example = Example(pair, split, (line["sentence"],), pictures, (label or "",), positions=(number,))
            builder.add(where, example, problem)
    return Dataset("nlvr2", builder.examples, root=files.root, notes=builder.unusable.notes)
