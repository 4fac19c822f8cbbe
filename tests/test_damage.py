"""Damage that real collections have, ten kinds and more in each layout: one sentence, with file and position."""

from __future__ import annotations

import re
import tarfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from layouts import LAYOUTS, Photo
from multidelete import InputError
from test_table import PHOTOS, loaded

BINARY = (".parquet", ".arrow", ".tar")
PICTURES = (".jpg", ".png")
PAGE = b"<!DOCTYPE html><html>Not found</html>"
ARCHIVE = b"PK\x03\x04" + bytes(60)
POSITION = r"(line|row|entry|sample|images|annotations)[ \[]'?\d+"

Change = Callable[[Photo], Photo]


def picture(content: bytes | None) -> Change:
    return lambda photo: replace(photo, content=content)


def second_caption(text: str) -> Change:
    return lambda photo: replace(photo, captions=(photo.captions[0], text, *photo.captions[2:]))


OF_A_PHOTO: dict[str, tuple[Change, str]] = {
    "missing picture": (picture(None), r"photo 2\.jpg' is not a file|No such file|is empty; expected a picture"),
    "empty picture": (picture(b""), r"is empty \(0 bytes\)"),
    "picture cut off": (picture((PHOTOS[2].content or b"")[:300]), r"is it damaged or cut off\?"),
    "page instead of a picture": (picture(PAGE), r"is an HTML page, not a picture; download the picture again"),
    "empty text": (second_caption(" "), r"is empty; expected a text|is blank; expected words"),
}


