"""Writing a dataset as a folder with ``manifest.jsonl`` and images."""

from __future__ import annotations

import io
import re
from pathlib import Path
from typing import TYPE_CHECKING

from PIL import Image

from multidelete.data.images import FORMATS, read_image
from multidelete.data.manifest import write_manifest
from multidelete.data.stores import Files, Folder
from multidelete.utils.errors import InputError
from multidelete.utils.files import is_empty, write_atomically

if TYPE_CHECKING:
    from multidelete.data.dataset import Dataset


def save(dataset: Dataset, folder: Path) -> None:
    """See :meth:`Dataset.save`."""
    if folder.exists() and not folder.is_dir():
        raise InputError(f"{folder} is a file; expected a new or empty folder to write the dataset to")
    if not is_empty(folder):
        raise InputError(f"{folder} is not empty; a dataset is written to a new or empty folder only")
    try:
        with write_atomically(folder.resolve()) as part:
            _write(dataset, part)
    except OSError as error:
        raise InputError(f"cannot write the dataset to {folder}: {error.strerror or error}") from error


def _write(dataset: Dataset, folder: Path) -> None:
    names = _names_to_write(dataset)
    if dataset.graph is not None:
        dataset.graph.save(folder)
    elif dataset.pixels is None:
        for number, file in enumerate(dataset.image_files()):
            content = read_image(file)
            if not _is_folder(dataset):
                names[number] = f"{names[number]}.{_ending(content)}"
            (folder / names[number]).parent.mkdir(parents=True, exist_ok=True)
            (folder / names[number]).write_bytes(content)
    else:
        pixels = dataset.pixels
        (folder / "images").mkdir(exist_ok=True)
        for image, name in zip(pixels.reshape(-1, *pixels.shape[2:]), names, strict=True):
            Image.fromarray(image).save(folder / name)
    count = len(names) // len(dataset)
    write_manifest(folder, dataset.examples, [names[row * count : (row + 1) * count] for row in range(len(dataset))])


def _is_folder(dataset: Dataset) -> bool:
    """Whether the pictures are files below one folder, whose names are kept."""
    return isinstance(dataset.store, Folder) and not isinstance(dataset.store, Files)


def _names_to_write(dataset: Dataset) -> list[str]:
    """Names of the image files, in the order of the examples; without ending where only the content says it."""
    if dataset.graph is not None:
        return []
    if _is_folder(dataset):
        given = [name for example in dataset.examples for name in example.images]
        below = all(name.startswith("images/") for name in given)
        return [name if below else f"images/{name}" for name in given]
    # Ids may contain characters that file names cannot, or differ in case only.
    ids = [Path(example.id).stem if dataset.store is not None else example.id for example in dataset.examples]
    plain = all(re.fullmatch(r"\w[\w.-]*", each, re.ASCII) for each in ids)
    plain = plain and len({each.lower() for each in ids}) == len(ids)
    stems = [each if plain else f"{row:08d}" for row, each in enumerate(ids)]
    count = dataset.images_per_example if dataset.store is None else len(dataset.examples[0].images)
    if count > 1:
        stems = [f"{stem}.{number}" for stem in stems for number in range(count)]
    return [f"images/{stem}" if dataset.store is not None else f"images/{stem}.png" for stem in stems]


def _ending(content: bytes) -> str:
    """Ending of the file name of an encoded picture."""
    with Image.open(io.BytesIO(content), formats=FORMATS) as image:
        return {"JPEG": "jpg", "MPO": "jpg", "TIFF": "tif"}.get(image.format or "", (image.format or "img").lower())
