"""Tar files of webdataset: a sample is the members with one key, a picture with its text and metadata."""

from __future__ import annotations

import json
import os
import tarfile
from pathlib import Path
from typing import Any

from multidelete.data.examples import json_problem
from multidelete.data.readers.delimited import Lines
from multidelete.utils.errors import InputError, reason

PICTURES = frozenset({"jpg", "jpeg", "png", "webp", "gif", "bmp", "tif", "tiff", "avif"})
TEXTS = ("txt", "caption", "text", "cap")


def tar_rows(path: Path, slices: dict[str, tuple[Path, int, int]]) -> Lines:
    """The samples of a tar file; pictures are not read.

    Args:
        path: The file.
        slices: Where each picture is, by the name that its row has; is added to.
    """
    sample: dict[str, Any] = {}
    key = problem = ""

    def row() -> tuple[str, dict[str, Any] | str]:
        return f"{path}, sample {key!r}", problem or sample

    try:
        with path.open("rb") as file, tarfile.open(fileobj=file, mode="r:") as tar:
            while (member := tar.next()) is not None:
                tar.members = []  # type: ignore[attr-defined]  # the list of all members is not needed
                if not member.isfile():
                    continue
                folder, _, name = member.name.rpartition("/")
                stem, _, ending = name.partition(".")
                this = f"{folder}/{stem}" if folder else stem
                if this != key:
                    if sample or problem:
                        yield row()
                    key, sample, problem = this, {"key": this, "image": None}, ""
                ending = ending.lower()
                if ending in PICTURES:
                    sample["image"] = f"{path.name}/{member.name}"
                    slices[sample["image"]] = (path, member.offset_data, member.size)
                elif ending in TEXTS or ending == "json" or ending == "cls":
                    content = file_part(file, member.offset_data, member.size)
                    problem = problem or _add(sample, ending, content)
            if sample or problem:
                yield row()
    except (tarfile.TarError, OSError, EOFError) as error:
        raise InputError(f"{path} cannot be read as a tar file ({reason(error)}); was it cut off?") from error


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