def cut_off(path: Path) -> None:
    """Cut off a text file within its line before the last, and others in the middle."""
    content = path.read_bytes().rstrip()
    line = content.rfind(b"\n", 0, max(content.rfind(b"\n"), 0))
    middle = path.suffix in BINARY or line < 0
    path.write_bytes(content[: len(content) // 2 - 300 if middle else line + 4])


def utf_16(path: Path) -> None:
    path.write_bytes(path.read_text().encode("utf-16"))


def latin_1(path: Path) -> None:
    path.write_bytes(re.sub(rb"na(\xc3\xaf|\\u00ef)vely", b"na\xefvely", path.read_bytes()))


OF_A_TABLE: dict[str, tuple[Callable[[Path], Any], str]] = {
    "table cut off": (cut_off, r"cut off\?|cannot be read|expected .*, got|quote not closed|unknown split"),
    "empty table": (lambda path: path.write_bytes(b""), r"is empty|empty file|0 bytes|null or length 0"),
    "page instead of a table": (lambda path: path.write_bytes(PAGE), r"is not valid JSON|expected a|cannot be read"),
    "archive instead of a table": (
        lambda path: path.write_bytes(ARCHIVE),
        r"expected a|not valid|cannot be read|UTF-8",
    ),
    "table in UTF-16": (utf_16, r"is not UTF-8; save the (file|manifest) as UTF-8"),
    "texts in Latin-1": (latin_1, r"is not UTF-8; save the (file|manifest) as UTF-8"),
}


def table(root: Path) -> Path:
    """The file of a layout with the texts of training data."""
    if root.is_file():
        return root
    paths = [path for path in root.rglob("*") if path.is_file() and path.suffix not in PICTURES]
    names = ("token.txt", ".arrow", "train")
    return min(paths, key=lambda path: [name not in str(path.relative_to(root)) for name in names])


def message(root: Path) -> str:
    with pytest.raises(InputError) as caught:
        loaded(root).check_images()
    return str(caught.value)


@pytest.mark.parametrize("kind", OF_A_PHOTO)
@pytest.mark.parametrize("name", LAYOUTS)
def test_a_damaged_pair_is_named_with_its_position(name: str, kind: str, tmp_path: Path) -> None:
    if (name, kind) == ("arrow (save_to_disk)", "missing picture"):
        pytest.skip("datasets saves no table without its pictures")
    change, expected = OF_A_PHOTO[kind]
    photos = [change(photo) if number == 2 else photo for number, photo in enumerate(PHOTOS)]
    text = message(LAYOUTS[name](tmp_path, photos))
    assert re.search(rf"{tmp_path}.*{POSITION}.*: .*({expected})", text), text
    assert text.count("\n") in (0, 4)  # tables with pictures inside may have it once in each of five rows


@pytest.mark.parametrize("kind", OF_A_TABLE)
@pytest.mark.parametrize("name", LAYOUTS)
def test_a_damaged_table_is_named(name: str, kind: str, tmp_path: Path) -> None:
    root = LAYOUTS[name](tmp_path, PHOTOS)
    path = table(root)
    if path.suffix in BINARY and kind in ("table in UTF-16", "texts in Latin-1"):
        pytest.skip("it is no text file")
    change, expected = OF_A_TABLE[kind]
    change(path)
    text = message(root)
    assert re.search(expected, text), text
    assert re.search(rf"{path.stem}|{path.parent.parent.name}", text), text


@pytest.mark.parametrize("name", LAYOUTS)
def test_a_repeated_pair_is_the_same_pair(name: str, tmp_path: Path) -> None:
    repeated = [second_caption(photo.captions[0])(photo) for photo in PHOTOS]
    once = [replace(photo, captions=(photo.captions[0], *photo.captions[2:])) for photo in PHOTOS]
    for folder in ("repeated", "once"):
        (tmp_path / folder).mkdir()
    datasets = [
        loaded(LAYOUTS[name](tmp_path / folder, photos)) for folder, photos in (("repeated", repeated), ("once", once))
    ]
    assert datasets[0].pairs_hash == datasets[1].pairs_hash


@pytest.mark.parametrize("name", ["parquet", "arrow (save_to_disk)"])
def test_a_table_without_texts_is_refused_with_its_columns(name: str, tmp_path: Path) -> None:
    import datasets
    import pyarrow.parquet

    root = LAYOUTS[name](tmp_path, PHOTOS)
    if name == "parquet":
        path = next(root.rglob("train*.parquet"))
        pyarrow.parquet.write_table(pyarrow.parquet.read_table(path).drop_columns(["caption"]), path)
    else:
        root = tmp_path / "other"
        datasets.load_from_disk(str(tmp_path / "saved")).remove_columns("caption").save_to_disk(str(root))
    assert re.search("has no column for the text; it has image, licence; name it with data.text=COLUMN", message(root))


def test_a_tar_file_that_ends_between_two_members(tmp_path: Path) -> None:
    path = LAYOUTS["webdataset"](tmp_path, PHOTOS) / "train-000000.tar"
    with tarfile.open(path) as tar:
        end = tar.getmember("00000020.jpg").offset
    content = path.read_bytes()
    path.write_bytes(content[:end])
    dataset = loaded(tmp_path)
    assert (
        f"{path}, sample '00000019': the file ends here without the mark of its end; was it cut off?" in dataset.notes
    )
    assert len(dataset.rows("train")) == 4
    path.write_bytes(content[: end - 512])
    assert message(tmp_path).startswith(f"{path} cannot be read as a tar file (the file ends inside a member)")


def test_the_lists_of_flickr8k(tmp_path: Path) -> None:
    root = LAYOUTS["Flickr8k.token.txt"](tmp_path, PHOTOS)
    lists = root / "Flickr_8k.trainImages.txt"
    names = lists.read_text().split("\n")
    lists.write_text("\n".join(names[:-1]))  # as the official lists, which lack 91 pictures
    dataset = loaded(root)
    assert len(dataset.rows("train")) == 5
    assert any(f"left out: {root}/Flickr8k.token.txt, line 26: {names[-1]} is in no list" in n for n in dataset.notes)
    lists.write_text("\n".join([*names, "phot"]))
    assert message(root) == f"{lists}, line 7: 'phot' is no picture of {root}/Flickr8k.token.txt"
    lists.write_bytes("\n".join(names).encode("utf-16"))
    assert message(root) == f"{lists}, line 1: is not UTF-8; save the file as UTF-8"


def test_pictures_of_another_version_of_the_data_are_not_taken(tmp_path: Path) -> None:
    for version in ("one", "two"):
        (tmp_path / version).mkdir()
        LAYOUTS["plain CSV"](tmp_path / version, PHOTOS)
    (tmp_path / "two/images/photo 2.jpg").unlink()
    assert "'images/photo 2.jpg' is not a file in" in message(tmp_path / "two/pairs.csv")
