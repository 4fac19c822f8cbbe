"""Atomic writes: a folder or file gets its name only when it is complete."""

from __future__ import annotations

import os
import shutil
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from multidelete.utils.errors import InputError

if sys.platform != "win32":
    import fcntl

PART = ".part"  # end of the names of files and folders that are being written


def is_empty(folder: Path) -> bool:
    """Whether a folder is missing, empty, or contains only what a killed write left behind."""
    return not folder.exists() or all(_is_part(path) for path in folder.iterdir())


def remove_parts(folder: Path) -> None:
    """Remove what killed writes left in a folder and below it; nothing else may be writing there."""
    for path in [each for each in folder.rglob(f".*{PART}") if _is_part(each)]:
        if path.is_dir():
            shutil.rmtree(path, ignore_errors=True)
        else:
            path.unlink(missing_ok=True)


def _is_part(path: Path) -> bool:
    return path.name.startswith(".") and path.name.endswith(PART)


@contextmanager
def write_atomically(target: Path) -> Iterator[Path]:
    """Yield a temporary folder next to ``target``, which replaces it on success and is removed on failure."""
    target.parent.mkdir(parents=True, exist_ok=True)
    part = Path(tempfile.mkdtemp(prefix=f".{target.name}.", suffix=PART, dir=target.parent))
    try:
        yield part
        part.chmod(0o755)
        for path in part.rglob("*"):  # some writers create private files, which others could not read
            path.chmod(0o755 if path.is_dir() else 0o644)
            _flush(path)
        if target.exists():
            shutil.rmtree(target)
        part.rename(target)
        _flush(target.parent)
    finally:
        shutil.rmtree(part, ignore_errors=True)


@contextmanager
def new_file(path: Path) -> Iterator[Path]:
    """Yield the path of a temporary file next to ``path``, which replaces it on success and is removed on failure."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(prefix=f".{path.name}.", suffix=PART, dir=path.parent)
    os.close(handle)
    try:
        yield Path(name)
        Path(name).chmod(0o644)
        _flush(Path(name))
        os.replace(name, path)
        _flush(path.parent)
    finally:
        Path(name).unlink(missing_ok=True)


def write_file(path: Path, content: bytes | str) -> None:
    """Write a file under a temporary name in the same folder, then rename it."""
    with new_file(path) as part:
        part.write_bytes(content.encode() if isinstance(content, str) else content)


def _flush(path: Path) -> None:
    """Wait until a file, or the names in a folder, are on disk: a rename must not survive a power cut alone."""
    if path.is_dir() and sys.platform == "win32":  # which cannot open a folder
        return
    handle = os.open(path, os.O_RDONLY if path.is_dir() else os.O_RDWR)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Keep other processes out of a folder, which is created if it is missing, and removed again if it stays empty.

    The lock ends with the process, however it ends. Without such locks (Windows, some network file systems) nothing is
    kept out; a folder that cannot be created is left to the checks of whoever writes there.

    Raises:
        InputError: Another process works in the folder.
    """
    new = [each for each in (folder, *folder.absolute().parents) if not each.exists()]
    with suppress(OSError):
        folder.mkdir(parents=True, exist_ok=True)
    handle = os.open(folder, os.O_RDONLY) if sys.platform != "win32" and folder.is_dir() else None
    try:
        if handle is not None:
            _lock(handle, folder)
        yield
    finally:
        if handle is not None:
            os.close(handle)
        with suppress(OSError):
            for each in new:
                each.rmdir()


def _lock(handle: int, folder: Path) -> None:
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        raise InputError(
            f"another process is writing to '{folder}'; wait until it ends, or choose another --out"
        ) from error
    except OSError:  # a file system without locks
        return
