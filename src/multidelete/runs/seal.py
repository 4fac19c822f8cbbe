"""The seal of a finished run: the hash of every file that it left, and one hash over that list, to be written down."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from pathlib import Path

from multidelete.utils.errors import InputError
from multidelete.utils.files import write_file

SUMS_FILE = "SHA256SUMS"  # a name and a format that ``sha256sum -c`` knows: it is checked without this package too
PAGES = ("report.html", "deletion.html")  # made anew from the record at any time
WORK = "work"  # what --resume needs


def sums(folder: Path) -> dict[str, str]:
    """sha256 of every file of a run by its path in the folder; pages and ``work/`` are no part of the record."""
    result: dict[str, str] = {}
    for path in sorted(folder.rglob("*")):
        name = path.relative_to(folder).as_posix()
        if path.is_file() and name not in (SUMS_FILE, *PAGES) and not name.startswith(f"{WORK}/"):
            with path.open("rb") as file:
                result[name] = hashlib.file_digest(file, "sha256").hexdigest()
    return result


def write_seal(folder: Path, coming: Mapping[str, str]) -> None:
    """Write the list of all files.

    Args:
        folder: Of a run.
        coming: Texts of files that are written after it, by name.
    """
    result = sums(folder) | {name: hashlib.sha256(text.encode()).hexdigest() for name, text in coming.items()}
    write_file(folder / SUMS_FILE, "".join(f"{result[name]}  {name}\n" for name in sorted(result)))


def read_seal(folder: Path) -> dict[str, str]:
    """The list of a run: sha256 by path.

    Raises:
        InputError: It is not there, or not such a list.
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
    """sha256 over the list itself: whoever has this one line can tell whether anything at all was changed."""
    path = folder / SUMS_FILE
    return hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() else None


DELETION_FILE = "deletion.json"
