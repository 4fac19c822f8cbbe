"""Seal of a finished run: the hash of every file, and a digest of that list."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from pathlib import Path

from multidelete.utils.errors import InputError
from multidelete.utils.files import write_file

SUMS_FILE = "SHA256SUMS"  # in the format of ``sha256sum -c``, which can check it without this package
PAGES = ("report.html", "deletion.html")  # can be recreated from the record
WORK = "work"  # files for --resume
DELETION_FILE = "deletion.json"


def sums(folder: Path) -> dict[str, str]:
    """sha256 of every file of the record, by relative path; pages and ``work/`` are not part of it."""
    result: dict[str, str] = {}
    for path in sorted(folder.rglob("*")):
        name = path.relative_to(folder).as_posix()
        if path.is_file() and name not in (SUMS_FILE, *PAGES) and not name.startswith(f"{WORK}/"):
            with path.open("rb") as file:
                result[name] = hashlib.file_digest(file, "sha256").hexdigest()
    return result


def write_seal(folder: Path, coming: Mapping[str, str]) -> None:
    """Write the list of hashes of all files.

    Args:
        folder: Folder of a run.
        coming: Contents of files that are written afterwards, by name.
    """
    result = sums(folder) | {name: hashlib.sha256(text.encode()).hexdigest() for name, text in coming.items()}
    write_file(folder / SUMS_FILE, "".join(f"{result[name]}  {name}\n" for name in sorted(result)))


def read_seal(folder: Path) -> dict[str, str]:
    """Read the list of hashes: sha256 by relative path.

    Raises:
        InputError: The list is missing or malformed.
    """
    path = folder / SUMS_FILE
    if not path.is_file():
        raise InputError(f"{SUMS_FILE} is missing: a run writes this list of its files when it is done")
    result: dict[str, str] = {}
    for number, line in enumerate(path.read_text(encoding="utf-8", errors="replace").splitlines(), start=1):
        match = re.fullmatch(r"([0-9a-f]{64})  (.+)", line)
        if match is None or match[2] in result:
            raise InputError(f"{SUMS_FILE}, line {number}: expected a hash and the name of one file, got {line[:80]!r}")
        result[match[2]] = match[1]
    return result


def digest_of(folder: Path) -> str | None:
    """Digest of a run: the sha256 of the list of hashes, which detects any change; None without a list."""
    path = folder / SUMS_FILE
    return hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() else None
