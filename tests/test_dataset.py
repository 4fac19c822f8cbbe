from __future__ import annotations

import hashlib
import io
import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from multidelete.data.dataset import Dataset
from multidelete.data.examples import Example
from multidelete.data.images import decode
from multidelete.data.readers import READERS, detect, read
from multidelete.data.synthetic.scenes import scenes
from multidelete.models.processor import Square
from multidelete.utils.cache import cache_dir
from multidelete.utils.errors import InputError

RECORDS = [
    {"id": "a", "split": "train", "image": "images/a.png", "texts": ["one", "two"]},
    {"id": "b", "split": "test", "image": "images/b.png", "texts": ["three"]},
    {"id": "c", "split": "train", "image": "images/c.png", "texts": ["four", "five", "six"]},
    {"id": "d", "split": "validation", "image": "images/d.png", "texts": ["seven"]},
]


def write_manifest(folder: Path, *lines: str | dict[str, object]) -> None:
    text = "\n".join(line if isinstance(line, str) else json.dumps(line) for line in lines)
    (folder / "manifest.jsonl").write_text(text + "\n", encoding="utf-8")


@pytest.fixture
def folder(tmp_path: Path, picture: Callable[..., None]) -> Path:
    root = tmp_path / "pets"
    for number, record in enumerate(RECORDS):
        picture(root / str(record["image"]), shade=50 * number)
    write_manifest(root, *RECORDS)
    return root


@pytest.fixture
def dataset(folder: Path) -> Dataset:
    return Dataset.load(folder)


def test_rows_and_texts(dataset: Dataset) -> None:
    assert dataset.name == "pets"
    assert [example.id for example in dataset.examples] == ["a", "b", "c", "d"]
    assert dataset.texts == ("one", "two", "three", "four", "five", "six", "seven")
    assert dataset.text_examples.tolist() == [0, 0, 1, 2, 2, 2, 3]
    assert dataset.text_examples.dtype == np.int64
    assert dataset.rows("train").tolist() == [0, 2]
    assert dataset.rows("validation").tolist() == [3]
    assert dataset.text_rows(np.array([2, 0])).tolist() == [3, 4, 5, 0, 1]
    assert dataset.text_rows(np.array([], dtype=np.int64)).tolist() == []
    assert dataset.row_of("c") == 2
    assert repr(dataset) == "Dataset('pets', train=2, validation=1, test=1, texts=7)"


def test_unknown_example_and_split(dataset: Dataset) -> None:
    with pytest.raises(InputError, match=r"dataset 'pets' has no example 'zzz'$"):
        dataset.row_of("zzz")
    with pytest.raises(InputError, match=r"unknown split 'val', expected .* did you mean 'validation'\?"):
        dataset.rows("val")


def test_images_are_what_pillow_makes_of_them(dataset: Dataset, folder: Path) -> None:
    seen: list[tuple[int, int]] = []
    images = dataset.images(10, progress=lambda done, total: seen.append((done, total)))
    assert images.shape == (4, 10, 10, 3)
    assert images.dtype == np.uint8
    for row, record in enumerate(RECORDS):
        with Image.open(folder / str(record["image"])) as image:
            expected = image.convert("RGB").resize((10, 10), Image.Resampling.BICUBIC)
        np.testing.assert_array_equal(images[row], np.asarray(expected))
    assert seen == [(1, 4), (2, 4), (3, 4), (4, 4)]


def test_images_are_decoded_once_and_again_when_a_file_changes(folder: Path, picture: Callable[..., None]) -> None:
    first = Dataset.load(folder).images(6)
    assert isinstance(first, np.memmap)
    seen: list[int] = []
    again = Dataset.load(folder).images(6, progress=lambda done, total: seen.append(done))
    np.testing.assert_array_equal(again, first)
    assert seen == []
    picture(folder / "images/b.png", shade=200)
    changed = Dataset.load(folder).images(6, progress=lambda done, total: seen.append(done))
    assert seen == [1, 2, 3, 4]
    assert [bool((changed[row] == first[row]).all()) for row in range(4)] == [True, False, True, True]


