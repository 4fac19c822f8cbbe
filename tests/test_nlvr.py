from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from multidelete.data.naming import numbered_pairs
from multidelete.data.readers import detect, read
from multidelete.data.readers.nlvr import nlvr
from multidelete.data.readers.nlvr2 import nlvr2
from multidelete.utils.errors import InputError

Picture = Callable[..., None]


def write_lines(path: Path, *lines: object) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(one) + "\n" for one in lines), encoding="utf-8")


def shown(identifier: str, label: object = "true", source: str = "train", **more: object) -> dict[str, Any]:
    """A line of NLVR as it is published without its image folders."""
    images = [f"{source}-{identifier}-{k}.png" for k in range(6)]
    return {"identifier": identifier, "sentence": f"Box {identifier}.", "label": label, "images": images, **more}


SHOWN = {
    "train": [shown("1-0"), shown("1-1", "false"), shown("20-3", source="dev")],
    "dev": [shown("3-0", source="dev")],
    "test": [shown("4-2", "false", source="test")],
}


def photographed(identifier: str, label: object = "True", **more: object) -> dict[str, Any]:
    """A line of NLVR2."""
    return {"identifier": identifier, "sentence": f"Left {identifier}.", "label": label, "writer": "1", **more}


PHOTOGRAPHED = {
    "train": [
        photographed("train-10-0-0", directory=7),
        photographed("train-11-3-0", directory=8),
        photographed("train-10-0-1", "False", directory=7),
    ],
    "dev": [photographed("dev-850-0-0", False)],
    "test1": [photographed("test1-2-1-1", True)],
}


@pytest.fixture
def boxes(tmp_path: Path, picture: Picture) -> Path:
    """NLVR with its images in one folder."""
    for split, lines in SHOWN.items():
        write_lines(tmp_path / f"{split}.json", *lines)
        for number, one in enumerate(lines):
            for k, name in enumerate(one["images"]):
                picture(tmp_path / "images" / name, shade=40 * number + k, size=(24, 6))
    return tmp_path


@pytest.fixture
def photos(tmp_path: Path, picture: Picture) -> Path:
    """The layout of the official release of NLVR2."""
    folders = {"train-10": "images/train/7", "train-11": "images/train/8", "dev": "dev", "test1": "test1"}
    for split, lines in PHOTOGRAPHED.items():
        write_lines(tmp_path / f"{split}.json", *lines)
        for one in lines:
            pair = one["identifier"].rpartition("-")[0]
            folder = next(folder for start, folder in folders.items() if pair.startswith(start))
            for side in (0, 1):
                picture(tmp_path / folder / f"{pair}-img{side}.png")
    return tmp_path


def test_nlvr_layout(boxes: Path) -> None:
    assert detect(boxes) == "nlvr"
    dataset = read("nlvr", root=boxes)
    assert [len(dataset.rows(split)) for split in ("train", "validation", "test")] == [18, 6, 6]
    example = dataset.examples[17]
    assert (example.id, example.group, example.split) == ("dev-20-3-5", "train-20-3", "train")
    assert (example.texts, example.labels, example.panels) == (("Box 20-3.",), ("true",), 3)
    assert dataset.classes == ("false", "true")
    assert dataset.images_per_example == 3
    assert dataset.images(4).shape == (30 * 3, 4, 4, 3)


def test_nlvr_one_picture_per_image_and_fewer_orders(boxes: Path) -> None:
    dataset = nlvr(boxes, boxes=1, arrangements=2)
    assert [example.id for example in dataset.examples[:3]] == ["train-1-0-0", "train-1-0-1", "train-1-1-0"]
    assert dataset.images_per_example == 1
    assert len(dataset) == 10


