"""What must go: every way to name pairs, conditions on metadata, and single texts of a picture that stays."""

from __future__ import annotations

import io
import json
import unicodedata
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

import multidelete
import tiny
from multidelete import InputError, MultiDelete, NegGrad
from multidelete.cli.app import app
from multidelete.data.batches import PairInputs
from multidelete.data.dataset import Dataset
from multidelete.data.examples import Example
from multidelete.data.requests import Request, resolve
from multidelete.data.samplers import ForgetRetainStream
from multidelete.data.stores import Memory
from multidelete.judgement.verify import verify

CAFE = unicodedata.normalize("NFC", "café 1.jpg")


def make() -> Dataset:
    """Twelve training pictures with three captions each, two of test and validation; the first is ``a/café 1.jpg``."""
    names = [f"a/{CAFE}", "a/two.jpg", "b/three.jpg", "b/same.jpg", "c/same.jpg", *(f"d/{n}.jpg" for n in range(7))]
    examples = [
        Example(
            name if "same" in name else name.split("/")[1],
            "train",
            tuple(f"{name} text {k}" for k in range(3)),
            (name,),
            text_ids=tuple(f"c{row}{k}" for k in range(3)),
            metadata={"person": f"P{row % 3}", "year": str(2010 + row), "licence": ("NC", "BY", "NC")},
        )
        for row, name in enumerate(names)
    ]
    examples += [
        Example(f"{split}-{n}", split, ("words",), (f"x/{split}-{n}.jpg",))
        for split in ("validation", "test")
        for n in (0, 1)
    ]
    contents = {example.images[0]: picture(row) for row, example in enumerate(examples)}
    return Dataset("photos", examples, root=Memory(contents))


def picture(number: int) -> bytes:
    content = io.BytesIO()
    Image.new("RGB", (4, 4), (number, 0, 0)).save(content, "PNG")
    return content.getvalue()


DATASET = make()
FIRST, SECOND = [0, 1, 2], [3, 4, 5]

NAMED = {
    "id": (["two.jpg"], SECOND),
    "two ids": (["two.jpg", CAFE], SECOND + FIRST),
    "path": (["a/two.jpg"], SECOND),
    "longer path": (["/data/photos/a/two.jpg"], SECOND),
    "relative path": (["./a/two.jpg"], SECOND),
    "path of Windows": (["photos\\a\\two.jpg"], SECOND),
    "name without ending": (["two"], SECOND),
    "URL": (["https://example.org/photos/a/two.jpg?width=200"], SECOND),
    "URL-coded": (["caf%C3%A9%201.jpg"], FIRST),
    "NFC": ([CAFE], FIRST),
    "NFD": ([unicodedata.normalize("NFD", CAFE)], FIRST),
    "id of a text": (["c11"], [4]),
    "ids of texts": (["c11", "c00"], [4, 0]),
    "numbered text": (["two.jpg#2"], [5]),
    "numbered text by path": (["a/two.jpg#2"], [5]),
    "all texts": (["two.jpg#0", "two.jpg#2", "two.jpg#1"], [3, 5, 4]),
    "image and text": ([("two.jpg", "a/two.jpg text 1")], [4]),
    "image and text by path": ([("/x/a/two.jpg", "  a/two.jpg  text 1 ")], [4]),
    "record": ([{"image": "two.jpg", "caption": "a/two.jpg text 1"}], [4]),
    "record with an id": ([{"id": "c11", "note": "by mail"}], [4]),
    "same file name in two folders": (["c/same.jpg"], [12, 13, 14]),
    "commas": ("two.jpg, c00", [*SECOND, 0]),
    "one name": ("two.jpg", SECOND),
    "text file": ("f.txt:# by mail\ntwo.jpg\n\nc00  # too\n", [*SECOND, 0]),
    "text file with texts": ("f.txt:two.jpg\ta/two.jpg text 1\n", [4]),
    "Flickr8k tokens": ("f.txt:two.jpg#1\ta/two.jpg text 1\n", [4]),
    "CSV": ("f.csv:image,caption\ntwo.jpg,a/two.jpg text 1\n", [4]),
    "CSV of images": ("f.csv:image,reason\ntwo.jpg,mail\n", SECOND),
    "CSV with one column": ("f.csv:id\nc11\n", [4]),
    "JSON": ('f.json:["two.jpg", "c00"]', [*SECOND, 0]),
    "JSON with a list": ('f.json:{"ids": ["two.jpg"], "by": "mail"}', SECOND),
    "JSON lines": ('f.jsonl:{"file_name": "two.jpg"}\n{"id": "c00"}\n', [*SECOND, 0]),
}


