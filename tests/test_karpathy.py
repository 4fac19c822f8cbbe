from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from multidelete.data.readers import detect, read
from multidelete.data.readers.karpathy import karpathy
from multidelete.utils.errors import InputError


def entry(filename: str, split: str, *raws: str, **more: object) -> dict[str, Any]:
    sentences = [{"raw": raw, "tokens": raw.split(), "imgid": 0, "sentid": 0} for raw in raws]
    return {"filename": filename, "split": split, "sentences": sentences, "imgid": 0, "sentids": [0], **more}


ENTRIES = [
    entry("1.jpg", "train", "A dog runs .", "A dog ."),
    entry("2.jpg", "val", "A cat sleeps ."),
    entry("3.jpg", "test", "A bird ."),
    entry("4.jpg", "train", "A fish .", "Water .", "Blue ."),
]


def write_split(path: Path, *entries: object) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps({"images": entries, "dataset": "x"}))


@pytest.fixture
def root(tmp_path: Path, picture: Callable[..., None]) -> Path:
    """The layout of Flickr8k."""
    write_split(tmp_path / "dataset_flickr8k.json", *ENTRIES)
    for number, one in enumerate(ENTRIES):
        picture(tmp_path / "images" / one["filename"], shade=40 * number)
    return tmp_path


def test_flickr8k_layout(root: Path) -> None:
    dataset = read("karpathy", root=root)
    assert detect(root) == "karpathy"
    assert dataset.name == "flickr8k"
    assert [(example.id, example.split) for example in dataset.examples] == [
        ("1.jpg", "train"),
        ("2.jpg", "validation"),
        ("3.jpg", "test"),
        ("4.jpg", "train"),
    ]
    assert dataset.examples[0].texts == ("A dog runs .", "A dog .")
    assert dataset.images(8).shape == (4, 8, 8, 3)


def test_flickr30k_layout(tmp_path: Path, picture: Callable[..., None]) -> None:
    write_split(tmp_path / "dataset_flickr30k.json", *ENTRIES)
    (tmp_path / "images").mkdir()  # another folder of that name does not hide the right one
    for one in ENTRIES:
        picture(tmp_path / "flickr30k-images" / one["filename"])
    dataset = karpathy(tmp_path)
    assert dataset.name == "flickr30k"
    assert dataset.images(4).shape == (4, 4, 4, 3)


def test_coco_layout(tmp_path: Path, picture: Callable[..., None]) -> None:
    entries = [
        entry("COCO_train_1.jpg", "train", "One .", filepath="train2014", cocoid=1),
        entry("COCO_val_2.jpg", "restval", "Two .", filepath="val2014", cocoid=2),
        entry("COCO_val_3.jpg", "test", "Three .", filepath="val2014", cocoid=3),
    ]
    write_split(tmp_path / "dataset_coco.json", *entries)
    for one in entries:
        picture(tmp_path / one["filepath"] / one["filename"])
    dataset = karpathy(tmp_path)
    assert dataset.rows("train").tolist() == [0, 1]
    assert [example.id for example in dataset.examples] == ["COCO_train_1.jpg", "COCO_val_2.jpg", "COCO_val_3.jpg"]
    dataset.save(tmp_path / "saved")
    assert (tmp_path / "saved/images/val2014/COCO_val_3.jpg").is_file()


def test_several_split_files(root: Path) -> None:
    write_split(root / "dataset_other.json", *ENTRIES)
    with pytest.raises(InputError, match=r"2 split files \(dataset_flickr8k\.json, dataset_other\.json\); name one"):
        karpathy(root)
    assert karpathy(root, file="dataset_other.json").name == "other"


def test_named_image_folder(root: Path) -> None:
    (root / "images").rename(root / "photos")
    looked = (
        r"none of the 4 images exists \(looked in .*images, .*flickr8k-images, .*\); name their folder with images="
    )
    with pytest.raises(InputError, match=looked):
        karpathy(root)
    assert len(karpathy(root, images="photos")) == 4
    with pytest.raises(InputError, match="has no folder 'photo'; expected the folder with the images"):
        karpathy(root, images="photo")


