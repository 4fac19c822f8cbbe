"""Where the encoded pictures of a dataset are: files in a folder, members of tar files, or memory."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import BinaryIO, Protocol

from multidelete.data.examples import path_problem


class ImageStore(Protocol):
    """Encoded pictures (JPEG, PNG, ...) by name, each read when it is needed."""

    def read(self, name: str) -> bytes:
        """The bytes of a picture.

        Raises:
            OSError: It cannot be read.
        """

    def locate(self, name: str) -> str:
        """Where a picture is, for messages: a path, or a member of a file."""

    def problem(self, name: str) -> str | None:
        """The problem with a name, or None; the picture itself is not looked for."""


@dataclass(frozen=True)
class Folder:
    """Files below a folder; names are relative paths.

    Args:
        root: The folder.
    """

    root: Path

    def read(self, name: str) -> bytes:
        """See :meth:`ImageStore.read`."""
        return (self.root / name).read_bytes()

    def locate(self, name: str) -> str:
        """See :meth:`ImageStore.locate`."""
        return str(self.root / name)

    def problem(self, name: str) -> str | None:
        """See :meth:`ImageStore.problem`; the path must stay below the folder."""
        return path_problem(name)


@dataclass(frozen=True)
class Files(Folder):
    """Files anywhere; names are absolute paths, or paths from a folder."""

    def problem(self, name: str) -> str | None:
        """See :meth:`ImageStore.problem`."""
        return None


@dataclass(frozen=True)
class Joined:
    """Several stores as one; names are the key of a store, a slash, and the name there.

    Args:
        stores: The stores.
    """

    stores: Mapping[str, ImageStore]

    def _part(self, name: str) -> tuple[ImageStore, str]:
        key, _, inner = name.partition("/")
        return self.stores[key], inner

    def read(self, name: str) -> bytes:
        """See :meth:`ImageStore.read`."""
        store, inner = self._part(name)
        return store.read(inner)

    def locate(self, name: str) -> str:
        """See :meth:`ImageStore.locate`."""
        store, inner = self._part(name)
        return store.locate(inner)

    def problem(self, name: str) -> str | None:
        """See :meth:`ImageStore.problem`."""
        store, inner = self._part(name)
        return store.problem(inner)


@lru_cache(maxsize=64)
def _handle(path: Path) -> BinaryIO:
    """An open file; the last ones stay open, and are closed when they are no longer used."""
    return path.open("rb")


LARGEST = 1 << 32  # bytes of a picture in a larger file


def packed(start: int, size: int) -> int:
    """First byte and number of bytes as one number, since a large collection has too many pictures for two."""
    return start * LARGEST + size


@dataclass(frozen=True)
class Slices:
    """Pictures that are parts of a larger file, as the members of a tar file, which is read in place.

    Args:
        path: The file.
        slices: First byte and number of bytes of each picture, see :func:`packed`.
    """

    path: Path
    slices: Mapping[str, int]

    def read(self, name: str) -> bytes:
        """See :meth:`ImageStore.read`."""
        start, size = divmod(self.slices[name], LARGEST)
        return os.pread(_handle(self.path).fileno(), size, start)

    def locate(self, name: str) -> str:
        """See :meth:`ImageStore.locate`."""
        return f"{name} in {self.path}" if name in self.slices else name

    def problem(self, name: str) -> str | None:
        """See :meth:`ImageStore.problem`."""
        return None if name in self.slices else f"image {name!r} is not in {self.path}"


@dataclass(frozen=True)
class Memory:
    """Pictures in memory.

    Args:
        contents: The bytes of each picture, or its path.
    """

    contents: Mapping[str, bytes | Path]

    def read(self, name: str) -> bytes:
        """See :meth:`ImageStore.read`."""
        content = self.contents[name]
        return content.read_bytes() if isinstance(content, Path) else content

    def locate(self, name: str) -> str:
        """See :meth:`ImageStore.locate`."""
        content = self.contents.get(name)
        return str(content) if isinstance(content, Path) else repr(name)

    def problem(self, name: str) -> str | None:
        """See :meth:`ImageStore.problem`."""
        return None if name in self.contents else f"image {name!r} was not given"
