"""The layouts in which people keep pictures with texts, written to the letter from the same pairs."""

from __future__ import annotations

import csv
import io
import json
import tarfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

SHORT = {"train": "train", "validation": "val", "test": "test"}


@dataclass(frozen=True)
class Photo:
    """A picture with its captions; without content it is missing."""

    name: str
    content: bytes | None
    split: str
    captions: tuple[str, ...]


Photos = Sequence[Photo]
LAYOUTS: dict[str, Callable[[Path, Photos], Path]] = {}
KEEPS_SPLITS = set[str]()  # layouts that say the split of each pair


def layout(name: str, *, splits: bool = True) -> Callable[[Callable[[Path, Photos], Path]], object]:
    def add(write: Callable[[Path, Photos], Path]) -> object:
        LAYOUTS[name] = write
        if splits:
            KEEPS_SPLITS.add(name)
        return write

    return add


def pictures(folder: Path, photos: Photos, *, by_split: bool = False) -> None:
    for photo in photos:
        path = folder / SHORT[photo.split] / photo.name if by_split else folder / photo.name
        path.parent.mkdir(parents=True, exist_ok=True)
        if photo.content is not None:
            path.write_bytes(photo.content)


def pairs(photos: Photos) -> list[tuple[Photo, int, str]]:
    return [(photo, number, caption) for photo in photos for number, caption in enumerate(photo.captions)]


def write_csv(path: Path, header: Sequence[str], rows: Sequence[Sequence[object]], separator: str = ",") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", newline="") as file:
        writer = csv.writer(file, delimiter=separator)
        writer.writerows([header, *rows])
    return path


@layout("karpathy")
def karpathy(root: Path, photos: Photos) -> Path:
    pictures(root / "images", photos)
    entries = [
        {"filename": photo.name, "split": SHORT[photo.split], "sentences": [{"raw": text} for text in photo.captions]}
        for photo in photos
    ]
    (root / "dataset_flickr8k.json").write_text(json.dumps({"images": entries}))
    return root


@layout("manifest")
def manifest(root: Path, photos: Photos) -> Path:
    pictures(root / "images", photos)
    lines = [
        {
            "id": photo.name,
            "split": photo.split,
            "image": f"images/{photo.name}",
            "texts": photo.captions,
            "person": "P1",
        }
        for photo in photos
    ]
    (root / "manifest.jsonl").write_text("\n".join(map(json.dumps, lines)))
    return root


@layout("coco")
def coco(root: Path, photos: Photos) -> Path:
    (root / "annotations").mkdir(parents=True)
    number = 100
    for split, short in SHORT.items():
        own = [photo for photo in photos if photo.split == split]
        pictures(root / f"{short}2017", own)
        images, annotations = [], []
        for photo in own:
            number += 1
            images.append({"id": number, "file_name": photo.name, "license": 4, "height": 8, "width": 8})
            annotations += [
                {"image_id": number, "id": 10 * number + index, "caption": text}
                for index, text in enumerate(photo.captions)
            ]
        content = {"info": {}, "licenses": [], "images": images, "annotations": annotations}
        (root / f"annotations/captions_{short}2017.json").write_text(json.dumps(content))
    return root


@layout("flickr30k results.csv", splits=False)
def results(root: Path, photos: Photos) -> Path:
    pictures(root / "flickr30k_images", photos)
    lines = ["image_name| comment_number| comment"]
    lines += [f"{photo.name}| {number}| {text}" for photo, number, text in pairs(photos)]
    lines[5] = "| ".join(lines[5].split("| ")[:2]) + "   " + lines[5].split("| ")[2]  # as in the official file
    (root / "results.csv").write_text("\n".join(lines) + "\n")
    return root


@layout("flickr_annotations_30k.csv")
def annotations(root: Path, photos: Photos) -> Path:
    pictures(root / "flickr30k-images", photos)
    header = ["raw", "sentids", "split", "filename", "img_id"]
    rows = [
        [
            json.dumps(photo.captions),
            str([5 * n + i for i in range(len(photo.captions))]),
            SHORT[photo.split],
            photo.name,
            n,
        ]
        for n, photo in enumerate(photos)
    ]
    write_csv(root / "flickr_annotations_30k.csv", header, rows)
    return root


@layout("flickr8k captions.txt", splits=False)
def captions(root: Path, photos: Photos) -> Path:
    pictures(root / "Images", photos)
    write_csv(root / "captions.txt", ["image", "caption"], [(photo.name, text) for photo, _, text in pairs(photos)])
    return root