@pytest.mark.parametrize("way", NAMED)
def test_named(way: str, tmp_path: Path) -> None:
    given, rows = NAMED[way]
    assert len(NAMED) >= 30
    assert resolve(DATASET, ids=_written(given, tmp_path)).forget_pairs.tolist() == rows


def _written(given: object, folder: Path) -> object:
    if not isinstance(given, str) or not given.startswith("f."):
        return given
    name, _, content = given.partition(":")
    (folder / name).write_text(content)
    return str(folder / name)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (
            "tow.jpg",
            "there is no file tow.jpg (a text file with one id per line), and 'tow.jpg' is not in the training split",
        ),
        (["same.jpg"], "'same.jpg' may be any of 2 examples ('b/same.jpg', 'c/same.jpg', ...); use the id"),
        (["test-0"], "'test-0' is in the test split; only examples of the training split can be forgotten"),
        (["x/test-0.jpg"], "'test-0' is in the test split"),
        (["two.jpg#7"], "'two.jpg' has no text 7; it has 3, numbered from 0"),
        ([("two.jpg", "a/two.jpg txt 1")], "'two.jpg' has no text 'a/two.jpg txt 1'; did you mean 'a/two.jpg text 1'?"),
        ([{"note": "x", "by": "y"}], "ids, entry 1: it names neither an id nor an image; it has note, by; name the"),
        ("f.csv:image,caption\ntwo.jpg\n", "f.csv, line 2: expected 2 columns"),
        ("f.json:3", "f.json has no list of names; expected a list, got a number"),
        ("f.json:[", "f.json is not valid JSON"),
    ],
)
def test_refused(given: object, message: str, tmp_path: Path) -> None:
    with pytest.raises(InputError) as caught:
        resolve(DATASET, ids=_written(given, tmp_path))
    assert message in str(caught.value)


def test_repeated_names_are_merged_and_reported() -> None:
    request = resolve(DATASET, ids=["two.jpg", "c11", "a/two.jpg"])
    assert request.forget_pairs.tolist() == SECOND
    assert request.ids == ("two.jpg",)
    assert request.notes == (
        "ids, entry 2: 'c11' was already named in entry 1",
        "ids, entry 3: 'a/two.jpg' was already named in entry 1",
    )


def test_a_column_of_a_table(tmp_path: Path) -> None:
    (tmp_path / "f.csv").write_text("mail,picture\n1,two.jpg\n")
    assert resolve(DATASET, ids=tmp_path / "f.csv", column="picture").ids == ("two.jpg",)
    with pytest.raises(InputError, match="there is no column 'pictrue'; it has mail, picture; did you mean 'picture'"):
        resolve(DATASET, ids=tmp_path / "f.csv", column="pictrue")


@pytest.mark.parametrize(
    ("condition", "count"),
    [
        ('licence == "NC"', 24),
        ('licence == "NC" and year < 2012', 4),
        ('not licence == "NC" or person == "P0"', 12 + 8),
        ("2011 <= year <= 2012", 6),
        ('person in ("P0", "P1")', 24),
        ('"text 1" in text', 12),
        ('id == "two.jpg"', 3),
        ("year != 2010 and year != 2011", 30),
    ],
)
def test_conditions(condition: str, count: int) -> None:
    assert len(resolve(DATASET, where=condition).forget_pairs) == count


@pytest.mark.parametrize(
    ("condition", "message"),
    [
        ("licence = 'NC'", "cannot be read; expected a condition such as"),
        ("__import__('os').system('true')", "cannot be read at \"__import__('os').system('true')\""),
        ("year < [x for x in (1, 2)][0]", "cannot be read at '[x for x in (1, 2)][0]'"),
        ("yaer < 2012", "names 'yaer', which the data do not have; expected one of"),
        ("year is 2012", "compares with 'is'; use == or !="),
        ("year > 2050", "no training pair fulfils the condition 'year > 2050'"),
        ("", "cannot be read"),
        ("(" * 5000, "cannot be read"),
    ],
)
def test_wrong_conditions(condition: str, message: str) -> None:
    with pytest.raises(InputError) as caught:
        resolve(DATASET, where=condition)
    assert message in str(caught.value)


