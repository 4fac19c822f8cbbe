"""The Karpathy split file, the format of the Flickr8K, Flickr30K and COCO captions."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from multidelete.data.dataset import Dataset
from multidelete.data.examples import Example, example_problem, images_problem, kind, path_problem
from multidelete.data.layouts import reader
from multidelete.data.readers.lines import json_content
from multidelete.data.unusable import Unusable
from multidelete.utils.errors import InputError, did_you_mean

OF_DATASETS = ("dataset_dict.json", "dataset_info.json", "dataset_infos.json")  # of Hugging Face datasets
_SPLITS = {"train": "train", "restval": "train", "val": "validation", "test": "test"}


def find_split_files(root: Path) -> list[Path]:
    """The split files in a folder."""
    return sorted(path for path in root.glob("dataset_*.json") if path.is_file() and path.name not in OF_DATASETS)


def holds_karpathy(root: Path) -> bool:
    """Whether a folder has a split file."""
    return bool(find_split_files(root))


@reader(layout="a Karpathy split file dataset_*.json", detects=holds_karpathy, files=("dataset_*.json",))
def karpathy(root: str | Path, file: str | None = None, images: str | None = None, unusable: str = "error") -> Dataset:
    """Images with their captions from a Karpathy split file; an example's id is its file name.

    Images are looked for in ``images/``, ``<name>-images/`` (Flickr30K) and the folder of the split file, below the
    entry's ``filepath`` if it has one (COCO). COCO's ``restval`` is training data.

    Args:
        root: Folder with the split file and the images.
        file: The split file, below ``root``; by default the only ``dataset_*.json``.
        images: Folder with the images, below ``root``; by default one of those above.
        unusable: "error" or "drop": treatment of entries that cannot be used, such as those whose image is missing.
    """
    root = Path(root)
    path = _split_file(root, file)
    name = path.stem.removeprefix("dataset_")
    entries = _entries(path)
    examples: list[Example] = []
    left_out = Unusable(unusable, "entries")
    first_entries: dict[str, int] = {}
    for number, entry in enumerate(entries):
        example = _parse_entry(entry)
        problem = example if isinstance(example, str) else None
        if isinstance(example, Example):
            if example.id in first_entries:
                problem = f"filename {example.id!r} was already used in images[{first_entries[example.id]}]"
            else:
                first_entries[example.id] = number
                examples.append(replace(example, source=f"{path}, images[{number}]"))
        if problem:
            left_out.add(f"{path}, images[{number}]", problem)
    left_out.check()
    if not any(example.split == "train" for example in examples):
        raise InputError(f"{path} has no entry with the split 'train': nothing could be learned")

    folder = _image_folder(root, name, images, examples)
    found = []
    for example in examples:
        if problem := images_problem(example, folder):
            left_out.add(example.source, problem)
        else:
            found.append(example)
    left_out.check()
    return Dataset(name, found, root=folder, notes=left_out.notes)


def _split_file(root: Path, file: str | None) -> Path:
    if not root.is_dir():
        what = "is a file" if root.exists() else "does not exist"
        raise InputError(f"{root} {what}; expected a folder with a split file dataset_*.json and images")
    files = find_split_files(root)
    if file is not None:
        if not (root / file).is_file():
            hint = did_you_mean(file, [path.name for path in files])
            raise InputError(f"{root} has no file {file!r}{hint}")
        return root / file
    if not files:
        raise InputError(f"{root} has no split file; expected one dataset_*.json in it")
    if len(files) > 1:
        names = ", ".join(path.name for path in files)
        raise InputError(f"{root} has {len(files)} split files ({names}); name one of them with file=")
    return files[0]


def _entries(path: Path) -> list[object]:
    content = json_content(path)
    entries = content.get("images") if isinstance(content, dict) else None
    if not isinstance(entries, list):
        raise InputError(f"{path} is no Karpathy split file; expected an object with the list 'images'")
    if not entries:
        raise InputError(f"{path} lists no images; expected one entry per image in 'images'")
    return entries


def _parse_entry(entry: object) -> Example | str:
    """The example of an entry of the split file, or the problem with the entry."""
    if not isinstance(entry, dict):
        return f"expected an object with filename, split and sentences, got {kind(entry)}"
    for key in ("filename", "split", "sentences"):
        if key not in entry:
            return f"the key {key!r} is missing{did_you_mean(key, [*entry])}"
    for key in ("filename", "split", "filepath"):
        if not isinstance(entry.get(key, ""), str):
            return f"{key!r} must be a string, got {kind(entry[key])}"
    if entry["split"] not in _SPLITS:
        hint = did_you_mean(entry["split"], _SPLITS)
        return f"unknown split {entry['split']!r}, expected {', '.join(_SPLITS)}{hint}"
    if not isinstance(entry["sentences"], list):
        return f"'sentences' must be a list, got {kind(entry['sentences'])}"
    texts = []
    for number, sentence in enumerate(entry["sentences"]):
        raw = sentence.get("raw") if isinstance(sentence, dict) else None
        if not isinstance(raw, str):
            return f"sentences[{number}] has no text; expected an object with the string 'raw'"
        texts.append(raw)
    filename, filepath = entry["filename"], entry.get("filepath", "")
    image = f"{filepath}/{filename}" if filepath else filename
    if not filename.strip():
        return "'filename' is empty; expected the name of the image file"
    example = Example(filename, _SPLITS[entry["split"]], tuple(texts), (image,))
    return path_problem(image) or example_problem(example) or example


def _image_folder(root: Path, name: str, images: str | None, examples: Sequence[Example]) -> Path:
    if images is not None:
        if not (root / images).is_dir():
            raise InputError(f"{root} has no folder {images!r}; expected the folder with the images")
        return root / images
    folders = [root / "images", root / f"{name}-images", root]
    for folder in folders:
        if folder.is_dir() and any((folder / example.images[0]).is_file() for example in examples):
            return folder
    looked = ", ".join(str(folder) for folder in folders)
    raise InputError(
        f"none of the {len(examples):,} images exists (looked in {looked}); name their folder with images="
    )
