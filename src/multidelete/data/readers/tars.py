"""Tar files of webdataset: a sample is the members with one key, a picture with its text and metadata."""

from __future__ import annotations

import json
import os
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO

from multidelete.data.examples import json_problem
from multidelete.data.sources import Lines
from multidelete.data.stores import packed
from multidelete.utils.errors import InputError, reason

BLOCK = 512  # bytes of a header
PICTURES = frozenset({"jpg", "jpeg", "png", "webp", "gif", "bmp", "tif", "tiff", "avif"})
TEXTS = ("txt", "caption", "text", "cap")


def tar_rows(path: Path, notes: list[str], slices: dict[str, int]) -> Lines:
    """The samples of a tar file; pictures are not read.

    Args:
        path: The file.
        notes: A note is appended here if the file ends without the mark of its end.
        slices: Where each picture is, by the name that its row has; is added to.
    """
    sample: dict[str, Any] = {}
    key = problem = ""
    end = 0

    def row() -> tuple[str, dict[str, Any] | str]:
        return f"{path}, sample {key!r}", problem or sample

    try:
        with path.open("rb") as file:
            for member_name, start, size in members(file):
                end = start + -(-size // BLOCK) * BLOCK
                folder, _, name = member_name.rpartition("/")
                stem, _, ending = name.partition(".")
                this = f"{folder}/{stem}" if folder else stem
                if this != key:
                    if sample or problem:
                        yield row()
                    key, sample, problem = this, {"key": this, "image": None}, ""
                ending = ending.lower()
                if ending in PICTURES:
                    sample["image"] = f"{path.name}/{member_name}"
                    slices[sample["image"]] = packed(start, size)
                elif ending in TEXTS or ending == "json" or ending == "cls":
                    content = file_part(file, start, size)
                    problem = problem or _add(sample, ending, content)
            length = os.fstat(file.fileno()).st_size
            if end > length:
                raise EOFError("the file ends inside a member")
            if end == length:
                notes.append(f"{path}, sample {key!r}: the file ends here without the mark of its end; was it cut off?")
            if sample or problem:
                yield row()
    except (tarfile.TarError, OSError, EOFError) as error:
        raise InputError(f"{path} cannot be read as a tar file ({reason(error)}); was it cut off?") from error


def members(file: BinaryIO) -> Iterator[tuple[str, int, int]]:
    """Name, first byte and size of each file in a tar file.

    Plain headers are read here, which is ten times as fast as ``tarfile``; at the first other one (long names, extended
    headers, sparse files) ``tarfile`` goes on.
    """
    at = 0
    while True:
        file.seek(at)
        header = file.read(BLOCK)
        if header and not header.strip(b"\0"):  # the end of the archive
            return
        plain = len(header) == BLOCK and header[257:262] == b"ustar" and header[156:157] in b"0\0" and header[124] < 128
        if not plain:
            break
        try:
            size = int(header[124:136].rstrip(b"\0 ") or b"0", 8)
            name, prefix = (header[part].partition(b"\0")[0].decode() for part in (slice(100), slice(345, 500)))
        except ValueError:
            break
        if int(header[148:156].rstrip(b"\0 ") or b"0", 8) != sum(header) - sum(header[148:156]) + 8 * 32:
            raise tarfile.ReadError("a header has another checksum")
        yield f"{prefix}/{name}" if prefix else name, at + BLOCK, size
        at += BLOCK + -(-size // BLOCK) * BLOCK
    file.seek(at)
    with tarfile.open(fileobj=file, mode="r:") as tar:
        while (member := tar.next()) is not None:
            tar.members = []  # type: ignore[attr-defined]  # the list of all members is not needed
            if member.isfile():
                yield member.name, member.offset_data, member.size


def file_part(file: Any, start: int, size: int) -> bytes:
    """A part of an open file, whose position does not change."""
    content = os.pread(file.fileno(), size, start)
    if len(content) < size:
        raise EOFError("the file ends inside a member")
    return content


def _add(sample: dict[str, Any], ending: str, content: bytes) -> str:
    """Add a text member to a sample; the problem with it, or an empty string."""
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError:
        return f"its .{ending} is not UTF-8"
    if ending != "json":
        sample["cls" if ending == "cls" else "text"] = text.strip()
        return ""
    try:
        record = json.loads(text)
    except (ValueError, RecursionError) as error:
        return f"its .json {json_problem(error)}"
    if not isinstance(record, dict):
        return "its .json is no object"
    for name, value in record.items():
        sample.setdefault(name, value)
    return ""
