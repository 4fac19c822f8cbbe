"""Image files decoded and digested once, and kept where the next run finds them."""

from __future__ import annotations

import hashlib
import io
import json
import os
import uuid
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from multidelete.utils.errors import InputError
from multidelete.utils.files import write_file

Pixels = NDArray[np.uint8]
ProgressCallback = Callable[[int, int], None]


@dataclass(frozen=True, slots=True)
class ImageFile:
    """An image on disk and the id of the example it belongs to, which messages name."""

    example: str
    path: Path


def cache_dir() -> Path:
    """The cache folder, made where it is missing: ``$MULTIDELETE_CACHE``, else ``~/.cache/multidelete``."""
    folder = Path(os.environ.get("MULTIDELETE_CACHE") or Path.home() / ".cache" / "multidelete")
    with _writing_to(folder):
        folder.mkdir(parents=True, exist_ok=True)
    return folder


def decoded_images(
    files: Sequence[ImageFile], size: int, panels: int = 1, progress: ProgressCallback | None = None
) -> Pixels:
    """The images as squares, memory-mapped from the cache, ``(N · panels, size, size, 3)``.

    Args:
        files: The images, in order.
        size: Side of the square in pixels.
        panels: Pictures side by side in each file, which are cut apart.
        progress: Called with (images done, images in all) while files are decoded.
    """
    shape = (len(files) * panels, size, size, 3)
    target = cache_dir() / f"images-{_files_key(files, size, panels)}.npy"
    if (cached := _mapped(target, shape)) is not None:
        return cached
    temporary = target.with_name(f".{target.name}.{uuid.uuid4().hex}")
    digests = []
    with _writing_to(target.parent):
        try:
            # Written row by row, not through a writable map: a full disk is then an error, not a crash.
            with temporary.open("wb") as file:
                header = {"descr": "|u1", "fortran_order": False, "shape": shape}
                np.lib.format.write_array_header_1_0(file, header)
                for done, (image, digest) in enumerate(_decode(files, size, panels), start=1):
                    file.write(image.tobytes())
                    digests.append(digest)
                    if progress is not None:
                        progress(done, len(files))
            temporary.replace(target)
        finally:
            temporary.unlink(missing_ok=True)
    _keep_digests(files, digests)
    result = _mapped(target, shape)
    assert result is not None
    return result


def file_digests(files: Sequence[ImageFile]) -> list[str]:
    """SHA-256 of each file, from the cache where the files are the same as last time."""
    path = _digests_path(files)
    if path.is_file():
        try:
            digests: list[str] = json.loads(path.read_text("ascii"))
        except ValueError:  # damaged in the cache: computed anew, with the same result
            digests = []
        if len(digests) == len(files):
            return digests
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        digests = list(pool.map(lambda file: _sha256(read_image(file)), files))
    _keep_digests(files, digests)
    return digests


def read_image(file: ImageFile) -> bytes:
    """The bytes of an image file."""
    with _reading(file):
        return file.path.read_bytes()


def squared(image: Image.Image, size: int) -> Pixels:
    """The image in RGB, stretched to a square, ``(size, size, 3)``."""
    image = image.convert("RGB")
    if image.size != (size, size):
        image = image.resize((size, size), Image.Resampling.BICUBIC)
    return np.asarray(image)


def _decode(files: Sequence[ImageFile], size: int, panels: int) -> Iterator[tuple[Pixels, str]]:
    def decode(file: ImageFile) -> tuple[Pixels, str]:
        content = read_image(file)
        try:
            with Image.open(io.BytesIO(content)) as image:
                cuts = [round(number * image.width / panels) for number in range(panels + 1)]
                parts = [image.crop((left, 0, right, image.height)) for left, right in pairwise(cuts)]
                return np.stack([squared(part, size) for part in parts]), _sha256(content)
        except Exception as error:  # Pillow's decoders raise whatever the damage makes them raise
            raise InputError(
                f"image {file.path} of example {file.example!r} cannot be decoded; is it damaged or cut off?"
            ) from error

    with ThreadPoolExecutor(os.cpu_count()) as pool:
        yield from pool.map(decode, files)


def _files_key(files: Sequence[ImageFile], *settings: int) -> str:
    """Changes with the list of files, with their sizes and with the times they were written."""
    key = hashlib.sha256(repr(settings).encode())
    for file in files:
        with _reading(file):
            stat = file.path.stat()
        key.update(os.fsencode(file.path.absolute()) + b"\0%d\0%d\n" % (stat.st_size, stat.st_mtime_ns))
    return key.hexdigest()[:32]


def _digests_path(files: Sequence[ImageFile]) -> Path:
    return cache_dir() / f"digests-{_files_key(files)}.json"


def _keep_digests(files: Sequence[ImageFile], digests: list[str]) -> None:
    path = _digests_path(files)
    with _writing_to(path.parent):
        write_file(path, json.dumps(digests))


def _mapped(path: Path, shape: tuple[int, ...]) -> Pixels | None:
    if not path.is_file():
        return None
    try:
        array: Pixels = np.load(path, mmap_mode="r")
    except (ValueError, EOFError):  # damaged in the cache: decoded anew, with the same result
        return None
    return array if array.shape == shape and array.dtype == np.uint8 else None


def _sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


@contextmanager
def _reading(file: ImageFile) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        why = error.strerror or error
        raise InputError(f"image {file.path} of example {file.example!r} cannot be read: {why}") from error


@contextmanager
def _writing_to(folder: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        why = error.strerror or error
        raise InputError(
            f"cannot write to the cache folder {folder}: {why}; set MULTIDELETE_CACHE to a folder with room"
        ) from error