def test_a_file_replaced_with_the_same_size_and_time_gives_the_new_pixels(tmp_path: Path) -> None:
    def read_with(shade: int) -> tuple[Dataset, int]:
        path = tmp_path / "a.bmp"  # no compression: every picture has the same number of bytes
        Image.new("RGB", (6, 6), (shade, shade, shade)).save(path)
        os.utime(path, ns=(10**18, 10**18))
        write_manifest(tmp_path, {"id": "a", "split": "train", "image": "a.bmp", "texts": ["one"]})
        return Dataset.load(tmp_path), path.stat().st_size

    (first, size), shades = read_with(10), []
    shades.append(first.images(6).max())
    first_hash = first.hash
    second, same_size = read_with(20)
    shades.append(second.images(6).max())
    assert (size, shades) == (same_size, [10, 20])
    assert second.hash != first_hash
    with pytest.raises(InputError, match=r"a\.bmp of example 'a' has changed; read the dataset again"):
        first.images(4)


def test_the_same_images_elsewhere_are_not_decoded_again(folder: Path, tmp_path: Path) -> None:
    first = Dataset.load(folder).images(7)
    shutil.copytree(folder, tmp_path / "copy")
    seen: list[int] = []
    again = Dataset.load(tmp_path / "copy").images(7, progress=lambda done, total: seen.append(done))
    np.testing.assert_array_equal(again, first)
    assert seen == []


