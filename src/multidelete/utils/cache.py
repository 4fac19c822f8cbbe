"""Cache folder; results are stored under a key of everything that they depend on."""

from __future__ import annotations

import json
import logging
import os
import shutil
import time
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from multidelete.utils.errors import InputError
from multidelete.utils.files import write_atomically

logger = logging.getLogger(__name__)

CHECKSUMS = "checksums.json"
READ_BYTES = 2**24
LOCKS = "locks"  # in use while something is computed, and empty
DAY = 24 * 3600

_read: dict[Path, list[tuple[str, int, int]]] = {}  # entries that this process has read, with their state then


def cache_dir() -> Path:
    """Cache folder: ``$MULTIDELETE_CACHE``, by default ``~/.cache/multidelete``; created if it is missing."""
    folder = Path(os.environ.get("MULTIDELETE_CACHE") or Path.home() / ".cache" / "multidelete")
    with cache_write(folder):
        folder.mkdir(parents=True, exist_ok=True)
    return folder


@contextmanager
def cache_write(folder: Path) -> Iterator[None]:
    """Report a failed write to the cache as an ``InputError`` that names the folder."""
    try:
        yield
    except OSError as error:
        why = error.strerror or error
        raise InputError(
            f"cannot write to the cache folder {folder}: {why}; set MULTIDELETE_CACHE to a folder with free space"
        ) from error


@contextmanager
def new_entry(folder: Path) -> Iterator[Path]:
    """Yield a temporary folder that becomes an entry of the cache, with checksums of its files."""
    with cache_write(cache_dir()), write_atomically(folder) as part:
        yield part
        (part / CHECKSUMS).write_text(json.dumps(_checksums(part)))


def has_entry(folder: Path) -> bool:
    """Whether the cache has this entry as it was written; a damaged one is removed, so that it is computed again."""
    if not folder.is_dir():
        return False
    state = _state(folder)
    if _read.get(folder) == state:
        return True
    try:
        intact = json.loads((folder / CHECKSUMS).read_text()) == _checksums(folder)
    except (OSError, ValueError):
        intact = False
    if intact:
        _read[folder] = state
        return True
    logger.warning("%s is damaged; it is computed again", folder)
    with cache_write(folder.parent):
        shutil.rmtree(folder)
    return False


def _files(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*") if path.is_file())


def _state(folder: Path) -> list[tuple[str, int, int]]:
    """Names, sizes and times of the files."""
    facts = [(path, path.stat()) for path in _files(folder)]
    return [(str(path), each.st_size, each.st_mtime_ns) for path, each in facts]


def _checksums(folder: Path) -> dict[str, int]:
    """Checksum of each other file, by its path in the folder; against damage, not against forgery."""
    result = {}
    for path in _files(folder):
        if path == folder / CHECKSUMS:
            continue
        value = 0
        with path.open("rb") as file:
            while block := file.read(READ_BYTES):
                value = zlib.crc32(block, value)
        result[path.relative_to(folder).as_posix()] = value
    return result


@dataclass(frozen=True)
class Stored:
    """One thing in the cache.

    Args:
        kind: What it is: images, encodings, fused, models, predictions, metrics, work (an interrupted training).
        path: File or folder.
        size: Bytes.
        used: When it was last read or written, in seconds since 1970; some disks remember only writing.
    """

    kind: str
    path: Path
    size: int
    used: float

    @classmethod
    def of(cls, kind: str, path: Path) -> Stored:
        """What is at a path."""
        files = [each.stat() for each in ([path] if path.is_file() else _files(path))]
        used = max((max(each.st_atime, each.st_mtime) for each in files), default=path.stat().st_mtime)
        return cls(kind, path, sum(each.st_size for each in files), used)


def contents() -> list[Stored]:
    """All that the cache holds, but for locks."""
    result = []
    for path in sorted(cache_dir().iterdir()):
        if path.is_file():
            result.append(Stored.of(path.name.split("-")[0], path))
        elif path.name != LOCKS:
            result += [Stored.of(path.name, each) for each in sorted(path.iterdir())]
    return result


def prune(unused_days: float, *, dry_run: bool = False) -> list[Stored]:
    """Remove what was not used for this many days, and return it; all of it can be computed again.

    Args:
        unused_days: Days since the last use; 0 removes everything.
        dry_run: Remove nothing.
    """
    latest = time.time() - unused_days * DAY
    found = [each for each in contents() if each.used <= latest]
    with cache_write(cache_dir()):
        for each in () if dry_run else found:
            if each.path.is_dir():
                shutil.rmtree(each.path)
            else:
                each.path.unlink(missing_ok=True)
    return found
