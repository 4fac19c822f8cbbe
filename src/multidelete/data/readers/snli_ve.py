"""SNLI-VE: hypotheses that a photograph entails, contradicts or neither (Xie et al., 2019)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from multidelete.data.dataset import Dataset
from multidelete.data.examples import Example
from multidelete.data.layouts import reader
from multidelete.data.readers.lines import ExampleBuilder, ImageFiles, file_in, image_files, json_lines
from multidelete.utils.errors import InputError, did_you_mean

FILES = {"train": "snli_ve_train.jsonl", "validation": "snli_ve_dev.jsonl", "test": "snli_ve_test.jsonl"}
LABELS = ("entailment", "neutral", "contradiction")
UNDECIDED = "-"  # the annotators disagreed

_KEYS = {"Flickr30K_ID": (str,), "sentence2": (str,), "gold_label": (str,)}
_FOLDERS = ("flickr30k-images", "flickr30k_images", "images", "../flickr8k/images")


def holds_snli_ve(root: Path) -> bool:
    """Whether a folder has a file of SNLI-VE."""
    return any((root / file).is_file() for file in FILES.values())


@reader(layout="snli_ve_*.jsonl", detects=holds_snli_ve, files=("snli_ve_*.jsonl",))
def snli_ve(root: str | Path, images: str | None = None, unusable: str = "error") -> Dataset:
    """Visual entailment (SNLI-VE): photographs with hypotheses; an example is a photograph, its id the Flickr30K_ID.

    Lines without a gold label, on which the annotators disagreed, are left out.

    Args:
        root: Folder with ``snli_ve_train.jsonl``, ``snli_ve_dev.jsonl`` and ``snli_ve_test.jsonl``.
        images: Folder with the images ``<Flickr30K_ID>.jpg``, relative to ``root``; by default the first of
            ``flickr30k-images``, ``flickr30k_images``, ``images`` and ``../flickr8k/images`` that has any of them.
        unusable: "error" or "drop": treatment of lines that cannot be used, such as those whose images are missing.
    """
    root = Path(root)
    builder = ExampleBuilder(unusable)
    first_lines: dict[str, str] = {}
    for split, file in FILES.items():
        for number, where, line in json_lines(file_in(root, file), _KEYS, builder.unusable):
            # pairID is the id of the line, if the file has it.
            if "pairID" in line and not builder.is_new(where, "pairID", str(line["pairID"])):
                continue
            label, photo = line["gold_label"], line["Flickr30K_ID"]
            if label == UNDECIDED:
                continue
            problem = None
            if label not in LABELS:
                hint = did_you_mean(label, LABELS)
                problem = f"unknown label {label!r}, expected {', '.join(LABELS)} or {UNDECIDED!r}{hint}"
            example = Example(photo, split, (line["sentence2"],), (f"{photo}.jpg",), (label,), positions=(number,))
            first_lines.setdefault(photo, where)
            builder.add(where, example, problem)
    examples = builder.examples
    files = _image_files(root, images, examples)
    found = []
    for example in examples:
        if problem := files.problem(example.images[0]):
            builder.unusable.add(first_lines[example.id], problem)
        else:
            found.append(replace(example, images=(files.path(example.images[0]),)))
    builder.unusable.check()
    return Dataset("snli_ve", found, root=files.root, notes=builder.unusable.notes)


def _image_files(root: Path, images: str | None, examples: Sequence[Example]) -> ImageFiles:
    if images is not None:
        return image_files(root, images)
    folders = [root / folder for folder in _FOLDERS]
    for folder in folders:
        if folder.is_dir():
            files = ImageFiles(folder)
            if any(example.images[0] in files for example in examples):
                return files
    looked = ", ".join(str(folder) for folder in folders)
    raise InputError(
        f"none of the {len(examples):,} images exists (looked in {looked}); name their folder with images="
    )