def test_nlvr_official_layout(boxes: Path) -> None:
    """Each split in its folder, images in numbered folders, and no list of them in the line."""
    expected = nlvr(boxes)
    digests = expected.image_digests()
    for split, lines in SHOWN.items():
        (boxes / f"{split}.json").unlink()
        own = [{key: value for key, value in one.items() if key != "images"} for one in lines]
        write_lines(boxes / split / f"{split}.json", *own)
        for number, one in enumerate(lines):
            for k, name in enumerate(one["images"]):
                path = boxes / split / "images" / str(number) / f"{split}-{one['identifier']}-{k}.png"
                path.parent.mkdir(parents=True, exist_ok=True)
                (boxes / "images" / name).rename(path)
    assert detect(boxes) == "nlvr"
    dataset = nlvr(boxes)
    assert dataset.texts == expected.texts
    assert dataset.image_digests() == digests


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"boxes": 2}, r"boxes is 3 \(each box a picture\) or 1 \(the image as one picture\), got 2"),
        ({"arrangements": 0}, "arrangements is a number from 1 to 6, got 0"),
        ({"arrangements": 7}, "arrangements is a number from 1 to 6, got 7"),
        ({"images": "photos"}, "has no folder 'photos'; expected the folder with the images"),
    ],
)
def test_nlvr_bad_option(boxes: Path, options: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        nlvr(boxes, **options)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ("x", "expected an object with identifier, sentence, label, got a string"),
        ({"identifier": "9-0", "label": "true"}, "the key 'sentence' is missing"),
        (shown("9-0", 1), "'label' must be a string or true or false, got a number"),
        (shown("9-0", "maybe"), "unknown label 'maybe', expected 'true' or 'false'"),
        (shown("dev-9-0-0"), "identifier 'dev-9-0-0' is not one of NLVR; expected set and position"),
        (shown("9-0", images="a.png"), "'images' must be a list, got a string"),
        (shown("9-0", images=[1] * 6), "'images' must be a list of file names"),
        (shown("9-0", images=["a.png"]), "'images' names 1 files, expected 6, one for each order of the boxes"),
        (shown("9-0"), "image 'train-9-0-0.png' is not a file in"),
        (shown("9-0", images=["../a.png"] * 6), "image path '../a.png' leaves the folder"),
        (shown("3-0"), "identifier '3-0' was already used in"),
        (shown("9-0", images=["dev-3-0-0.png"] * 6), "image 'dev-3-0-0' was already used in"),
        ({**shown("9-0", images=["train-9-0.png"] * 6)}, "image 'train-9-0' was already used in"),
        (shown("9-0", images=[f"train-9-{k}.png" for k in range(6)], sentence=""), "text 1 of example"),
    ],
)
def test_nlvr_bad_line(boxes: Path, picture: Picture, wrong: object, message: str) -> None:
    path = boxes / "dev.json"
    for name in ("train-9-0", *(f"train-9-{k}" for k in range(6))):
        picture(boxes / "images" / f"{name}.png")
    write_lines(path, *SHOWN["dev"], wrong)
    with pytest.raises(InputError) as caught:
        nlvr(boxes)
    assert str(caught.value).startswith(f"{path}, line 2: ")
    assert message in str(caught.value)


def test_nlvr_image_in_two_folders(boxes: Path) -> None:
    shutil.copytree(boxes / "images", boxes / "copies")
    message = (
        r"train\.json, line 1: image 'train-1-0-0\.png' is in .* more than once \(copies/\S+, images/\S+\); "
        r"name the right folder with images=\n.*train\.json, line 2: image"
    )
    with pytest.raises(InputError, match=message):
        nlvr(boxes)
    assert len(nlvr(boxes, images="copies")) == 30


def test_linked_folders(boxes: Path) -> None:
    (boxes / "images").rename(boxes.parent / f"{boxes.name}-images")
    (boxes / "images").symlink_to(boxes.parent / f"{boxes.name}-images")
    (boxes / "again").symlink_to(boxes)  # a link that leads back does not loop
    assert nlvr(boxes).examples[0].images == ("images/train-1-0-0.png",)


def test_nlvr2_official_layout(photos: Path) -> None:
    assert detect(photos) == "nlvr2"
    dataset = read("nlvr2", root=photos)
    assert [(example.id, example.split, example.labels) for example in dataset.examples] == [
        ("train-10-0", "train", ("true", "false")),
        ("train-11-3", "train", ("true",)),
        ("dev-850-0", "validation", ("false",)),
        ("test1-2-1", "test", ("true",)),
    ]
    assert dataset.examples[0].texts == ("Left train-10-0-0.", "Left train-10-0-1.")
    assert dataset.examples[0].images == ("images/train/7/train-10-0-img0.png", "images/train/7/train-10-0-img1.png")
    assert dataset.images_per_example == 2
    assert dataset.images(4).shape == (4 * 2, 4, 4, 3)


def test_nlvr2_all_images_in_one_folder(photos: Path) -> None:
    (photos / "flat").mkdir()
    for image in [*photos.rglob("*.png")]:
        image.rename(photos / "flat" / image.name)
    (photos / "test1.json").rename(photos / "test.json")
    assert len(nlvr2(photos)) == 4
    assert nlvr2(photos, images="flat").examples[0].images == ("train-10-0-img0.png", "train-10-0-img1.png")


