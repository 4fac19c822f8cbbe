"""Image files: checked, hashed, decoded to what a model reads, and cached by their content."""

from __future__ import annotations

import hashlib
import io
import math
import os
import re
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import cache, partial
from itertools import pairwise
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray
from PIL import ExifTags, Image, ImageOps, UnidentifiedImageError

from multidelete.data.stores import ImageStore
from multidelete.models.processor import Preparation
from multidelete.utils.cache import cache_dir, cache_write
from multidelete.utils.errors import InputError, raise_all, reason
from multidelete.utils.files import new_file
from multidelete.utils.keys import cache_key

Pixels = NDArray[np.uint8]
ProgressCallback = Callable[[int, int], None]

# Pillow tries all of its formats by default; that of EPS starts Ghostscript.
FORMATS = ("JPEG", "MPO", "PNG", "WEBP", "AVIF", "GIF", "TIFF", "BMP", "DIB", "JPEG2000", "PPM", "ICO", "TGA")
READ = "JPEG, PNG, WebP, AVIF, GIF, TIFF or BMP"
CHUNK = 64  # files that are timed
SMALL = 1e-3  # seconds for a file above which threads pay off
GREY = ("I;16", "I;16B", "I;16L", "I", "F")  # Pillow's modes with more than 8 bits

# Other files with the name of a picture: a pattern of their first bytes, and what is said about them.
NO_PICTURES = (
    (rb"....ftyp(heic|heix|hevc|heim|heis|mif1|msf1)", "is a HEIC picture, which is not read; convert it to JPEG"),
    (rb"%!PS|\xc5\xd0\xd3\xc6", "is PostScript (EPS), which is not read; convert it to PNG"),
    (rb"%PDF", "is a PDF document, which is not read; convert it to PNG"),
    (rb"(?i)\s*(<!doctype html|<html|<head)", "is an HTML page, not a picture; download the picture again"),
    (rb"(?is)\s*(<\?xml.*)?(<!--.*|<!doctype svg.*)?<svg", "is an SVG drawing, which is not read; convert it to PNG"),
    (rb"version https://git-lfs", "is a pointer of Git LFS, not the picture; run git lfs pull"),
)
# First bytes of formats that are read: Pillow does not know them either if they are cut off in their header.
PICTURES = rb"\xff\xd8\xff|\x89PNG|GIF8|BM|II\*\0|MM\0\*|RIFF....WEBP|....ftypavi[fs]|\0\0\0\x0cjP  "


@dataclass(frozen=True, slots=True)
class ImageFile:
    """An encoded picture in a store.

    Args:
        example: Id of the example it belongs to, for messages.
        store: The store.
        name: Its name there.
        source: Where the example was read, for messages: "manifest.jsonl, line 3".
    """

    example: str
    store: ImageStore
    name: str
    source: str = ""

    def sentence(self, problem: str) -> str:
        """The message for a problem with this file."""
        start = f"{self.source}: " if self.source else ""
        return f"{start}{self.problem(problem)}"

    def problem(self, problem: str) -> str:
        """The message without the place where the example was read."""
        return f"image {self.store.locate(self.name)} of example {self.example!r} {problem}"

    def read(self) -> bytes:
        """Its bytes.

        Raises:
            OSError: It cannot be read.
        """
        return self.store.read(self.name)


@dataclass(frozen=True, slots=True)
class ImageFacts:
    """What is known of an image file without decoding it.

    Args:
        digest: SHA-256 of its content.
        changes: What decoding will do to it: ``turned_upright`` (EXIF orientation), ``scaled_to_8_bits`` (16 bits and
            floats), ``put_on_white`` (transparency).
        fingerprint: What it looks like, see :func:`fingerprint`; 0 if it was not decoded.
    """

    digest: str
    changes: tuple[str, ...]
    fingerprint: int = 0


