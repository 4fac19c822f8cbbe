"""Image files: hashed, decoded to squares, and cached by their content."""

from __future__ import annotations

import hashlib
import io
import os
import uuid
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps

from multidelete.models.processor import Preparation
from multidelete.utils.cache import cache_dir, cache_write
from multidelete.utils.errors import InputError
from multidelete.utils.keys import cache_key

Pixels = NDArray[np.uint8]
ProgressCallback = Callable[[int, int], None]


@dataclass(frozen=True, slots=True)
class ImageFile:
    """An image file.

    Args:
        example: Id of the example it belongs to, for messages.
        path: Path of the file.
    """

    example: str
    path: Path


def decoded_images(
    files: Sequence[ImageFile],
    digests: Sequence[str],
    preparation: Preparation,
    panels: int = 1,
    progress: ProgressCallback | None = None,
) -> Pixels:
    """The prepared images, memory-mapped from the cache, ``(N · panels, ...)``.

    Args:
        files: The images, in order.
        digests: SHA-256 of each file, as from :func:`file_digests`; the cache is keyed by them.
        preparation: What is done to each picture.
        panels: Pictures side by side in each file; each becomes a square of its own.
        progress: Called with (images done, images in all) while files are decoded.

    Raises:
        InputError: A file cannot be decoded, or its content no longer has this digest.
    """
    shape = (len(files) * panels, *preparation.shape)
    key = cache_key("images", preparation.key, panels, list(digests), code=(__name__, type(preparation).__module__))
    target = cache_dir() / f"images-{key}.npy"
    if (cached := _mapped(target, shape)) is not None:
        return cached
    temporary = target.with_name(f".{target.name}.{uuid.uuid4().hex}")
    with cache_write(target.parent):
        try:
            # Written row by row, not through a writable map: a full disk is then an error, not a crash.
            with temporary.open("wb") as file:
                header = {"descr": "|u1", "fortran_order": False, "shape": shape}
                np.lib.format.write_array_header_1_0(file, header)
                for done, image in enumerate(_decode_all(files, digests, preparation, panels), start=1):
                    file.write(image.tobytes())
                    if progress is not None:
                        progress(done, len(files))
            temporary.replace(target)
        finally:
            temporary.unlink(missing_ok=True)
    result = _mapped(target, shape)
    assert result is not None
    return result


def file_digests(files: Sequence[ImageFile]) -> list[str]:
    """SHA-256 of each file."""
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        return list(pool.map(lambda file: _sha256(read_image(file)), files))


def read_image(file: ImageFile) -> bytes:
    """The bytes of an image file."""
    try:
        return file.path.read_bytes()
    except OSError as error:
        why = error.strerror or error
        raise InputError(f"image {file.path} of example {file.example!r} cannot be read: {why}") from error


def decode(content: bytes, preparation: Preparation, panels: int = 1) -> Pixels:
    """The prepared pictures in an image file, from left to right, ``(panels, ...)``."""
    with Image.open(io.BytesIO(content)) as file:
        image = as_rgb(ImageOps.exif_transpose(file))
        edges = [round(number * image.width / panels) for number in range(panels + 1)]
        parts = [image.crop((left, 0, right, image.height)) for left, right in pairwise(edges)]
        return np.stack([preparation(part) for part in parts])


def as_rgb(image: Image.Image) -> Image.Image:
    """The picture in RGB: transparency on white, 16-bit and float values scaled to 8 bits."""
    if image.mode in ("I;16", "I;16B", "I;16L", "I", "F"):
        values = np.asarray(image, dtype=np.float64)
        largest = 1 if image.mode == "F" and values.max() <= 1 else 255 if values.max() <= 255 else 65535
        image = Image.fromarray(np.clip(np.rint(values * (255 / largest)), 0, 255).astype(np.uint8))
    if image.has_transparency_data:
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    return image.convert("RGB")


def _decode_all(
    files: Sequence[ImageFile], digests: Sequence[str], preparation: Preparation, panels: int
) -> Iterator[Pixels]:
    def decode_one(file: ImageFile, digest: str) -> Pixels:
        content = read_image(file)
        if _sha256(content) != digest:
            raise InputError(f"image {file.path} of example {file.example!r} has changed; read the dataset again")
        try:
            return decode(content, preparation, panels)
        except Exception as error:  # Pillow's decoders raise any exception on damaged data
            raise InputError(
                f"image {file.path} of example {file.example!r} cannot be decoded; is it damaged or cut off?"
            ) from error

    with ThreadPoolExecutor(os.cpu_count()) as pool:
        yield from pool.map(decode_one, files, digests)


def _mapped(path: Path, shape: tuple[int, ...]) -> Pixels | None:
    if not path.is_file():
        return None
    try:
        array: Pixels = np.load(path, mmap_mode="r")
    except (ValueError, EOFError):  # damaged in the cache: decoded again
        return None
    return array if array.shape == shape and array.dtype == np.uint8 else None


def _sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()