def test_images_are_decoded_again_by_another_version_of_the_decoder(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    Dataset.load(folder).images(6)
    monkeypatch.setattr("multidelete.utils.keys.code_version", lambda *modules: "another")
    seen: list[int] = []
    Dataset.load(folder).images(6, progress=lambda done, total: seen.append(done))
    assert seen == [1, 2, 3, 4]


def test_damaged_cache_is_decoded_again(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MULTIDELETE_CACHE", str(tmp_path / "cache"))
    original = Dataset.load(folder)
    images, digest = np.array(original.images(6)), original.hash
    (cached,) = cache_dir().iterdir()  # no temporary files left
    cached.write_bytes(cached.read_bytes()[:-20])
    again = Dataset.load(folder)
    np.testing.assert_array_equal(again.images(6), images)
    assert again.hash == digest


def test_digests_with_and_without_decoding(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    expected = [hashlib.sha256((folder / str(record["image"])).read_bytes()).hexdigest() for record in RECORDS]
    monkeypatch.setenv("MULTIDELETE_CACHE", str(tmp_path / "one"))
    assert Dataset.load(folder).image_digests() == expected
    monkeypatch.setenv("MULTIDELETE_CACHE", str(tmp_path / "two"))
    decoded = Dataset.load(folder)
    decoded.images(4)
    assert decoded.image_digests() == expected


def test_hash_covers_ids_splits_texts_and_images(folder: Path, picture: Callable[..., None]) -> None:
    hashes = [Dataset.load(folder).hash]
    for change in ({"id": "e"}, {"split": "test"}, {"texts": ["other"]}):
        write_manifest(folder, *RECORDS[:3], {**RECORDS[3], **change})
        hashes.append(Dataset.load(folder).hash)
    write_manifest(folder, *RECORDS)
    assert Dataset.load(folder).hash == hashes[0]
    picture(folder / "images/d.png", shade=7)
    hashes.append(Dataset.load(folder).hash)
    assert len(set(hashes)) == 5


def test_hash_does_not_depend_on_the_folder(dataset: Dataset, tmp_path: Path) -> None:
    dataset.save(tmp_path / "elsewhere" / "copy")
    copy = Dataset.load(tmp_path / "elsewhere" / "copy")
    assert copy.hash == dataset.hash
    assert copy.examples == dataset.examples
    assert copy.name == "copy"


def test_image_that_vanished(dataset: Dataset, folder: Path) -> None:
    (folder / "images/c.png").unlink()
    for use in (lambda: dataset.images(8), dataset.image_digests):
        with pytest.raises(InputError, match=r"image .*c\.png of example 'c' cannot be read: No such file"):
            use()


@pytest.mark.parametrize("size", [0, -1, 2.5, "8", True])
def test_image_size(dataset: Dataset, size: object) -> None:
    with pytest.raises(InputError, match="image size is an integer of at least 1"):
        dataset.images(size)  # type: ignore[arg-type]


def test_cache_that_cannot_be_written(dataset: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("MULTIDELETE_CACHE", str(tmp_path / "file"))
    with pytest.raises(InputError, match=r"cannot write to the cache folder .*set MULTIDELETE_CACHE"):
        dataset.images(8)


def test_generated_pixels(tmp_path: Path) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (3, 8, 8, 3), dtype=np.uint8)
    examples = [Example("x/1", "train", ("a",)), Example("x/2", "train", ("b",)), Example("x/3", "test", ("c",))]
    dataset = Dataset("generated", examples, pixels=pixels)
    assert np.shares_memory(dataset.images(8), pixels)
    assert dataset.images(5).shape == (3, 5, 5, 3)
    assert dataset.image_digests()[1] == hashlib.sha256(pixels[1].tobytes()).hexdigest()
    dataset.save(tmp_path / "generated")
    loaded = Dataset.load(tmp_path / "generated")
    np.testing.assert_array_equal(loaded.images(8), pixels)
    assert [(example.id, example.split, example.texts) for example in loaded.examples] == [
        (example.id, example.split, example.texts) for example in examples
    ]


def test_pixels_must_fit_the_examples() -> None:
    examples = [Example("1", "train", ("a",))]
    wrong: list[np.ndarray] = [
        np.zeros((2, 8, 8, 3), np.uint8),
        np.zeros((1, 8, 9, 3), np.uint8),
        np.zeros((1, 8, 8, 3), np.float32),
    ]
    for pixels in wrong:
        with pytest.raises(InputError, match=r"expects uint8 pixels of shape \(1, R, R, 3\), got"):
            Dataset("generated", examples, pixels=pixels)
    with pytest.raises(InputError, match=r"one of root= .*, pixels= .* and graph="):
        Dataset("generated", examples)


@pytest.mark.parametrize(
    ("second", "message"),
    [
        (Example("1", "train", ("a",)), "dataset 'generated', example 1: id '1' was already used by example 0"),
        (Example("2", "dev", ("a",)), "dataset 'generated', example 1: unknown split 'dev'"),
        (Example("2", "train", ()), "dataset 'generated', example 1: example '2' has no texts"),
    ],
)
def test_examples_from_any_reader_are_checked(second: Example, message: str) -> None:
    with pytest.raises(InputError, match=message):
        Dataset("generated", [Example("1", "train", ("a",)), second], pixels=np.zeros((2, 4, 4, 3), np.uint8))


def test_save_refuses_what_is_there(dataset: Dataset, folder: Path, tmp_path: Path) -> None:
    before = sorted(path.name for path in tmp_path.iterdir())
    with pytest.raises(InputError, match="pets is not empty; a dataset is written to a new or empty folder"):
        dataset.save(folder)
    with pytest.raises(InputError, match="is a file; expected a new or empty folder"):
        dataset.save(folder / "manifest.jsonl")
    assert sorted(path.name for path in tmp_path.iterdir()) == before


def test_save_leaves_nothing_behind_when_it_fails(dataset: Dataset, folder: Path, tmp_path: Path) -> None:
    (folder / "images/d.png").unlink()
    with pytest.raises(InputError, match=r"d\.png of example 'd' cannot be read"):
        dataset.save(tmp_path / "copy")
    assert [path.name for path in tmp_path.iterdir()] == ["pets"]


def test_byte_order_mark_and_blank_lines_are_tolerated(folder: Path) -> None:
    lines = "\r\n\r\n".join(json.dumps(record) for record in RECORDS)
    (folder / "manifest.jsonl").write_bytes(b"\xef\xbb\xbf" + lines.encode() + b"\r\n\r\n")
    assert len(Dataset.load(folder)) == 4


GOOD = RECORDS[0]


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ('{"id": "x", "split": "tr', "is not valid JSON (Unterminated string"),
        ("{id: 1}", "is not valid JSON (Expecting property name"),
        ('["x"]', "expected a JSON object with id, split, texts, got a list"),
        ("3", "expected a JSON object with id, split, texts, got a number"),
        ({"id": "x", "split": "train", "image": "images/a.png"}, "the key 'texts' is missing"),
        (
            {**GOOD, "id": "x", "text": ["t"]},
            "unknown key 'text', expected id, split, texts, image, images, labels, nodes, panels, group, text_ids; did",
        ),
        ({**GOOD, "id": 3}, "'id' must be a string, got a number"),
        ({**GOOD, "id": "x", "split": None}, "'split' must be a string, got null"),
        ({**GOOD, "id": "x", "texts": "t"}, "'texts' must be a list of strings, got a string"),
        ({**GOOD, "id": "x", "texts": ["t", True]}, "but text 2 is true or false"),
        ({**GOOD, "id": " "}, "'id' is empty"),
        (GOOD, "id 'a' was already used in line 1"),
        (
            {**GOOD, "id": "x", "split": "dev"},
            "unknown split 'dev', expected 'train', 'validation' or 'test'; did you",
        ),
        (
            {**GOOD, "id": "x", "split": "training"},
            "unknown split 'training', expected 'train', 'validation' or 'test';",
        ),
        ({**GOOD, "id": "x", "texts": []}, "example 'x' has no texts; expected at least one"),
        ({**GOOD, "id": "x", "texts": ["t", " \n"]}, "text 2 of example 'x' is blank"),
        (
            '{"id": "x", "split": "train", "image": "images/a.png", "texts": ["\\ud83d"]}',
            "half of a surrogate pair",
        ),
        ({**GOOD, "id": "x", "image": "images/none.png"}, "image 'images/none.png' is not a file in"),
        ({**GOOD, "id": "x", "image": "images"}, "image 'images' is not a file in"),
        ({**GOOD, "id": "x", "image": ""}, "the image path is empty"),
        ({**GOOD, "id": "x", "image": "/etc/hostname"}, "image path '/etc/hostname' is absolute"),
        ({**GOOD, "id": "x", "image": "C:\\a.png"}, "is absolute"),
        ({**GOOD, "id": "x", "image": "images/../../a.png"}, "leaves the folder of the images"),
        ({**GOOD, "id": "x", "image": "images/\0.png"}, "holds a null character"),
    ],
)
def test_bad_line(folder: Path, line: str | dict[str, object], message: str) -> None:
    write_manifest(folder, RECORDS[0], RECORDS[1], line, RECORDS[2])
    with pytest.raises(InputError) as caught:
        Dataset.load(folder)
    assert str(caught.value).startswith(f"{folder / 'manifest.jsonl'}, line 3: ")
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_as_many_pictures_cut_from_another_number_of_files(folder: Path) -> None:
    one = {"id": "one", "split": "train", "image": "images/a.png", "panels": 2, "texts": ["t"]}
    two = {"id": "two", "split": "test", "images": ["images/a.png", "images/a.png"], "texts": ["t"]}
    write_manifest(folder, one, two)
    with pytest.raises(InputError, match="example 'two' has 1 panels in an image, but example 'one' has 2"):
        Dataset.load(folder)


def test_several_bad_lines(folder: Path) -> None:
    write_manifest(folder, RECORDS[0], "{", RECORDS[1], "[]", {**GOOD, "id": ""})
    with pytest.raises(InputError, match=r"line 2: is not valid JSON .*\n.*, line 4: expected .*\n.*, line 5: 'id' is"):
        Dataset.load(folder)


def test_manifest_that_is_not_utf8(folder: Path) -> None:
    (folder / "manifest.jsonl").write_bytes(json.dumps(GOOD).encode() + b'\n{"id": "caf\xe9"}\n')
    with pytest.raises(InputError, match="line 2: is not UTF-8"):
        Dataset.load(folder)


def test_missing_parts(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"none does not exist; expected a folder with manifest\.jsonl"):
        Dataset.load(tmp_path / "none")
    with pytest.raises(InputError, match=r"a\.png is a file; expected a folder"):
        Dataset.load(folder / "images/a.png")
    with pytest.raises(InputError, match=r"images has no manifest\.jsonl"):
        Dataset.load(folder / "images")
    (folder / "manifest.jsonl").write_text("\n")
    with pytest.raises(InputError, match=r"manifest\.jsonl is empty"):
        Dataset.load(folder)
    write_manifest(folder, RECORDS[1], RECORDS[3])
    with pytest.raises(InputError, match=r"manifest\.jsonl has no line with the split 'train'"):
        Dataset.load(folder)


def test_readers_by_name_and_layout(folder: Path) -> None:
    assert {"manifest", "karpathy", "scenes"} <= set(READERS)
    assert read("manifest", root=str(folder)).hash == Dataset.load(folder).hash
    assert len(read("scenes", train=3, validation=1, test=1)) == 5
    assert detect(folder) == "manifest"


@pytest.mark.parametrize(
    ("reader", "options", "message"),
    [
        ("scene", {}, r"'scene' is not a reader .*; did you mean 'scenes'\?"),
        ("scenes", {"trian": 3}, r"reader 'scenes' has no option 'trian'; did you mean 'train'\?"),
        ("manifest", {"zzz": 3}, "reader 'manifest' has no option 'zzz'; it has root"),
        ("manifest", {}, "reader 'manifest' needs the option 'root', which was not given"),
        ("manifest", {"root": 3}, "reader 'manifest' expects str or Path for 'root', got 3"),
        ("scenes", {"train": "many"}, "reader 'scenes' expects int for 'train', got 'many'"),
        ("scenes", {"train": True}, "reader 'scenes' expects int for 'train', got True"),
    ],
)
def test_bad_reader_or_option(reader: str, options: dict[str, object], message: str) -> None:
    with pytest.raises(InputError, match=message):
        read(reader, **options)


def test_reader_with_options_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    def tiny(**options: int) -> Dataset:
        return scenes(validation=0, test=0, **options)

    monkeypatch.setitem(READERS, "tiny", tiny)
    assert len(read("tiny", train=2)) == 2


def test_nothing_to_detect(tmp_path: Path) -> None:
    with pytest.raises(
        InputError, match=r"known layout \(it has no file\); expected manifest\.jsonl .* dataset_\*\.json"
    ):
        detect(tmp_path)
    with pytest.raises(InputError, match="none does not exist; expected a folder or file with data"):
        detect(tmp_path / "none")


# -- pictures of other modes --------------------------------------------------------------------------------------


def decoded(image: Image.Image, kind: str = "png", **options: Any) -> np.ndarray[Any, np.dtype[np.uint8]]:
    file = io.BytesIO()
    image.save(file, kind, **options)
    return decode(file.getvalue(), Square(4))[0]


def test_orientation_of_a_photograph_is_applied() -> None:
    pixels = np.zeros((4, 4, 3), np.uint8)
    pixels[0] = 255  # the first row is white
    exif = Image.Exif()
    exif[0x0112] = 6  # taken with the camera turned: the first row of the file is the right edge of the picture
    turned = decoded(Image.fromarray(pixels), "png", exif=exif)
    assert (turned[:, -1] == 255).all()
    assert (turned[:, 0] == 0).all()


def test_sixteen_bits_and_floats_are_scaled() -> None:
    grey = np.full((4, 4), 32896, np.uint16)
    assert decoded(Image.fromarray(grey)).max() == decoded(Image.fromarray(grey)).min() == 128
    assert decoded(Image.fromarray(np.full((4, 4), 0.5, np.float32)), "tiff").tolist() == [[[128] * 3] * 4] * 4
    assert decoded(Image.fromarray(np.full((4, 4), 200.0, np.float32)), "tiff").max() == 200


def test_transparency_is_white() -> None:
    clear = Image.new("RGBA", (4, 4), (0, 0, 0, 0))
    assert (decoded(clear) == 255).all()
    assert (decoded(Image.new("RGBA", (4, 4), (10, 20, 30, 255))) == [10, 20, 30]).all()
    palette = Image.new("P", (4, 4), 0)
    palette.putpalette([0, 0, 0, 255, 0, 0])
    assert (decoded(palette, transparency=0) == 255).all()
    assert (decoded(Image.new("LA", (4, 4), (0, 0))) == 255).all()