class Decoded:
    """Prepared images of files, ``(N · panels, ...)`` uint8: decoded when first asked for, and kept in the cache.

    It is indexed as an array. The file in the cache holds all images and, behind them, a byte for each file that says
    whether it was decoded; parts that were not written take no space.

    Args:
        files: The images, in order.
        digests: SHA-256 of each file, as from :func:`file_facts`; the cache is keyed by them.
        preparation: What is done to each picture.
        panels: Pictures side by side in each file; each becomes a square of its own.
    """

    def __init__(
        self, files: Sequence[ImageFile], digests: Sequence[str], preparation: Preparation, panels: int = 1
    ) -> None:
        self._files, self._digests, self._preparation, self._panels = files, digests, preparation, panels
        self.shape = (len(files) * panels, *preparation.shape)
        self.ndim = len(self.shape)
        key = cache_key("images", preparation.key, panels, list(digests), code=(__name__, type(preparation).__module__))
        self._path = cache_dir() / f"images-{key}.npy"
        self._array: Pixels = np.empty((0, *preparation.shape), dtype=np.uint8)
        self._known = np.zeros(len(files), dtype=np.uint8)

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, index: Any) -> Pixels:
        rows = np.arange(len(self))[index]
        result: Pixels = self.decode(np.unique(rows))[index]
        return result

    def decode(self, rows: NDArray[np.int64] | None = None, progress: ProgressCallback | None = None) -> Pixels:
        """All images, memory-mapped, of which at least these rows are decoded.

        Args:
            rows: Rows of the result; all by default.
            progress: Called with (images done, images to do) while files are decoded.

        Raises:
            InputError: Files cannot be decoded, or their content no longer has this digest; all of them are named.
        """
        asked = np.arange(len(self._files)) if rows is None else np.unique(rows // self._panels)
        if len(self._array) and self._known[asked].all():
            return self._array
        with cache_write(self._path.parent):
            if _mapped(self._path, self.shape) is None:
                self._create()
            with self._path.open("r+b") as file:
                self._map(file)
                missing = asked[self._known[asked] == 0]
                self._fill(file, missing, progress)
        return self._array

    def _create(self) -> None:
        with new_file(self._path) as part, part.open("wb") as file:
            np.lib.format.write_array_header_1_0(file, {"descr": "|u1", "fortran_order": False, "shape": self.shape})
            file.truncate(file.seek(0, os.SEEK_CUR) + math.prod(self.shape) + len(self._files))

    def _map(self, file: BinaryIO) -> None:
        """Map the images and what is known of them, both from one file, which another process may have replaced."""
        np.lib.format.read_magic(file)
        np.lib.format.read_array_header_1_0(file)
        self._start = file.seek(0, os.SEEK_CUR)
        size = math.prod(self.shape)
        self._array = np.memmap(file, np.uint8, "r", self._start, self.shape)
        self._known = np.memmap(file, np.uint8, "r", self._start + size, (len(self._files),))

    def _fill(self, file: BinaryIO, missing: NDArray[np.int64], progress: ProgressCallback | None) -> None:
        # Written row by row, not through a writable map: a full disk is then an error, not a crash.
        files, digests = [self._files[n] for n in missing], [self._digests[n] for n in missing]
        size = math.prod(self.shape)
        for done, image in enumerate(_decode_all(files, digests, self._preparation, self._panels)):
            number = int(missing[done])
            file.seek(self._start + number * image.nbytes)
            file.write(image.tobytes())
            file.flush()  # before the byte that says so
            file.seek(self._start + size + number)
            file.write(b"\1")
            file.flush()
            if progress is not None:
                progress(done + 1, len(files))


def file_facts(files: Sequence[ImageFile], *, decoded: bool = False) -> list[ImageFacts]:
    """Hash and header of each file, each read once.

    Args:
        files: The images.
        decoded: Also decode each file, which finds those that are cut off after their header.

    Raises:
        InputError: Files cannot be read; all of them are named, those that are cut off too.
    """
    results = facts_or_problems(files, decoded=decoded)
    _raise_all([(file, result) for file, result in zip(files, results, strict=True) if isinstance(result, str)])
    return [result for result in results if isinstance(result, ImageFacts)]


def facts_or_problems(files: Sequence[ImageFile], *, decoded: bool = False) -> list[ImageFacts | str]:
    """Facts of each file, or the problem with it; if there is any, files that are cut off are found too.

    Args:
        files: The images.
        decoded: See :func:`file_facts`.
    """
    results = _all_facts(files, decoded)
    if not decoded and any(isinstance(result, str) for result in results):
        return _all_facts(files, True)
    return results


def _all_facts(files: Sequence[ImageFile], decoded: bool) -> list[ImageFacts | str]:
    began = time.perf_counter()
    first = [_facts(file, decoded=decoded) for file in files[:CHUNK]]
    rest = files[CHUNK:]
    # Threads wait for each other if the files are so small that most of the time is spent in Python.
    if time.perf_counter() - began < SMALL * len(first):
        return [*first, *(_facts(file, decoded=decoded) for file in rest)]
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        return [*first, *pool.map(partial(_facts, decoded=decoded), rest)]


def changes(facts: Iterable[ImageFacts]) -> dict[str, int]:
    """How many files are changed by decoding, by change; without those that none needs."""
    return dict(Counter(change for each in facts for change in each.changes))


def read_image(file: ImageFile) -> bytes:
    """The bytes of an image file."""
    try:
        return file.read()
    except OSError as error:
        raise InputError(file.sentence(f"cannot be read: {error.strerror or error}")) from error


def decode(content: bytes, preparation: Preparation, panels: int = 1) -> Pixels:
    """The prepared pictures in an image file, from left to right, ``(panels, ...)``."""
    with _open(content) as file:
        image = as_rgb(ImageOps.exif_transpose(file))
        edges = [round(number * image.width / panels) for number in range(panels + 1)]
        parts = [image.crop((left, 0, right, image.height)) for left, right in pairwise(edges)]
        return np.stack([preparation(part) for part in parts])


def as_rgb(image: Image.Image) -> Image.Image:
    """The picture in RGB: transparency on white, 16-bit and float values scaled to 8 bits."""
    if image.mode in GREY:
        values = np.asarray(image, dtype=np.float64)
        largest = 1 if image.mode == "F" and values.max() <= 1 else 255 if values.max() <= 255 else 65535
        image = Image.fromarray(np.clip(np.rint(values * (255 / largest)), 0, 255).astype(np.uint8))
    if image.has_transparency_data:
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    return image.convert("RGB")


def fingerprint(image: Image.Image) -> int:
    """Difference hash of a picture: which of 8 x 8 regions are brighter than their neighbour, as 64 bits."""
    small = np.asarray(image.convert("L").resize((9, 8), Image.Resampling.BOX), dtype=np.int16)
    return int(np.packbits(np.diff(small, axis=1) > 2).view(">u8")[0])


def _decode_all(
    files: Sequence[ImageFile], digests: Sequence[str], preparation: Preparation, panels: int
) -> Iterator[Pixels]:
    """The pictures of each file; all files are read before an error names those that could not be decoded."""

    def decode_one(file: ImageFile, digest: str) -> Pixels | str:
        try:
            content = file.read()
            if _sha256(content) != digest:
                return "has changed; read the dataset again"
            return decode(content, preparation, panels)
        except Exception as error:  # Pillow's decoders raise any exception on damaged data
            return _why(error)

    problems = []
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        for file, result in zip(files, pool.map(decode_one, files, digests), strict=True):
            if isinstance(result, str):
                problems.append((file, result))
            elif not problems:
                yield result
    _raise_all(problems)


def _facts(file: ImageFile, *, decoded: bool) -> ImageFacts | str:
    """The facts of a file, or the problem with it."""
    content = b""
    try:
        content = file.read()
        with _open(content) as image:
            facts = ImageFacts(_sha256(content), tuple(_changes(image, content)))
            if decoded:
                image.draft(None, (9, 8))  # a JPEG is decoded at an eighth of its size: faster, with the same errors
                image.load()
                return replace(facts, fingerprint=fingerprint(image))
            return facts
    except UnidentifiedImageError:
        return _no_picture(content)
    except Exception as error:  # Pillow's decoders raise any exception on damaged data
        return _why(error)


def _open(content: bytes) -> Image.Image:
    return Image.open(io.BytesIO(content), formats=_formats())


@cache
def _formats() -> tuple[str, ...]:
    """The formats that are read and that this Pillow knows."""
    Image.init()
    return tuple(name for name in FORMATS if name in Image.OPEN)


def _changes(image: Image.Image, content: bytes) -> Iterator[str]:
    # Pillow decodes all of a PNG in search of an orientation behind the pixels.
    late = image.format != "PNG" or b"eXIf" in content
    exif = image.getexif() if late else Image.Image.getexif(image)
    if exif.get(ExifTags.Base.Orientation, 1) in range(2, 9):
        yield "turned_upright"
    if image.mode in GREY:
        yield "scaled_to_8_bits"
    if image.has_transparency_data:
        yield "put_on_white"


def _no_picture(content: bytes) -> str:
    """What a file is that Pillow does not recognise."""
    if not content:
        return "is empty (0 bytes)"
    for pattern, problem in NO_PICTURES:
        if re.match(pattern, content[:1024], re.DOTALL):
            return problem
    if re.match(PICTURES, content, re.DOTALL):
        return "cannot be decoded; is it damaged or cut off?"
    return f"is not a picture; expected {READ}"


def _why(error: Exception) -> str:
    """The problem with a file that could not be read, decoded or prepared."""
    if isinstance(error, InputError):
        return f"cannot be prepared: {error}"
    if isinstance(error, Image.DecompressionBombError):
        assert Image.MAX_IMAGE_PIXELS is not None
        return f"is larger than the limit of {2 * Image.MAX_IMAGE_PIXELS:,} pixels; make it smaller"
    if isinstance(error, OSError) and error.errno is not None:
        return f"cannot be read: {error.strerror}"
    return f"cannot be decoded ({reason(error)}); is it damaged or cut off?"


def _raise_all(problems: Sequence[tuple[ImageFile, str]]) -> None:
    """Raise the problems, one line for each file; a file of several examples is named once."""
    sentences = {file.store.locate(file.name): file.sentence(problem) for file, problem in reversed(problems)}
    raise_all(list(sentences.values())[::-1], "images")


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
