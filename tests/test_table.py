"""Tables: every common layout of pictures and texts is read, and gives the same pairs."""

from __future__ import annotations

import io
import re
import tarfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageFile
from typer.testing import CliRunner

import multidelete
import tiny
from layouts import KEEPS_SPLITS, LAYOUTS, Photo, pictures, write_csv
from multidelete import InputError, MultiDelete
from multidelete.cli.app import app
from multidelete.data.dataset import Dataset
from multidelete.data.readers import located, read
from multidelete.data.requests import resolve

SPLITS = ("train",) * 6 + ("validation",) * 2 + ("test",) * 2


def picture(number: int, kind: str = "JPEG") -> bytes:
    content = io.BytesIO()
    pixels = np.random.default_rng(number).integers(0, 255, (4, 4, 3), dtype=np.uint8)
    Image.fromarray(pixels).resize((24, 16)).save(content, kind)
    return content.getvalue()


PHOTOS = [
    Photo(f"photo {n}.jpg", picture(n), split, tuple(f'A man, "{n}", does thing {k} – naïvely .' for k in range(5)))
    for n, split in enumerate(SPLITS)
]


def loaded(root: Path) -> Dataset:
    return read(**located(root))


@pytest.fixture(scope="module")
def expected(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    return loaded(LAYOUTS["karpathy"](tmp_path_factory.mktemp("karpathy"), PHOTOS))


@pytest.mark.parametrize("name", LAYOUTS)
def test_the_same_pairs_in_every_layout(name: str, tmp_path: Path, expected: Dataset) -> None:
    root = LAYOUTS[name](tmp_path, PHOTOS)
    dataset = loaded(root)
    assert dataset.pairs_hash == expected.pairs_hash
    assert len(dataset) == len(PHOTOS)
    if name in KEEPS_SPLITS:
        assert [len(dataset.rows(split)) for split in ("train", "validation", "test")] == [6, 2, 2]
    images = dataset.images(8)
    order = [[example.id for example in expected.examples].index(_name(dataset, row)) for row in range(len(dataset))]
    np.testing.assert_array_equal(images, expected.images(8)[order])


@pytest.mark.parametrize("name", LAYOUTS)
def test_unlearning_in_every_layout(name: str, tmp_path: Path) -> None:
    root = LAYOUTS[name](tmp_path, PHOTOS)
    ended = CliRunner().invoke(app, ["check", "--data", str(root), "--forget-count", "2"])
    assert ended.exit_code == 0, ended.output
    assert "forget 10 pairs of 2 examples, retain " in ended.output
    model, method = tiny.original("albef"), MultiDelete(stop="lowest", epochs=1, min_steps=1)
    outcome = multidelete.unlearn(model, loaded(root), {"count": 2}, method, engine=tiny.engine())
    assert tiny.changed(tiny.weights(model), outcome.model.state_dict())
    assert ("test_score" in outcome.rows[-1]["metrics"]) == (name in KEEPS_SPLITS)


def _name(dataset: Dataset, row: int) -> str:
    return next(photo.name for photo in PHOTOS if photo.captions[0] in dataset.examples[row].texts)


@pytest.mark.parametrize("name", [name for name in LAYOUTS if name not in ("manifest", "webdataset", "coco")])
def test_ids_are_file_names(name: str, tmp_path: Path) -> None:
    dataset = loaded(LAYOUTS[name](tmp_path, PHOTOS))
    assert sorted(example.id for example in dataset.examples) == sorted(photo.name for photo in PHOTOS)


def test_a_table_is_saved_as_a_manifest(tmp_path: Path) -> None:
    dataset = loaded(LAYOUTS["parquet"](tmp_path, PHOTOS))
    dataset.save(tmp_path / "saved")
    again = Dataset.load(tmp_path / "saved")
    assert again.hash == dataset.hash
    assert again.examples[0].metadata == {"licence": ("BY", "NC", "BY", "NC", "BY")}


def test_a_row_of_flickr30k_without_a_separator_is_read_and_reported(tmp_path: Path) -> None:
    dataset = loaded(LAYOUTS["flickr30k results.csv"](tmp_path, PHOTOS))
    assert [
        note for note in dataset.notes if "line 6: a separator is missing; read as caption 4 of photo 0.jpg" in note
    ]
    assert dataset.examples[0].text_ids == tuple(f"photo 0.jpg#{number}" for number in range(5))


def test_the_bytes_of_a_picture_count_not_its_name(tmp_path: Path) -> None:
    pictures(tmp_path, [Photo("a.jpg", picture(1), "train", ()), Photo("b.jpg", picture(1), "train", ())])
    write_csv(tmp_path / "pairs.csv", ["image", "text"], [("a.jpg", "one"), ("b.jpg", "two")])
    (example,) = loaded(tmp_path).examples
    assert (example.id, example.texts, example.aliases) == ("a.jpg", ("one", "two"), ("b.jpg",))


def test_columns_are_named(tmp_path: Path) -> None:
    pictures(tmp_path, PHOTOS)
    rows = [(photo.name, "left", photo.captions[0], "val", n) for n, photo in enumerate(PHOTOS)]
    path = write_csv(tmp_path / "t.csv", ["Bild", "text", "Satz", "part", "nr"], rows)
    given = {"image": "Bild", "text": "Satz", "split": "part", "id": "nr"}
    with pytest.raises(InputError, match="has no example in the split 'train'"):
        read("table", root=str(path), **given)
    dataset = read(
        "table", root=str(path), **{**given, "split": None} if False else {k: given[k] for k in ("image", "text", "id")}
    )
    assert dataset.examples[3].id == "3"
    assert dataset.examples[3].metadata == {"text": "left", "part": "val"}
    with pytest.raises(
        InputError, match=r"t\.csv has no column 'Blid' \(data\.image\); it has .*; did you mean 'Bild'\?"
    ):
        read("table", root=str(path), image="Blid", text="Satz")
    with pytest.raises(
        InputError, match=r"t\.csv has no column for the image; it has .*; name it with data.image=COLUMN"
    ):
        read("table", root=str(path))
    write_csv(tmp_path / "u.csv", ["URL", "TEXT"], [("https://example.org/a.jpg", "a text")])
    with pytest.raises(InputError, match="addresses are not downloaded: get the pictures first"):
        read("table", root=str(tmp_path / "u.csv"))


def test_other_data_become_a_split(tmp_path: Path) -> None:
    pictures(tmp_path, PHOTOS)
    for split in ("train", "validation", "test"):
        rows = [(photo.name, text) for photo in PHOTOS if photo.split == split for text in photo.captions]
        write_csv(tmp_path / f"{split}/{split}.csv", ["image", "text"], rows)
        pictures(tmp_path / split / "images", [photo for photo in PHOTOS if photo.split == split])
    dataset = read(
        "table",
        root=str(tmp_path / "train/train.csv"),
        validation=str(tmp_path / "validation"),
        test=str(tmp_path / "test/test.csv"),
    )
    assert [len(dataset.rows(split)) for split in ("train", "validation", "test")] == [6, 2, 2]
    unseen = read("table", root=str(tmp_path / "train"), unseen=str(tmp_path / "test"))
    assert len(unseen.rows("validation")) + len(unseen.rows("test")) == 2
    (tmp_path / "new").mkdir()
    complete = LAYOUTS["plain CSV"](tmp_path / "new", PHOTOS)
    with pytest.raises(InputError, match=r"has a test split already; leave out data\.test"):
        read("table", root=str(complete), test=str(tmp_path / "test"))


Damage = Callable[[Path], None]


def damaged(name: str, tmp_path: Path, change: Damage) -> str:
    tmp_path.mkdir(exist_ok=True)
    root = LAYOUTS[name](tmp_path, PHOTOS)
    change(root)
    with pytest.raises(InputError) as caught:
        loaded(root)
    return str(caught.value)


def edit(pattern: str, *changes: tuple[str, str]) -> Damage:
    def change(root: Path) -> None:
        path = root if root.is_file() else next(iter(sorted(root.rglob(pattern))))
        text = path.read_text()
        for old, new in changes:
            assert old in text
            text = text.replace(old, new, 1)
        path.write_text(text)

    return change


def write(pattern: str, content: bytes) -> Damage:
    def change(root: Path) -> None:
        folder = root if root.is_dir() else root.parent
        next(iter(sorted(folder.rglob(pattern)))).write_bytes(content)

    return change


TEXT = PHOTOS[0].captions


@pytest.mark.parametrize(
    ("name", "change", "message"),
    [
        ("plain CSV", edit("", ("images/photo 1.jpg", "images/gone.jpg")), r"line 7: image 'images/gone.jpg' is not a"),
        ("plain CSV", edit("", (",train", "")), r"line 2: expected 3 columns .*, got 2; was the line cut off\?"),
        ("plain CSV", edit("", ('.",train', ".,train")), r"line 2: is not valid CSV "),
        ("plain CSV", edit("", ("1.jpg,", "1.jpg,a,")), r"line 7: .* got 4; put quotes around a text with commas"),
        ("plain CSV", write("pairs.csv", "image,text\na.jpg,caf\xe9\n".encode("latin-1")), r"line 2: is not UTF-8"),
        (
            "plain CSV",
            edit("", (TEXT[1].replace('"', '""'), " ")),
            r"line 3: the column 'caption' is empty; expected a",
        ),
        ("plain CSV", edit("", (",train", ",trian")), r"line 2: unknown split 'trian', .* did you mean 'train'\?"),
        ("plain CSV", edit("", ("images/photo 0.jpg", "")), r"line 2: the column 'image' is empty; expected a picture"),
        ("plain CSV", write("pairs.csv", b""), r"pairs.csv is empty"),
        ("plain CSV", write("pairs.csv", b"image,text\n"), r"pairs.csv has a header only"),
        (
            "plain CSV",
            write("photo 2.jpg", b""),
            r"line 12: image .*photo 2.jpg of .* is empty \(0 bytes\)",
        ),
        ("plain CSV", write("photo 2.jpg", PHOTOS[2].content[:300]), r"line 12: image .* is it damaged or cut off\?"),
        (
            "plain CSV",
            edit("", (",test", ",train")),
            r"'new/images/photo 8.jpg' is in the test split here, but in the",
        ),
        (
            "JSON lines, one per pair",
            edit("*.jsonl", ('"img"', '"img')),
            r"line 1: is not valid JSON .* was the line cut off\?",
        ),
        ("JSON lines, one per pair", edit("*.jsonl", ('{"img"', '["img"')), r"line 1: is not valid JSON"),
        ("JSON list", edit("", ('"image": "photo 1.jpg"', '"image": 7')), r"entry 2: .*expected a path, got 7"),
        ("JSON list", edit("", ('"image": "photo 1.jpg"', '"image": ["a"]')), r"entry 2: .*expected a path, got \['a'"),
        ("JSON list", edit("", ('"captions": [', '"captions": [3, ')), r"entry 1: expected a text, got 3"),
        ("JSON list", write("data.json", b'[{"image"'), r"data.json is not valid JSON .* was it cut off\?"),
        (
            "coco",
            edit("*test2017.json", ('"image_id": 109', '"image_id": 999')),
            r"annotations\[0\]: image_id 999 is no",
        ),
        (
            "coco",
            edit("*test2017.json", ('"caption"', '"captoin"')),
            r"annotations\[0\]: expected an object with 'im",
        ),
        (
            "coco",
            edit("*test2017.json", ('"file_name"', '"name"')),
            r"images\[0\]: expected an object with 'id'",
        ),
        (
            "Flickr8k.token.txt",
            edit("*token.txt", ("#1\t", " ")),
            r"line 2: expected 'image.jpg#0', a tab and",
        ),
        (
            "flickr30k results.csv",
            edit("results.csv", ("| 1| ", " 1 ")),
            r"line 3: expected image_name \| comment",
        ),
        ("flickr_annotations_30k.csv", edit("*.csv", ('"", ""', '"" ""')), r"line 2: the list of texts is not"),
        (
            "imagefolder metadata.jsonl",
            edit("metadata.jsonl", ("photo 8.jpg", "8.jpg")),
            r"test/metadata.jsonl, line",
        ),
        ("open_clip TSV", edit("", ("\t", " ")), r"line 1: expected a header with the names of columns"),
        ("parquet", write("train-*", b"PAR1 no"), r"train-00000-of-00001.parquet cannot be read as parquet"),
        ("webdataset", write("train-*", b"no tar" * 200), r"train-000000.tar cannot be read as a tar file"),
        ("webdataset", write("train-*", b""), r"train-000000.tar (has no samples|cannot be read)"),
        ("arrow (save_to_disk)", write("*.arrow", b"ARROW"), r"saved cannot be read \("),
    ],
)
def test_damaged_table(name: str, change: Damage, message: str, tmp_path: Path) -> None:
    text = damaged(name, tmp_path / "new", change)
    assert re.search(message, text), text


def test_all_damaged_rows_are_named_at_once(tmp_path: Path) -> None:
    changes = (("photo 1.jpg", "gone.jpg"), (",train", ",trian"), (",test", ""))
    lines = damaged("plain CSV", tmp_path, edit("", *changes)).split("\n")
    assert [re.sub(r".*, line (\d+): .*", r"\1", line) for line in lines] == ["2", "7", "42"]


def test_unusable_rows_are_left_out_and_counted(tmp_path: Path) -> None:
    root = LAYOUTS["plain CSV"](tmp_path, PHOTOS)
    edit("", ("photo 1.jpg", "gone.jpg"), (",train", ",trian"), (",test", ""))(root)
    (tmp_path / "images/photo 5.jpg").write_bytes(b"<html>")
    dataset = read("table", root=str(root), unusable="drop")
    assert len(dataset.texts) == 50 - 3 - 5
    assert sum("left out" in note for note in dataset.notes) == 4


def test_a_repeated_row_is_read_once_and_reported(tmp_path: Path) -> None:
    root = LAYOUTS["plain CSV"](tmp_path, PHOTOS)
    root.write_text(root.read_text() + root.read_text().split("\n")[1] + "\n")
    dataset = loaded(root)
    assert dataset.examples[0].texts == PHOTOS[0].captions
    assert [note for note in dataset.notes if "line 52 repeats a pair of the image in " in note]


def test_numbers_of_pairs_are_those_of_the_file(tmp_path: Path) -> None:
    root = LAYOUTS["plain CSV"](tmp_path, PHOTOS)
    header, *lines = root.read_text().splitlines()
    order = np.random.default_rng(0).permutation(len(lines))
    lines = [lines[number] for number in order]
    lines[3] = lines[3].replace("images/", "gone/")
    train = [number for number, line in enumerate(lines) if line.endswith(",train")]
    root.write_text("\n".join([header, *lines]))
    dataset = read("table", root=str(root), unusable="drop")
    for position in (0, 7, 20):
        (row,) = resolve(dataset, rows=[position]).forget_pairs
        assert dataset.texts[row].replace('"', '""') in lines[train[position]]
    position = train.index(3) if 3 in train else -1
    assert position >= 0
    with pytest.raises(InputError, match=f"'{position}' was left out"):
        resolve(dataset, rows=[position])


def test_ids_of_pictures_and_of_rows(tmp_path: Path) -> None:
    pictures(tmp_path, PHOTOS)
    rows = [
        (photo.name, text, f"P{n}", f"C{n}{k}")
        for n, photo in enumerate(PHOTOS)
        for k, text in enumerate(photo.captions)
    ]
    path = write_csv(tmp_path / "a.csv", ["image", "text", "picture", "caption_id"], rows)
    assert read("table", root=str(path), id="picture").examples[2].id == "P2"
    of_rows = read("table", root=str(path), id="caption_id").examples[2]
    assert (of_rows.id, of_rows.text_ids[1]) == ("photo 2.jpg", "C21")
    rows[7] = (*rows[7][:3], "C00")
    write_csv(path, ["image", "text", "picture", "caption_id"], rows)
    with pytest.raises(InputError, match="line 2: id 'C00' is used 2 times; expected another id in each row"):
        read("table", root=str(path), id="caption_id")


def records() -> list[dict[str, object]]:
    return [{"image": photo.content, "text": text, "split": photo.split} for photo in PHOTOS for text in photo.captions]


def test_records_in_memory(expected: Dataset) -> None:
    pandas = pytest.importorskip("pandas")
    datasets = pytest.importorskip("datasets")
    hub = datasets.Dataset.from_list(
        [{**record, "image": {"bytes": record["image"], "path": None}} for record in records()]
    ).cast_column("image", datasets.Image())
    tables = {
        split: hub.filter(lambda record, split=split: record["split"] == split)
        for split in ("train", "validation", "test")
    }
    for given in (records(), pandas.DataFrame(records()), hub, datasets.DatasetDict(tables)):
        dataset = Dataset.from_records(given)
        assert dataset.pairs_hash == expected.pairs_hash
        assert [len(dataset.rows(split)) for split in ("train", "validation", "test")] == [6, 2, 2]


class Pairs:
    """A dataset of torch."""

    def __len__(self) -> int:
        return 6

    def __getitem__(self, index: int) -> tuple[Image.Image, str]:
        return Image.open(io.BytesIO(PHOTOS[index // 2].content)), f"text {index}"


def test_pictures_in_memory(tmp_path: Path) -> None:
    array = np.asarray(Image.open(io.BytesIO(PHOTOS[0].content)))
    (tmp_path / "a.jpg").write_bytes(PHOTOS[0].content)
    given = [(array, "an array"), (Image.fromarray(array), "of PIL"), (tmp_path / "a.jpg", "a path")]
    dataset = Dataset.from_records(given, test=Pairs(), unseen=None)
    assert [example.texts for example in dataset.examples[:2]] == [("an array", "of PIL"), ("a path",)]
    assert dataset.examples[1].id == "a.jpg"
    assert [example.texts for example in dataset.examples[2:]] == [
        (f"text {2 * n}", f"text {2 * n + 1}") for n in range(3)
    ]
    np.testing.assert_array_equal(dataset.images(8)[0], dataset.images(8)[2])
    unseen = Dataset.from_records(given, unseen=[(photo.content, "t") for photo in PHOTOS])
    assert len(unseen.rows("validation")) + len(unseen.rows("test")) == 10


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ([], "records has no records; expected at least one"),
        ([3], r"records\[0\]: expected an object with a picture and a text, or \(picture, text\), got a number"),
        ([{"img": b"", "text": "t"}], r"records\[0\]: image '0' of example .* is empty \(0 bytes\)"),
        (
            [{"image": 3, "text": "t"}],
            r"records\[0\]: expected a picture \(of PIL, .*\), got a number",
        ),
        (
            [{"image": np.zeros((2, 2, 7)), "text": "t"}],
            r"records\[0\]: expected an array \(H, W, 3\) of uint8, got fl",
        ),
        ([{"image": "gone.jpg", "text": "t"}], r"records\[0\]: image 'gone.jpg' is not a file"),
        ([{"image": picture(1), "words": "t"}], "records has no column for the text; it has image, words"),
        ({"image": []}, "records: expected a list of records, a data frame, .* got dict"),
    ],
)
def test_wrong_records(given: object, message: str) -> None:
    with pytest.raises(InputError, match=message):
        Dataset.from_records(given)


def test_a_folder_without_a_table_is_refused_with_a_command(tmp_path: Path) -> None:
    pictures(tmp_path, PHOTOS)
    with pytest.raises(InputError, match=r"it has 10 \.jpg\); .*; to use its 10 pictures, write .*pairs\.csv"):
        loaded(tmp_path)
    with pytest.raises(InputError, match=r"photo 0.jpg is no table; expected a file with the ending \.tar, "):
        loaded(tmp_path / "photo 0.jpg")
    for name in ("a", "b"):
        write_csv(tmp_path / f"{name}.csv", ["image", "text"], [("photo 0.jpg", name)])
    with pytest.raises(InputError, match=r"has 2 tables \(a\.csv, b\.csv\); name one of them, as .*a\.csv"):
        loaded(tmp_path)


@pytest.mark.parametrize(("name", "file"), [("karpathy", "dataset_flickr8k.json"), ("manifest", "manifest.jsonl")])
def test_a_file_instead_of_its_folder(name: str, file: str, tmp_path: Path) -> None:
    root = LAYOUTS[name](tmp_path, PHOTOS)
    assert loaded(root / file).hash == loaded(root).hash


def test_flickr8k_in_every_layout(shared: Path, tmp_path: Path) -> None:
    root = shared / "data" / "flickr8k"
    if not root.is_dir():
        pytest.skip(f"no Flickr8k in {shared}")
    full = loaded(root)
    chosen = [
        row for split, count in (("train", 30), ("validation", 5), ("test", 5)) for row in full.rows(split)[:count]
    ]
    examples = [full.examples[row] for row in chosen]
    photos = [
        Photo(example.id, (root / "images" / example.id).read_bytes(), example.split, example.texts)
        for example in examples
    ]
    hashes = set()
    for number, (name, write_layout) in enumerate(LAYOUTS.items()):
        folder = tmp_path / str(number)
        folder.mkdir()
        hashes.add(loaded(write_layout(folder, photos)).pairs_hash)
        assert len(hashes) == 1, name


def test_a_sample_of_a_large_collection_is_decoded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("multidelete.cli.inspect.DECODED", 4)
    root = LAYOUTS["plain CSV"](tmp_path, PHOTOS)
    decoded: list[object] = []
    load = ImageFile.ImageFile.load
    monkeypatch.setattr(ImageFile.ImageFile, "load", lambda image: (decoded.append(image), load(image))[1])
    ended = CliRunner().invoke(app, ["check", "--data", str(root), "--forget", "photo 3.jpg"])
    assert re.search(r"decoded [45] of 10 pictures; --all decodes every one", ended.output)
    assert len({id(image) for image in decoded}) <= 5
    assert "of 10 pictures" not in CliRunner().invoke(app, ["check", "--data", str(root), "--all"]).output


def test_tar_files_with_long_and_extended_names(tmp_path: Path) -> None:
    for number, kind in enumerate((tarfile.GNU_FORMAT, tarfile.PAX_FORMAT, tarfile.USTAR_FORMAT)):
        deep = "/".join(["folder"] * 12) if kind == tarfile.USTAR_FORMAT else "ü" * 150
        with tarfile.open(tmp_path / f"train-{number}.tar", "w", format=kind) as tar:
            for photo in PHOTOS[:3]:
                for ending, content in (("jpg", photo.content), ("txt", f"{number} {photo.captions[0]}".encode())):
                    member = tarfile.TarInfo(f"{deep}/{number}-{photo.name[6]}.{ending}")
                    member.size = len(content)
                    tar.addfile(member, io.BytesIO(content))
    dataset = loaded(tmp_path)
    assert len(dataset) == 3  # the same pictures in each file
    assert [len(example.texts) for example in dataset.examples] == [3, 3, 3]
    path = tmp_path / "train-2.tar"
    path.write_bytes(path.read_bytes().replace(b"folder/folder", b"folder/folded", 1))
    with pytest.raises(InputError, match=r"train-2.tar cannot be read as a tar file \(a header has another checksum\)"):
        loaded(tmp_path)


def test_the_records_of_an_unseen_picture_are_in_one_half() -> None:
    unseen = [(photo.content, text) for photo in PHOTOS for text in photo.captions]
    dataset = Dataset.from_records([(picture(99), "a text")], unseen=unseen)
    assert [len(example.texts) for example in dataset.examples[1:]] == [5] * len(PHOTOS)


def test_a_text_may_have_the_line_separator_of_unicode(tmp_path: Path) -> None:
    pictures(tmp_path, PHOTOS)
    write_csv(tmp_path / "pairs.csv", ["image", "text"], [("photo 0.jpg", "two\u2028lines"), ("photo 1.jpg", "one")])
    assert [example.texts for example in loaded(tmp_path).examples] == [("two\u2028lines",), ("one",)]
