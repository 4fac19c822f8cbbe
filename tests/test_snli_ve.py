from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from multidelete.data.readers import detect, read
from multidelete.data.readers.snli_ve import snli_ve
from multidelete.utils.errors import InputError


def line(photo: str, hypothesis: str, label: str, **more: object) -> dict[str, object]:
    return {"Flickr30K_ID": photo, "sentence2": hypothesis, "gold_label": label, **more}


LINES = {
    "train": [
        line("1", "A dog runs.", "entailment", pairID="1.jpg#0r1e", sentence1="A dog runs fast ."),
        line("2", "A cat.", "neutral", pairID="2.jpg#0r1n"),
        line("1", "A cat sleeps.", "contradiction", pairID="1.jpg#0r1c"),
        line("2", "Nobody agrees.", "-", pairID="2.jpg#0r1c"),
    ],
    "dev": [line("3", "A bird.", "entailment")],
    "test": [line("4", "A fish.", "contradiction"), line("4", "Water.", "neutral")],
}


def write_lines(path: Path, *lines: object) -> None:
    path.write_text("".join(json.dumps(one) + "\n" for one in lines), encoding="utf-8")


@pytest.fixture
def root(tmp_path: Path, picture: Callable[..., None]) -> Path:
    """The layout of the official release, with the images of Flickr30K in a folder of their own."""
    folder = tmp_path / "snli_ve"
    folder.mkdir()
    for split, lines in LINES.items():
        write_lines(folder / f"snli_ve_{split}.jsonl", *lines)
    for photo in range(1, 5):
        picture(folder / "flickr30k-images" / f"{photo}.jpg", shade=40 * photo)
    return folder


def test_official_layout(root: Path) -> None:
    assert detect(root) == "snli_ve"
    dataset = read("snli_ve", root=root)
    assert [(example.id, example.split) for example in dataset.examples] == [
        ("1", "train"),
        ("2", "train"),
        ("3", "validation"),
        ("4", "test"),
    ]
    assert dataset.examples[0].texts == ("A dog runs.", "A cat sleeps.")
    assert dataset.examples[0].labels == ("entailment", "contradiction")
    assert dataset.examples[1].texts == ("A cat.",)  # the line without a gold label is left out
    assert dataset.classes == ("contradiction", "entailment", "neutral")
    assert dataset.images(4).shape == (4, 4, 4, 3)


def test_without_a_gold_label_no_image_is_needed(root: Path) -> None:
    write_lines(root / "snli_ve_dev.jsonl", line("3", "A bird.", "entailment"), line("9", "Nobody agrees.", "-"))
    assert len(snli_ve(root)) == 4


@pytest.mark.parametrize("folder", ["flickr30k_images", "images", "../flickr8k/images", "images/all"])
def test_default_image_folders(root: Path, folder: str) -> None:
    (root / folder).parent.mkdir(parents=True, exist_ok=True)
    (root / "flickr30k-images").rename(root / folder)
    (root / "flickr30k-images").mkdir()  # another folder of that name does not hide the right one
    dataset = snli_ve(root)
    assert dataset.images(4).shape == (4, 4, 4, 3)


def test_named_image_folder(root: Path) -> None:
    (root / "flickr30k-images").rename(root / "photos")
    looked = r"none of the 4 images exists \(looked in .*flickr30k-images, .*\); name their folder with images="
    with pytest.raises(InputError, match=looked):
        snli_ve(root)
    assert len(snli_ve(root, images="photos")) == 4
    with pytest.raises(InputError, match="has no folder 'photo'; expected the folder with the images"):
        snli_ve(root, images="photo")


def test_missing_images(root: Path) -> None:
    (root / "flickr30k-images/2.jpg").unlink()
    (root / "flickr30k-images/4.jpg").unlink()
    message = r"train\.jsonl, line 2: image '2\.jpg' is not a file in .*flickr30k-images .*\n.*image '4\.jpg' is not"
    with pytest.raises(InputError, match=message):
        snli_ve(root)


def test_missing_files(root: Path, tmp_path: Path) -> None:
    (root / "snli_ve_dev.jsonl").unlink()
    with pytest.raises(InputError, match=r"snli_ve has no file 'snli_ve_dev\.jsonl'$"):
        snli_ve(root)
    with pytest.raises(InputError, match="none does not exist; expected a folder with data"):
        snli_ve(tmp_path / "none")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", r"snli_ve_dev\.jsonl is empty; expected one example per line"),
        (b"\n \n", "is empty"),
        (b'{"sentence2": "caf\n\xe9"}', r"snli_ve_dev\.jsonl, line 2: is not UTF-8"),
        (b'\n{"sentence2": "A do', r"line 2: is not valid JSON \(.*column 15\); was the line cut off\?"),
    ],
)
def test_bad_file(root: Path, content: bytes, message: str) -> None:
    (root / "snli_ve_dev.jsonl").write_bytes(content)
    with pytest.raises(InputError, match=message):
        snli_ve(root)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ([], "expected an object with Flickr30K_ID, sentence2, gold_label, got a list"),
        (
            {"Flickr30k_ID": "9", "sentence2": "t", "gold_label": "neutral"},
            "the key 'Flickr30K_ID' is missing; did you mean 'Flickr30k_ID'?",
        ),
        ({**line("9", "t", "neutral"), "Flickr30K_ID": 9}, "'Flickr30K_ID' must be a string, got a number"),
        (
            line("9", "t", "entailed"),
            "unknown label 'entailed', expected entailment, neutral, contradiction or '-'; did you mean 'entailment'?",
        ),
        (line("9", " ", "neutral"), "text 1 of example '9' is blank"),
        (line("", "t", "neutral"), "'id' is empty"),
        (line("9", "\ud800", "neutral"), "holds half of a surrogate pair"),
        (line("../9", "t", "neutral"), "image path '../9.jpg' leaves the folder"),
        (line("1", "t", "neutral", pairID="1.jpg#0r1c"), "pairID '1.jpg#0r1c' was already used in"),
        (line("1", "t", "neutral"), "'1' is in the validation split here, but in the train split in"),
    ],
)
def test_bad_line(root: Path, wrong: object, message: str) -> None:
    path = root / "snli_ve_dev.jsonl"
    write_lines(path, *LINES["dev"], wrong)
    with pytest.raises(InputError) as caught:
        snli_ve(root)
    assert str(caught.value).startswith(f"{path}, line 2: ")
    assert message in str(caught.value)


def test_real_snli_ve(shared: Path) -> None:
    root = shared / "data" / "snli_ve"
    if not root.is_dir():
        pytest.skip(f"no SNLI-VE in {shared}")
    dataset = read(detect(root), root=root)
    assert [len(dataset.rows(split)) for split in ("train", "validation", "test")] == [1465, 183, 183]
    texts = [len(dataset.text_rows(dataset.rows(split))) for split in ("train", "validation", "test")]
    assert texts == [9195, 1072, 1017]
    assert dataset.classes == ("contradiction", "entailment", "neutral")
    assert dataset.labels is not None
    assert [int((dataset.labels == label).sum()) for label in range(3)] == [4152, 3922, 3210]
    assert dataset.examples[dataset.row_of("1131804997")].texts[0] == "Two people are outdoors."