@layout("Flickr8k.token.txt")
def tokens(root: Path, photos: Photos) -> Path:
    pictures(root / "Flicker8k_Dataset", photos)
    text = root / "Flickr8k_text"
    text.mkdir()
    lines = [f"{photo.name}#{number}\t{caption}" for photo, number, caption in pairs(photos)]
    (text / "Flickr8k.token.txt").write_text("\n".join(lines))
    for split, word in (("train", "train"), ("validation", "dev"), ("test", "test")):
        names = [photo.name for photo in photos if photo.split == split]
        (text / f"Flickr_8k.{word}Images.txt").write_text("\n".join(names))
    return text


@layout("open_clip TSV", splits=False)
def open_clip(root: Path, photos: Photos) -> Path:
    pictures(root / "photos", photos)
    rows = [(root / "photos" / photo.name, text) for photo, _, text in pairs(photos)]
    return write_csv(root / "train.tsv", ["filepath", "title"], rows, "\t")


@layout("imagefolder metadata.jsonl")
def metadata_jsonl(root: Path, photos: Photos) -> Path:
    pictures(root, photos, by_split=True)
    for split, short in SHORT.items():
        lines = [
            {"file_name": photo.name, "text": text}
            for photo, _, text in pairs([photo for photo in photos if photo.split == split])
        ]
        (root / short / "metadata.jsonl").write_text("\n".join(map(json.dumps, lines)))
    return root


@layout("imagefolder metadata.csv")
def metadata_csv(root: Path, photos: Photos) -> Path:
    pictures(root, photos, by_split=True)
    rows = [(f"{SHORT[photo.split]}/{photo.name}", text, photo.split) for photo, _, text in pairs(photos)]
    write_csv(root / "metadata.csv", ["file_name", "text", "split"], rows)
    return root


def columns(photos: Photos) -> dict[str, list[object]]:
    every = pairs(photos)
    return {
        "image": [{"bytes": photo.content, "path": photo.name} for photo, _, _ in every],
        "caption": [text for _, _, text in every],
        "licence": ["NC" if number % 2 else "BY" for number in range(len(every))],
    }


@layout("parquet")
def parquet(root: Path, photos: Photos) -> Path:
    import pyarrow
    import pyarrow.parquet

    (root / "data").mkdir()
    for split in SHORT:
        table = pyarrow.table(columns([photo for photo in photos if photo.split == split]))
        pyarrow.parquet.write_table(table, root / f"data/{split}-00000-of-00001.parquet", row_group_size=7)
    return root


@layout("arrow (save_to_disk)")
def arrow(root: Path, photos: Photos) -> Path:
    import datasets

    tables = {
        split: datasets.Dataset.from_dict(columns([photo for photo in photos if photo.split == split])).cast_column(
            "image", datasets.Image()
        )
        for split in SHORT
    }
    datasets.DatasetDict(tables).save_to_disk(str(root / "saved"))
    return root / "saved"


@layout("webdataset")
def webdataset(root: Path, photos: Photos) -> Path:
    number = 0
    for split, short in SHORT.items():
        with tarfile.open(root / f"{short}-000000.tar", "w") as tar:
            for photo, _, text in pairs([photo for photo in photos if photo.split == split]):
                for ending, content in (("jpg", photo.content), ("txt", text.encode()), ("json", b'{"licence": "NC"}')):
                    if content is None:
                        continue
                    member = tarfile.TarInfo(f"{number:08d}.{ending}")
                    member.size = len(content)
                    tar.addfile(member, io.BytesIO(content))
                number += 1
    return root


@layout("plain CSV")
def plain(root: Path, photos: Photos) -> Path:
    pictures(root / "images", photos)
    rows = [(f"images/{photo.name}", text, photo.split) for photo, _, text in pairs(photos)]
    return write_csv(root / "pairs.csv", ["image", "caption", "split"], rows)


@layout("JSON list")
def json_list(root: Path, photos: Photos) -> Path:
    pictures(root / "images", photos)
    rows = [{"image": photo.name, "captions": photo.captions, "split": photo.split} for photo in photos]
    (root / "data.json").write_text(json.dumps(rows))
    return root / "data.json"


@layout("JSON lines, one per pair")
def json_pairs(root: Path, photos: Photos) -> Path:
    pictures(root / "images", photos)
    rows = [{"img": photo.name, "txt": text, "split": photo.split} for photo, _, text in pairs(photos)]
    (root / "pairs.jsonl").write_text("\n".join(map(json.dumps, rows)))
    return root


@layout("img2dataset parquet and files", splits=False)
def img2dataset(root: Path, photos: Photos) -> Path:
    """LAION-style: a parquet file with the facts of downloaded files."""
    import pyarrow
    import pyarrow.parquet

    pictures(root / "00000", photos)
    every = pairs(photos)
    table = pyarrow.table(
        {
            "url": [f"https://example.org/{photo.name}" for photo, _, _ in every],
            "caption": [text for _, _, text in every],
            "file_name": [photo.name for photo, _, _ in every],
            "status": ["success"] * len(every),
        }
    )
    pyarrow.parquet.write_table(table, root / "00000.parquet")
    return root