def test_missing_files(root: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"has no file 'dataset_flickr8.json'; did you mean 'dataset_flickr8k.json'\?"):
        karpathy(root, file="dataset_flickr8.json")
    with pytest.raises(InputError, match=r"images has no split file; expected one dataset_\*\.json in it"):
        karpathy(root / "images")
    with pytest.raises(InputError, match="none does not exist; expected a folder with a split file"):
        karpathy(tmp_path / "none")
    (root / "images/2.jpg").unlink()
    (root / "images/3.jpg").unlink()
    message = r"k\.json, images\[1\]: image '2\.jpg' is not a file in .*images\n.*k\.json.*: image '3\.jpg' is"
    with pytest.raises(InputError, match=message):
        karpathy(root)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (
            b'{"images": [',
            r"dataset_flickr8k\.json is not valid JSON \(Expecting value, line 1\); was it cut off\?",
        ),
        (b"", "is not valid JSON"),
        (b'{"images": ["caf\xe9"]}', r"is not UTF-8; save the file as UTF-8"),
        (b"[]", "is no Karpathy split file; expected an object with the list 'images'"),
        (b'{"image": []}', "is no Karpathy split file"),
        (b'{"images": []}', "lists no images"),
    ],
)
def test_bad_split_file(root: Path, content: bytes, message: str) -> None:
    (root / "dataset_flickr8k.json").write_bytes(content)
    with pytest.raises(InputError, match=message):
        karpathy(root)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ("x", "expected an object with filename, split and sentences, got a string"),
        ({"file_name": "9.jpg", "split": "val"}, "the key 'filename' is missing; did you mean 'file_name'?"),
        (
            entry("9.jpg", "valid", "t"),
            "unknown split 'valid', expected train, restval, val, test; did you mean 'val'?",
        ),
        ({**entry("9.jpg", "val", "t"), "split": 1}, "'split' must be a string, got a number"),
        ({**entry("9.jpg", "val", "t"), "filepath": None}, "'filepath' must be a string, got null"),
        ({**entry("9.jpg", "val"), "sentences": "t"}, "'sentences' must be a list, got a string"),
        ({**entry("9.jpg", "val"), "sentences": [{"text": "t"}]}, "sentences[0] has no text"),
        (entry("9.jpg", "val"), "example '9.jpg' has no texts"),
        (entry("9.jpg", "val", "t", " "), "text 2 of example '9.jpg' is blank"),
        (entry("", "val", "t"), "'filename' is empty"),
        (entry("1.jpg", "val", "t"), "filename '1.jpg' was already used in images[0]"),
        (entry("../1.jpg", "val", "t"), "image path '../1.jpg' leaves the folder"),
        (entry("1.jpg", "val", "t", filepath="/data"), "image path '/data/1.jpg' is absolute"),
    ],
)
def test_bad_entry(root: Path, wrong: object, message: str) -> None:
    write_split(root / "dataset_flickr8k.json", *ENTRIES[:2], wrong, *ENTRIES[2:])
    with pytest.raises(InputError) as caught:
        karpathy(root)
    assert str(caught.value).startswith(f"{root / 'dataset_flickr8k.json'}, images[2]: ")
    assert message in str(caught.value)


def test_no_training_entries(root: Path) -> None:
    write_split(root / "dataset_flickr8k.json", *ENTRIES[1:3])
    with pytest.raises(InputError, match="has no entry with the split 'train'"):
        karpathy(root)


def test_real_flickr8k(shared: Path) -> None:
    root = shared / "data" / "flickr8k"
    if not root.is_dir():
        pytest.skip(f"no Flickr8k in {shared}")
    dataset = read(detect(root), root=root)
    assert [len(dataset.rows(split)) for split in ("train", "validation", "test")] == [6000, 500, 500]
    assert len(dataset.texts) == 35_000
    row = dataset.row_of("1000268201.jpg")
    assert dataset.examples[row].texts[1] == "A girl going into a wooden building ."
    assert len(dataset.text_rows(dataset.rows("test"))) == 2500
    assert len(dataset.hash) == 64


def test_images_that_another_data_set_is_tested_on_are_left_out(root: Path, tmp_path: Path) -> None:
    tested = tmp_path / "tested"
    shutil.copytree(root, tested)
    (tested / "images" / "1.jpg").rename(tested / "images" / "renamed.jpg")
    write_split(
        tested / "dataset_other.json", entry("renamed.jpg", "test", "A dog ."), entry("4.jpg", "train", "A fish .")
    )
    (tested / "dataset_flickr8k.json").unlink()
    dataset = read("karpathy", root=root, without=str(tested))
    assert [example.id for example in dataset.examples] == ["2.jpg", "3.jpg", "4.jpg"]
    np.testing.assert_array_equal(dataset.images(8), read("karpathy", root=root).images(8)[1:])
    assert dataset.hash != read("karpathy", root=root).hash
    write_split(
        tested / "dataset_other.json", entry("renamed.jpg", "test", "A"), entry("4.jpg", "val", "B"), ENTRIES[0]
    )
    (tested / "images" / "1.jpg").write_bytes((root / "images" / "2.jpg").read_bytes())
    with pytest.raises(InputError, match="nothing left to train on"):
        read("karpathy", root=root, without=str(tested))


@pytest.mark.parametrize(
    ("reader", "without", "message"),
    [
        ("karpathy", 3, "expects str or Path for 'without', got 3"),
        ("karpathy", "nowhere", "nowhere does not exist"),
        ("genes", "tested", "expected one image file per example"),
    ],
)
def test_wrong_without(root: Path, monkeypatch: pytest.MonkeyPatch, reader: str, without: object, message: str) -> None:
    (root / "tested").symlink_to(root)
    monkeypatch.chdir(root)
    options = {"root": root} if reader == "karpathy" else {"train": 20, "validation": 4, "test": 4}
    with pytest.raises(InputError, match=message):
        read(reader, **options, without=without)