def test_nlvr2_pair_without_an_image(photos: Path) -> None:
    (photos / "images/train/7/train-10-0-img1.png").unlink()
    message = (
        r"train\.json, line 1: image 'train-10-0-img1\.png' is not a file in .* or the folders below it; "
        r"a statement is about both images of the pair 'train-10-0' \(also line 3\)"
    )
    with pytest.raises(InputError, match=message):
        nlvr2(photos)
    dataset = nlvr2(photos, unusable="drop")
    assert [example.id for example in dataset.examples] == ["train-11-3", "dev-850-0", "test1-2-1"]
    assert re.match(rf"left out: .*{message}", dataset.notes[0])


def test_nlvr2_numbers_of_lines_as_mubench_publishes_them(photos: Path, tmp_path: Path) -> None:
    dataset = nlvr2(photos)
    assert dataset.texts[:3] == ("Left train-10-0-0.", "Left train-10-0-1.", "Left train-11-3-0.")
    (tmp_path / "nlvr2.txt").write_text("2\n1\n")
    forgotten = [dataset.texts[row] for row in numbered_pairs(dataset, tmp_path / "nlvr2.txt", None)[1]]
    assert forgotten == ["Left train-10-0-1.", "Left train-11-3-0."]
    (photos / "images/train/7/train-10-0-img1.png").unlink()
    left = nlvr2(photos, unusable="drop")
    assert [left.texts[row] for row in numbered_pairs(left, [1], None)[1]] == ["Left train-11-3-0."]
    with pytest.raises(InputError, match="rows, line 1: '0' was left out; expected 0 to 1"):
        numbered_pairs(left, [0], None)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"identifier": "dev-9-0-0", "sentence": "t"}, "the key 'label' is missing"),
        (photographed("dev-850-0-1", None), "'label' must be a string or true or false, got null"),
        (photographed("dev-850-0-1", "Yes"), "unknown label 'Yes', expected 'True' or 'False'"),
        (photographed("850-0"), "identifier '850-0' is not one of NLVR2; expected split, set, pair and sentence"),
        (photographed("dev-850-0-0"), "identifier 'dev-850-0-0' was already used in"),
        (photographed("dev-850-0-1", sentence=" "), "text 1 of example 'dev-850-0' is blank"),
        (photographed("dev-9-0-0"), "image 'dev-9-0-img0.png' is not a file in"),
        (
            photographed("train-10-0-2"),
            "'train-10-0' is in the validation split here, but in the train split in",
        ),
    ],
)
def test_nlvr2_bad_line(photos: Path, wrong: object, message: str) -> None:
    path = photos / "dev.json"
    write_lines(path, *PHOTOGRAPHED["dev"], wrong)
    with pytest.raises(InputError) as caught:
        nlvr2(photos)
    assert str(caught.value).startswith(f"{path}, line 2: ")
    assert message in str(caught.value)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", r"dev\.json is empty; expected one example per line"),
        (b'{"sentence": "\xff"}', r"dev\.json, line 1: is not UTF-8; save the file as UTF-8"),
        (b'{"identifier": "dev-850-0-0", "sen', r"line 1: is not valid JSON .*; was the line cut off\?"),
    ],
)
def test_nlvr2_bad_file(photos: Path, content: bytes, message: str) -> None:
    (photos / "dev.json").write_bytes(content)
    with pytest.raises(InputError, match=message):
        nlvr2(photos)


def test_missing_files(photos: Path) -> None:
    (photos / "test1.json").unlink()
    with pytest.raises(InputError, match=r"has no file 'test1\.json' or 'test\.json'$"):
        nlvr2(photos)
    with pytest.raises(InputError, match=r"has no file 'test\.json' or 'test/test\.json'$"):
        nlvr(photos)
    (photos / "train.json").write_text('{"identifier": 1}\n')
    with pytest.raises(InputError, match=r"known layout \(it has .*\); expected manifest\.jsonl .* or a table"):
        detect(photos)


def test_real_nlvr(shared: Path) -> None:
    root = shared / "data" / "nlvr"
    if not root.is_dir():
        pytest.skip(f"no NLVR in {shared}")
    dataset = read(detect(root), root=root)
    assert [len(dataset.rows(split)) for split in ("train", "validation", "test")] == [6 * 1985, 6 * 483, 6 * 506]
    assert len({example.group for example in dataset.examples}) == 2974
    assert dataset.images_per_example == 3
    assert dataset.examples[dataset.row_of("train-2321-0-4")].texts == (
        "There is 1 tower with at least 2 yellow blocks",
    )
