"""Cache folder; results are stored under a key of everything that they depend on."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from multidelete.utils.errors import InputError


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