def test_groups() -> None:
    assert len(resolve(DATASET, group="person=P1").forget) == 4
    assert len(resolve(DATASET, group=["person=P1", "licence=BY"]).forget_pairs) == 12 + 8
    with pytest.raises(InputError, match=r"no training pair has person = 'P9'"):
        resolve(DATASET, group="person=P9")
    with pytest.raises(InputError, match=r"the data have no 'preson'; .*; did you mean 'person'"):
        resolve(DATASET, group="preson=P1")


def test_row_numbers_as_published(tmp_path: Path) -> None:
    (tmp_path / "nlvr2.txt").write_text("5\n3\n20\n")
    assert resolve(DATASET, rows=tmp_path / "nlvr2.txt").forget_pairs.tolist() == [5, 3, 20]
    assert resolve(DATASET, rows=[5, 3, 20], count=2).forget_pairs.tolist() == [5, 3]
    with pytest.raises(InputError, match=r"rows, line 2: '99' is no number of a training pair; expected 0 to 35"):
        resolve(DATASET, rows=[5, 99])


def test_single_pairs_are_sampled_of_different_examples() -> None:
    large = resolve(DATASET, pairs=8, seed=1)
    assert len(large.forget) == len(large.forget_pairs) == 8
    assert resolve(DATASET, pairs=3, seed=1).ids == large.ids[:3]
    assert not large.complete
    assert all("#" in name for name in large.ids)


def test_one_text_of_a_picture() -> None:
    request = resolve(DATASET, ids=["two.jpg#1"])
    assert (request.ids, request.complete) == (("two.jpg#1",), False)
    assert request.forget.tolist() == [1]
    assert 1 in request.retain
    assert request.near_misses.tolist() == [3, 5]
    assert resolve(DATASET, ids=list(request.ids)).hash == request.hash != resolve(DATASET, ids=["two.jpg"]).hash


def test_a_text_of_two_pictures() -> None:
    examples = [
        *(Example(f"{n}.jpg", "train", ("a dog", f"text {n}"), (f"{n}.jpg",)) for n in range(4)),
        Example("copy.jpg", "train", ("another text",), ("0.jpg",)),
    ]
    dataset = Dataset("dogs", examples, root=Memory({f"{n}.jpg": picture(n) for n in range(4)}))
    request = resolve(dataset, ids=["0.jpg#0"])
    assert request.near_misses.tolist() == [1, 2, 4, 6, 8]  # the picture's other texts, its copy's, the same text
    with pytest.raises(InputError, match="is the same image file; delete both, or name single pairs"):
        resolve(dataset, ids=["0.jpg"])


def one_text(task: str) -> Request:
    dataset = tiny.dataset_for(task)
    rows = dataset.rows("train")
    several = [row for row in rows.tolist() if dataset.text_counts[row] > 1][:3]
    return resolve(dataset, ids=[f"{dataset.examples[row].id}#1" for row in several])


def test_mismatched_pairs_never_use_another_text_of_the_picture() -> None:
    request = one_text("retrieval")
    data, model = request.dataset, tiny.original("albef")
    stream = ForgetRetainStream(
        PairInputs.of(data, model), request.forget_pairs, request.retain_pairs, 8, 4, 0.5, 0, request.near_misses, 0.5
    )
    for step in range(40):
        rows = stream.mismatched_rows(16, step, "target")
        assert not (rows["vision"] == data.text_examples[rows["text"]]).any()
        assert np.isin(rows["text"], request.retain_pairs).all()
        _, retain = stream.at(step, tiny.engine().device)
        assert np.isin(retain.rows["text"].numpy(), request.retain_pairs).all()
        assert np.isin(retain.rows["text"].numpy(), request.near_misses).any()


def test_a_run_that_deletes_single_texts(tmp_path: Path) -> None:
    model = tiny.original("albef")
    request = one_text("retrieval")
    method = MultiDelete(stop="lowest", epochs=1, min_steps=2, evaluations=1)
    outcome = multidelete.unlearn(
        model,
        request.dataset,
        list(request.ids),
        method,
        compare=[NegGrad(epochs=1, min_steps=2, evaluations=0)],
        out=tmp_path / "run",
        engine=tiny.engine(),
    )
    assert outcome.request.ids == request.ids
    assert all("near_miss_score" in row["metrics"] for row in outcome.rows)
    record = json.loads((tmp_path / "run/deletion.json").read_text())
    assert record["deleted"]["ids"] == list(request.ids)
    assert record["deleted"]["what"] == "single texts"
    assert "near_miss_score" in record["findings"]["numbers"]["after"]
    failed = [check for check in verify(tmp_path / "run") if check.holds is False]
    assert not failed, failed
    assert "pairs deleted" in repr(outcome)


