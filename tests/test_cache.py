"""The cache: entries that are damaged are noticed, named and computed again, and no result differs."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import tiny
from messages import logged
from multidelete.pipeline import run
from multidelete.recipe import validate
from multidelete.utils.cache import CHECKSUMS, DAY, has_entry, new_entry
from multidelete.utils.errors import InputError

VALUES: dict[str, Any] = {
    "precision": "fp32",
    "task": {"name": "retrieval", "rerank": 4, "sample": 10},
    "data": {"reader": "scenes", "train": 40, "validation": 12, "test": 12, "size": 24},
    "forget": {"count": 3},
    "train": {"epochs": 1, "batch_size": 32},
    "model": {"name": "albef", **tiny.albef().model_dump(mode="json", exclude={"extra", "labels", "images"})},
    "method": {"name": "multidelete", "scope": "fusion", "stop": "lowest", "min_steps": 2, "evaluations": 1},
}


def flipped(content: bytes) -> bytes:
    middle = len(content) // 2
    return content[:middle] + bytes([content[middle] ^ 255]) + content[middle + 1 :]


DAMAGES: dict[str, Callable[[bytes], bytes]] = {
    "a byte": flipped,
    "truncated": lambda content: content[: len(content) // 2],
    "emptied": lambda content: b"",
}


def entries(cache: Path) -> list[Path]:
    return sorted(path.parent for path in cache.rglob(CHECKSUMS))


def metrics(out: Path) -> list[dict[str, float]]:
    return [row["metrics"] for row in run(validate(VALUES, "here"), out, tiny.engine()).rows]


@pytest.mark.parametrize("damage", DAMAGES)
def test_damaged_entries_are_named_and_computed_again(
    damage: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cache = tmp_path / "cache"
    monkeypatch.setenv("MULTIDELETE_CACHE", str(cache))
    first = metrics(tmp_path / "first")
    found = entries(cache)
    assert {path.relative_to(cache).parts[0] for path in found} == {
        *("encodings", "fused", "metrics", "models", "predictions")
    }
    for path in found:
        files = sorted(each for each in path.iterdir() if each.name != CHECKSUMS)
        files[0].write_bytes(DAMAGES[damage](files[0].read_bytes()))
    with logged() as messages:
        again = metrics(tmp_path / "again")
    assert again == first
    named = {path for path in found if any(f"{path} is damaged; it is computed again" in each for each in messages)}
    assert named == set(found)
    assert entries(cache) == found


def test_what_is_incomplete_or_has_more_is_no_entry(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MULTIDELETE_CACHE", str(tmp_path))

    def made(name: str) -> Path:
        with new_entry(tmp_path / name) as part:
            (part / "a").write_text("one")
            (part / "b").write_text("two")
        assert has_entry(tmp_path / name)
        return tmp_path / name

    (made("less") / "a").unlink()
    (made("more") / "c").write_text("three")
    (made("without") / CHECKSUMS).unlink()
    (tmp_path / "killed").mkdir()
    for name in ("less", "more", "without", "killed"):
        assert not has_entry(tmp_path / name)
        assert not (tmp_path / name).exists()
    assert not has_entry(tmp_path / "never")


def test_the_command_lists_and_removes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, terminal: Callable[[str], Any]
) -> None:
    monkeypatch.setenv("MULTIDELETE_CACHE", str(tmp_path))
    for name, age in (("models/old", 40), ("models/new", 1), ("fused/old", 40)):
        with new_entry(tmp_path / name) as part:
            (part / "weights").write_bytes(bytes(2_000_000))
        for path in (tmp_path / name).iterdir():
            os.utime(path, (time.time() - age * DAY,) * 2)
    (tmp_path / "locks").mkdir()
    listed = terminal("cache").out.splitlines()
    assert listed[0] == str(tmp_path)
    assert listed[2].split() == ["models", "2", "4.0", "MB", "last", "used", "1", "days", "ago"]
    assert listed[3].split() == ["in", "all", "3", "6.0", "MB"]
    assert terminal("cache --unused 30 --dry-run").out.splitlines()[-1].split()[-3:] == ["2", "4.0", "MB"]
    assert len(entries(tmp_path)) == 3
    terminal("cache --unused 30")
    assert entries(tmp_path) == [tmp_path / "models" / "new"]
    terminal("cache --unused 0")
    assert entries(tmp_path) == []
    assert (tmp_path / "locks").is_dir()
    assert terminal("cache --dry-run").errors == ["--dry-run says what --unused DAYS would remove; expected both"]


def test_a_cache_that_cannot_be_written_is_a_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("MULTIDELETE_CACHE", str(tmp_path / "file"))
    with (
        pytest.raises(InputError, match=r"cannot write to the cache folder .*set MULTIDELETE_CACHE"),
        new_entry(tmp_path / "file" / "entry"),
    ):
        pytest.fail("it began to write")
