"""Image files that cannot be read are named all at once, with their line; those that are changed are counted."""

from __future__ import annotations

import io
import json
import shutil
import struct
import subprocess
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from conftest import Ended
from multidelete.data.dataset import Dataset
from multidelete.data.examples import Example
from multidelete.data.readers import read
from multidelete.data.requests import resolve
from multidelete.models.processor import Square
from multidelete.utils.errors import InputError
from test_bad_input import RECIPE, contents

Terminal = Callable[[str], Ended]


def encoded(kind: str = "png", mode: str = "RGB", size: int = 24, **options: Any) -> bytes:
    noise = np.random.default_rng(0).integers(0, 256, (size, size, 3), dtype=np.uint8)
    file = io.BytesIO()
    Image.fromarray(noise).convert(mode).save(file, kind, **options)
    return file.getvalue()


def header_of_a_png(width: int, height: int) -> bytes:
    def chunk(name: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"")) + chunk(b"IEND", b"")


def turned(orientation: int, kind: str = "jpeg") -> bytes:
    exif = Image.Exif()
    exif[0x0112] = orientation
    return encoded(kind, exif=exif)


HTML = b"<!DOCTYPE html>\n<html><body>404 Not Found</body></html>"
UNREADABLE: dict[str, tuple[bytes, str]] = {
    "empty": (b"", r"is empty \(0 bytes\)"),
    "html": (HTML, "is an HTML page, not a picture; download the picture again"),
    "html-blank": (b"\n\n <HTML lang='en'>", "is an HTML page"),
    "heic": (b"\x00\x00\x00\x18ftypheic\x00\x00\x00\x00mif1heic", "is a HEIC picture, .* convert it to JPEG"),
    "svg": (b"<svg xmlns='http://www.w3.org/2000/svg'/>", "is an SVG drawing, .* convert it to PNG"),
    "svg-xml": (b"<?xml version='1.0'?>\n<!-- drawn -->\n<svg/>", "is an SVG drawing"),
    "eps": (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\n", r"is PostScript \(EPS\), "),
    "pdf": (b"%PDF-1.7\n", "is a PDF document"),
    "lfs": (
        b"version https://git-lfs.github.com/spec/v1\noid sha256:0",
        "is a pointer of Git LFS, .* git lfs pull",
    ),
    "text": (b"not an image", "is not a picture; expected JPEG, PNG"),
    "oversized": (header_of_a_png(20_000, 20_000), r"is larger than the limit of 178,956,970 pixels"),
    "cut-jpeg": (
        encoded("jpeg")[:-200],
        r"cannot be decoded \(image file is truncated.*\); is it damaged",
    ),
    "cut-png": (encoded("png")[:-200], r"cannot be decoded \(.+\); is it damaged or cut off\?"),
    "cut-gif": (encoded("gif")[:-200], r"cannot be decoded \(.+\); is it damaged or cut off\?"),
    "cut-tiff": (encoded("tiff")[:-500], r"cannot be decoded.*; is it damaged or cut off\?"),
    "cut-webp": (encoded("webp")[:-200], r"cannot be decoded.*; is it damaged or cut off\?"),
    "cut-header": (encoded("jpeg")[:12], r"cannot be decoded.*; is it damaged or cut off\?"),
    "cut-header-png": (encoded("png")[:12], r"cannot be decoded.*; is it damaged or cut off\?"),
}


def dataset_of(folder: Path, files: dict[str, bytes]) -> Dataset:
    """A dataset of these files after two good ones; their lines in the manifest are 3, 4, ..."""
    (folder / "images").mkdir(parents=True)
    lines = []
    for name, content in ({"good-1": turned(1), "good-2": encoded()} | files).items():
        (folder / "images" / f"{name}.jpg").write_bytes(content)
        lines.append(json.dumps({"id": name, "split": "train", "image": f"images/{name}.jpg", "texts": ["a text"]}))
    (folder / "manifest.jsonl").write_text("\n".join(lines))
    return Dataset.load(folder)


@pytest.mark.parametrize("name", UNREADABLE)
def test_a_file_that_cannot_be_read_is_named_with_its_line_and_why(name: str, tmp_path: Path) -> None:
    content, why = UNREADABLE[name]
    dataset = dataset_of(tmp_path / "photos", {name: content})
    message = rf"^\S+/photos/manifest\.jsonl, line 3: image \S+/photos/images/{name}\.jpg of example '{name}' {why}"
    for use in (lambda: dataset.images(8), dataset.check_images):
        with pytest.raises(InputError, match=message) as raised:
            use()
        assert "\n" not in str(raised.value)


def test_all_unreadable_files_are_named_before_anything_is_decoded(tmp_path: Path) -> None:
    dataset = dataset_of(tmp_path / "photos", {name: content for name, (content, _) in list(UNREADABLE.items())[:6]})
    dataset_with_cut = dataset_of(tmp_path / "more", {name: UNREADABLE[name][0] for name in ("cut-png", "empty")})
    for use in (dataset.image_digests, dataset.check_images, lambda: resolve(dataset, count=1)):
        with pytest.raises(InputError) as raised:
            use()
        assert [line.split(":")[0].split(", ")[-1] for line in str(raised.value).split("\n")] == [
            f"line {number}" for number in range(3, 9)
        ]
    with pytest.raises(InputError) as raised:  # the empty file is seen at once; the other one is named too
        dataset_with_cut.image_digests()
    assert len(str(raised.value).split("\n")) == 2
    assert "line 3: " in str(raised.value)


def test_cut_files_are_named_all_at_once_and_leave_nothing_half_written(tmp_path: Path, cache_of_its_own: Path) -> None:
    dataset = dataset_of(tmp_path / "photos", {"one": encoded()[:-200], "fine": encoded(), "two": encoded()[:-300]})
    dataset.image_digests()
    with pytest.raises(InputError) as raised:
        dataset.images(8)
    assert [line.split(" ")[2] for line in str(raised.value).split("\n")] == ["3:", "5:"]
    assert not list(cache_of_its_own.rglob("*.part"))


def test_ten_files_are_listed_and_the_others_counted(tmp_path: Path) -> None:
    dataset = dataset_of(tmp_path / "photos", {f"empty-{number}": b"" for number in range(1_012)})
    with pytest.raises(InputError) as raised:
        dataset.image_digests()
    lines = str(raised.value).split("\n")
    assert len(lines) == 11
    assert lines[0].endswith("images/empty-0.jpg of example 'empty-0' is empty (0 bytes)")
    assert lines[-1] == "and 1,002 more wrong images"


def test_a_file_of_several_examples_is_named_once(tmp_path: Path) -> None:
    (tmp_path / "a.jpg").write_bytes(HTML)
    examples = [Example(name, "train", ("a text",), ("a.jpg",)) for name in ("first", "second")]
    with pytest.raises(InputError, match=r"^image \S+a\.jpg of example 'first' is an HTML page[^\n]*$"):
        Dataset("photos", examples, root=tmp_path).image_digests()


def test_two_empty_files_are_empty_and_not_the_same_image(tmp_path: Path) -> None:
    dataset = dataset_of(tmp_path / "photos", {"one": b"", "two": b""})
    with pytest.raises(InputError, match=r"'one' is empty \(0 bytes\)\n.*'two' is empty \(0 bytes\)$"):
        resolve(dataset, ids=["one"])


def test_positions_in_other_layouts(tmp_path: Path) -> None:
    (tmp_path / "images").mkdir()
    entries = []
    for name, content in (("a.jpg", encoded("jpeg")), ("b.jpg", b"")):
        (tmp_path / "images" / name).write_bytes(content)
        entries.append({"filename": name, "split": "train", "sentences": [{"raw": "a text"}]})
    (tmp_path / "dataset_pets.json").write_text(json.dumps({"images": entries}))
    with pytest.raises(InputError, match=r"dataset_pets\.json, images\[1\]: image \S+b\.jpg .* is empty"):
        read("karpathy", root=tmp_path).image_digests()


def test_postscript_never_starts_another_program(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def started(*words: object, **_: object) -> None:
        raise AssertionError(f"started {words}")

    for name in ("Popen", "call", "check_call", "run"):
        monkeypatch.setattr(subprocess, name, started)
    dataset = dataset_of(tmp_path / "photos", {"drawing": UNREADABLE["eps"][0]})
    for use in (lambda: dataset.images(8), dataset.check_images):
        with pytest.raises(InputError, match="is PostScript"):
            use()


@pytest.mark.parametrize("kind", ["jpeg", "png", "webp", "gif", "tiff", "bmp", "jpeg2000", "ppm", "avif"])
def test_formats_that_are_read(kind: str, tmp_path: Path) -> None:
    dataset = dataset_of(tmp_path / "photos", {"other": encoded(kind)})
    dataset.check_images()
    assert dataset.images(8).shape == (3, 8, 8, 3)


def test_changed_pictures_are_counted_without_decoding_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    grey = np.full((8, 8), 40_000, np.uint16)
    file = io.BytesIO()
    Image.fromarray(grey).save(file, "png")
    files = {
        "upright": turned(1),
        "turned": turned(6),
        "turned-png": turned(8, "png"),
        "deep": file.getvalue(),
        "float": encoded("tiff", "F"),
        "clear": encoded("png", "RGBA"),
        "grey": encoded("png", "L"),
        "plain": encoded("png"),
    }
    dataset = dataset_of(tmp_path / "photos", files)

    def decoded(*_: object) -> None:
        raise AssertionError("decoded")

    with monkeypatch.context() as patch:
        patch.setattr("PIL.ImageFile.ImageFile.load", decoded)
        assert dataset.image_changes() == {"turned_upright": 2, "scaled_to_8_bits": 2, "put_on_white": 1}
    dataset.check_images()
    assert dataset.image_changes() == {"turned_upright": 2, "scaled_to_8_bits": 2, "put_on_white": 1}


class Refusing(Square):
    def __call__(self, image: Image.Image) -> np.ndarray[Any, Any]:
        raise InputError("it is too narrow for this model")


def test_a_picture_that_the_model_cannot_take_is_named_with_the_sentence_of_its_preparation(tmp_path: Path) -> None:
    dataset = dataset_of(tmp_path / "photos", {})
    with pytest.raises(InputError, match=r"line 2: image \S+ of example 'good-2' cannot be prepared: it is too "):
        dataset.images(Refusing(8))


def test_generated_pictures_are_not_changed() -> None:
    dataset = Dataset("dots", [Example("a", "train", ("a text",))], pixels=np.zeros((1, 8, 8, 3), np.uint8))
    dataset.check_images()
    assert dataset.image_changes() == {}


@pytest.fixture
def here(tmp_path: Path, tiny_model: Path, photos: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    shutil.copytree(tiny_model, tmp_path / "model")
    shutil.copytree(photos, tmp_path / "photos")
    (tmp_path / "recipe.toml").write_text(RECIPE)
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize(
    "command",
    [
        "check --data photos",
        "check --data photos --forget 3",
        "check recipe.toml --data photos",
        "unlearn --model model --data photos --forget 3 --no-retrain --out out",
        "unlearn recipe.toml --data photos --out out",
        "evaluate model --data photos",
    ],
)
def test_commands_name_all_files_and_start_nothing(command: str, here: Path, terminal: Terminal) -> None:
    broken = {"train-00002": b"", "train-00005": HTML, "test-00001": b"\x89PNG"}
    for name, content in broken.items():
        (here / f"photos/images/{name}.png").write_bytes(content)
    cut = here / "photos/images/validation-00003.png"
    cut.write_bytes(cut.read_bytes()[:-60])
    before = contents(here)
    ended = terminal(command)
    assert ended.code == 2
    assert len(ended.errors) == 4, ended.err
    assert all(error.startswith("photos/manifest.jsonl, line ") for error in ended.errors)
    assert contents(here) == before


def test_one_picture_that_was_cut_off_is_found_before_anything_is_written(here: Path, terminal: Terminal) -> None:
    cut = here / "photos/images/train-00002.png"
    cut.write_bytes(cut.read_bytes()[:-60])
    before = contents(here)
    for command in (
        "unlearn --model model --data photos --forget 3 --no-retrain --out out",
        "evaluate model --data photos",
    ):
        ended = terminal(command)
        assert (ended.code, len(ended.errors)) == (2, 1), ended.err
        assert "line 3: image photos/images/train-00002.png of example 'train-00002' cannot be decoded" in ended.err
        assert contents(here) == before


def test_check_and_the_record_count_changed_pictures(here: Path, terminal: Terminal) -> None:
    for name, content in {"train-00002": turned(6, "png"), "train-00003": encoded("png", "RGBA")}.items():
        (here / f"photos/images/{name}.png").write_bytes(content)
    assert "images: 1 turned upright, 1 put on white\n" in terminal("check --data photos").out
    ended = terminal(
        "unlearn --model model --data photos --forget 3 --no-retrain --out out "
        "method.epochs=1 method.evaluations=0 method.min_steps=2 membership.shadow=false"
    )
    assert ended.code == 0, ended.err
    provenance = json.loads((here / "out/results.json").read_text())["provenance"]
    assert provenance["image_changes"] == {"turned_upright": 1, "put_on_white": 1}
    assert "1 turned upright, 1 put on white" in (here / "out/report.html").read_text()


def test_data_that_were_emptied_since_are_a_finding_of_verify(here: Path, terminal: Terminal) -> None:
    command = "unlearn --model model --data photos --forget 3 --no-retrain --out out method.epochs=1"
    assert terminal(f"{command} method.evaluations=0 method.min_steps=2 membership.shadow=false").code == 0
    (here / "photos/images/train-00002.png").write_bytes(b"")
    ended = terminal("verify out")
    assert ended.code == 0, ended.err
    assert "cannot be read any more: photos/manifest.jsonl, line 3: " in ended.out