def smooth(seed: int, size: int, kind: str = "PNG", **options: int) -> bytes:
    """The same picture in any size and format."""
    small = np.random.default_rng(seed).integers(0, 255, (6, 6, 3), dtype=np.uint8)
    content = io.BytesIO()
    Image.fromarray(small).resize((96, 96), Image.Resampling.BICUBIC).resize((size, size)).save(
        content, kind, **options
    )
    return content.getvalue()


def test_copies_of_deleted_pictures_are_found_in_all_splits(tmp_path: Path) -> None:
    files = {
        **{f"{n}.png": smooth(n, 96) for n in range(5)},
        "leak.png": smooth(0, 96),
        "small.jpg": smooth(1, 64, "JPEG", quality=60),
        "other.png": smooth(9, 96),
    }
    for name, content in files.items():
        (tmp_path / name).write_bytes(content)
    splits = {"leak.png": "test", "other.png": "test"}
    examples = [Example(name, splits.get(name, "train"), ("words",), (name,)) for name in files]
    lines = ["image,text,split", *(f"{example.id},words,{example.split}" for example in examples)]
    (tmp_path / "pairs.csv").write_text("\n".join(lines))
    ended = CliRunner().invoke(app, ["check", "--data", str(tmp_path / "pairs.csv"), "--forget", "0.png,1.png"])
    assert ended.exit_code == 0, ended.output
    assert "forget 2 pairs of 2 examples, retain 4 pairs of 4 examples" in ended.output
    assert "near misses: 4 kept pairs" in ended.output  # of the same text
    assert "1 copies of deleted pictures are in the test split" in ended.output
    assert "('0.png' and 'leak.png' (test))" in ended.output
    assert "1 pictures look like deleted ones" in ended.output
    assert "('1.png' and 'small.jpg' (train))" in ended.output


@pytest.mark.parametrize(
    ("text", "other"), [("7", "--forget-count=7"), ("007", "--forget-count=7"), ("0.5", "--forget-fraction=0.5")]
)
def test_a_number_that_is_also_an_id_is_refused(text: str, other: str, tmp_path: Path) -> None:
    rows = [(f"{n}.png", "words", text if n == 0 else f"x{n}") for n in range(20)]
    for name, *_ in rows:
        (tmp_path / name).write_bytes(smooth(int(name[:-4]), 32))
    (tmp_path / "pairs.csv").write_text("\n".join(["image,text,id", *map(",".join, rows)]))
    command = ["check", "--data", str(tmp_path / "pairs.csv")]
    ended = CliRunner().invoke(app, [*command, "--forget", text])
    assert isinstance(ended.exception, InputError)
    assert f"--forget {text} is ambiguous: {text!r} is also an id" in str(ended.exception)
    assert "of 7 examples" in CliRunner().invoke(app, [*command, "--forget-count=7"]).output
    assert CliRunner().invoke(app, [*command, other]).exit_code == 0


def test_texts_of_a_picture_that_are_deleted_one_after_another(tmp_path: Path) -> None:
    request = one_text("retrieval")
    row = int(request.forget[0])
    name, count = request.dataset.examples[row].id, int(request.dataset.text_counts[row])
    earlier = [f"{name}#{number}" for number in range(count - 1)]
    given = {"ids": [f"{name}#{count - 1}"], "earlier": earlier}
    last = resolve(request.dataset, **given)
    assert last.all_ids == (*earlier, f"{name}#{count - 1}")
    assert row not in last.retain
    method = MultiDelete(stop="lowest", epochs=1, min_steps=2, evaluations=1)
    multidelete.unlearn(tiny.original("albef"), request.dataset, given, method, out=tmp_path / "run")
    record = json.loads((tmp_path / "run/deletion.json").read_text())["deleted"]
    assert (record["ids"], record["earlier"]) == (given["ids"], earlier)
    assert [check for check in verify(tmp_path / "run") if check.holds is False] == []
