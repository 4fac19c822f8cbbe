from __future__ import annotations

import hashlib
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest

from multidelete.data.dataset import Dataset
from multidelete.data.examples import Example
from multidelete.data.requests import resolve
from multidelete.utils.errors import InputError


def make(train: int = 20, copies: dict[int, int] | None = None) -> Dataset:
    """Examples photo-000.jpg ..., a test and a validation one after every ten; ``copies`` maps a row to its twin."""
    splits = []
    for number in range(train):
        splits.append("train")
        if number % 10 == 9:
            splits += ["test", "validation"]
    examples = [Example(f"photo-{row:03d}.jpg", split, ("words",)) for row, split in enumerate(splits)]
    pixels = np.arange(len(examples), dtype=np.uint16).view(np.uint8).reshape(-1, 2, 1, 1)
    pixels = np.broadcast_to(pixels, (len(examples), 2, 2, 3)).copy()
    for row, twin in (copies or {}).items():
        pixels[row] = pixels[twin]
    return Dataset("photos", examples, pixels=pixels)


DATASET = make()
LAST = [example.id for example in DATASET.examples if example.split == "train"][1:]


def test_ids_cut_the_training_split() -> None:
    request = resolve(DATASET, ids=["photo-005.jpg", "photo-001.jpg"])
    assert request.forget.tolist() == [5, 1]
    assert request.ids == ("photo-005.jpg", "photo-001.jpg")
    assert request.retain.tolist() == [0, 2, 3, 4, 6, 7, 8, 9, *range(12, 22)]
    assert request.test.tolist() == [10, 22]
    assert request.validation.tolist() == [11, 23]
    assert request.dataset is DATASET


def test_hash_is_that_of_the_sorted_ids() -> None:
    one = resolve(DATASET, ids=["photo-005.jpg", "photo-001.jpg"])
    assert one.hash == hashlib.sha256(b"photo-001.jpg\nphoto-005.jpg\n").hexdigest()
    assert one.hash == resolve(DATASET, ids=["photo-001.jpg", "photo-005.jpg"]).hash
    assert one.hash != resolve(DATASET, ids=["photo-001.jpg"]).hash


@pytest.mark.parametrize("as_text", [True, False])
def test_ids_from_a_file(tmp_path: Path, as_text: bool) -> None:
    path = tmp_path / "forget.txt"
    path.write_bytes(b"\xef\xbb\xbf# by mail\r\n\r\n  photo-003.jpg \r\nphoto-001.jpg  # too\r\n\r\n#photo-002.jpg")
    request = resolve(DATASET, ids=str(path) if as_text else path)
    assert request.ids == ("photo-003.jpg", "photo-001.jpg")


def test_an_id_may_hold_the_comment_sign(tmp_path: Path) -> None:
    examples = [Example(name, "train", ("words",)) for name in ("a #1", "a", "b#2", "c", "d")]
    pixels = np.arange(5, dtype=np.uint8)[:, None, None, None].repeat(3, axis=3)
    (tmp_path / "forget.txt").write_text("a #1\nb#2\n")
    assert resolve(Dataset("odd", examples, pixels=pixels), ids=tmp_path / "forget.txt").ids == ("a #1", "b#2")


def test_samples_are_nested_and_seeded() -> None:
    large = resolve(DATASET, count=12, seed=3)
    for count in range(1, 12):
        assert resolve(DATASET, count=count, seed=3).ids == large.ids[:count]
    assert len(set(large.ids)) == 12
    assert set(large.forget) | set(large.retain) == set(DATASET.rows("train"))
    assert not set(large.forget) & set(large.retain)
    assert set(large.ids) != set(resolve(DATASET, count=12, seed=4).ids)
    assert resolve(DATASET, fraction=0.25, seed=3).ids == large.ids[:5]


def test_copies_of_an_image_are_drawn_together() -> None:
    dataset = make(copies={2: 7, 15: 7, 10: 3})  # row 10 is in the test split: copies there are left alone
    for seed in range(10):
        previous: tuple[str, ...] = ()
        for count in range(1, 18):
            request = resolve(dataset, count=count, seed=seed)
            drawn = set(request.forget.tolist())
            assert drawn & {2, 7, 15} in (set(), {2, 7, 15})
            assert count <= len(drawn) <= count + 2
            assert len(drawn) == len(request.forget)
            assert request.ids[: len(previous)] == previous
            previous = request.ids
    assert resolve(dataset, ids=["photo-003.jpg"]).forget.tolist() == [3]


def test_a_copy_on_the_other_side_of_the_cut() -> None:
    dataset = make(copies={2: 7, 15: 7})
    message = (
        "ids names 'photo-007.jpg' but not 'photo-002.jpg', which is the same image file; delete both, or name single"
    )
    with pytest.raises(InputError, match=rf"{message} pairs \(ID#0\)\nids names .* but not 'photo-015.jpg', which"):
        resolve(dataset, ids=["photo-007.jpg", "photo-001.jpg"])
    assert len(resolve(dataset, ids=["photo-007.jpg", "photo-002.jpg", "photo-015.jpg"]).forget) == 3


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "forget.txt names no ids; expected at least one example to forget"),
        (b"# nothing yet\n\n", "forget.txt names no ids"),
        (b"caf\xe9.jpg\n", "forget.txt is not UTF-8; save it as a UTF-8 text file"),
        ("photo-001.jpg".encode("utf-16"), "forget.txt is not UTF-8"),
        (
            b"photo-001.jpg\n\nphot-003.jpg\n",
            "forget.txt, line 3: 'phot-003.jpg' is not in the training split; did you mean 'photo-003.jpg'?",
        ),
        (
            b"zzz\nphoto-001.jpg\nyyy\n",
            "forget.txt, line 1: 'zzz' is not in the training split\nforget.txt, line 3: 'yyy' is not in the training",
        ),
        (
            b"photo-010.jpg\n",
            "forget.txt, line 1: 'photo-010.jpg' is in the test split; only examples of the training split",
        ),
        (b"photo-011.jpg\n", "forget.txt, line 1: 'photo-011.jpg' is in the validation split"),
        (
            "\n".join(["photo-000.jpg", *LAST]).encode(),
            "forget.txt names 20 of 20 images: nothing would be left to retain",
        ),
        (
            "\n".join(LAST).encode(),
            "forget.txt names 19 of 20 images: one would be left to retain, but mismatched pairs need",
        ),
    ],
)
def test_bad_file(tmp_path: Path, content: bytes, message: str) -> None:
    (tmp_path / "forget.txt").write_bytes(content)
    with pytest.raises(InputError) as caught:
        resolve(DATASET, ids=tmp_path / "forget.txt")
    assert message in str(caught.value)


def test_file_that_is_none(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"there is no file .*forget\.txt; expected a text file with one id per line"):
        resolve(DATASET, ids=tmp_path / "forget.txt")
    with pytest.raises(InputError, match="is a folder; expected a text file with one id per line"):
        resolve(DATASET, ids=str(tmp_path))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({}, "exactly one of ids, group, where, rows, count, fraction, pairs; got none"),
        ({"count": 3, "fraction": 0.1}, "fraction, pairs; got count and fraction"),
        ({"ids": []}, "ids names no ids"),
        ({"ids": ["photo-001.jpg", "zzz"]}, "ids, entry 2: 'zzz' is not in the training split"),
        ({"ids": ["photo-001.jpg", 3.5]}, "ids, entry 2: expected an id as a string, or (image, text), got 3.5"),
        ({"ids": ["photo-001.jpg", ()]}, "ids, entry 2: expected an id as a string, or (image, text), got ()"),
        ({"ids": 3}, "ids: expected a list of ids or the path of a file, got 3"),
        ({"count": 0}, "count = 0 is too small; expected at least one example to forget"),
        ({"count": -3}, "count = -3 is too small"),
        ({"count": 21}, "count = 21 is too large; the training split has 20 examples"),
        ({"count": 20}, "count = 20 takes 20 of 20 images: nothing would be left to retain"),
        ({"count": 19}, "count = 19 takes 19 of 20 images: one would be left to retain"),
        ({"count": 2.5}, "count = 2.5 is not an integer"),
        ({"count": True}, "count = True is not an integer"),
        ({"fraction": 0.0}, "fraction = 0.0 is not between 0 and 1"),
        ({"fraction": 1.0}, "fraction = 1.0 is not between 0 and 1"),
        ({"fraction": float("nan")}, "fraction = nan is not between 0 and 1"),
        ({"fraction": "0.1"}, "fraction = '0.1' is not between 0 and 1"),
        ({"fraction": 0.01}, "fraction = 0.01 of 20 examples rounds to none"),
        ({"fraction": 0.99}, "fraction = 0.99 takes 20 of 20 images: nothing would be left to retain"),
        ({"count": 3, "seed": -1}, "the seed of a deletion request is an integer of at least 0, got -1"),
    ],
)
def test_bad_arguments(arguments: dict[str, object], message: str) -> None:
    with pytest.raises(InputError) as caught:
        resolve(DATASET, **arguments)  # type: ignore[arg-type]
    assert message in str(caught.value)


def test_many_unknown_ids_are_refused_at_once() -> None:
    # Looking for the closest id takes milliseconds: once per wrong id, it would take minutes.
    dataset = make(train=2000)
    with pytest.raises(InputError, match="and 9,990 more wrong entries"):
        resolve(dataset, ids=[f"foto-{number}.jpg" for number in range(10_000)])


# -- one request after another ------------------------------------------------------------------------------------


@pytest.mark.parametrize("given", [{"count": 7, "seed": 3}, {"ids": LAST[:7]}])
def test_parts_are_the_request_in_its_order(given: dict[str, object]) -> None:
    all_parts = resolve(DATASET, **given)  # type: ignore[arg-type]
    parts = [resolve(DATASET, part=(i, 3), **given) for i in (1, 2, 3)]  # type: ignore[arg-type]
    assert np.concatenate([part.forget for part in parts]).tolist() == all_parts.forget.tolist()
    assert [len(part.forget) for part in parts] == [3, 2, 2]
    for before, part in pairwise(parts):
        assert part.earlier.tolist() == before.with_earlier().forget.tolist()
        assert not np.isin(part.retain, part.earlier).any()  # deleted examples are not trained on again
    assert parts[-1].retain.tolist() == all_parts.retain.tolist()
    assert parts[-1].hash == all_parts.hash
    assert len({part.hash for part in parts}) == 3


def test_copies_stay_in_one_part() -> None:
    dataset = make(copies={row + 1: row for row in range(0, 8, 2)})
    parts = [resolve(dataset, count=8, seed=1, part=(i, 4)) for i in range(1, 5)]
    digests = dataset.image_digests()
    for i, part in enumerate(parts):
        rest = {digests[row] for other in parts[i + 1 :] for row in other.forget}
        assert not rest & {digests[row] for row in part.forget}


def test_what_was_deleted_earlier_is_in_neither_part(tmp_path: Path) -> None:
    (tmp_path / "first.txt").write_text("photo-003.jpg\nphoto-001.jpg\n")
    request = resolve(DATASET, ids=["photo-005.jpg"], earlier=tmp_path / "first.txt")
    assert (request.ids, request.with_earlier().ids) == (
        ("photo-005.jpg",),
        ("photo-003.jpg", "photo-001.jpg", "photo-005.jpg"),
    )
    assert not {1, 3, 5} & set(request.retain.tolist())
    assert request.hash == resolve(DATASET, ids=["photo-001.jpg", "photo-003.jpg", "photo-005.jpg"]).hash
    drawn = resolve(DATASET, count=17, earlier=["photo-001.jpg"])
    assert 1 not in drawn.forget
    assert len(drawn.retain) == 2


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (
            {"count": 4, "part": (0, 2)},
            "part = [0, 2] is not a part of a request; expected [2, 5] for the second of five",
        ),
        ({"count": 4, "part": (3, 2)}, "part = [3, 2] is not a part"),
        ({"count": 4, "part": (1, 5)}, "part = [1, 5]: 4 examples cannot be deleted in 5 parts; use fewer"),
        (
            {"ids": ["photo-001.jpg"], "earlier": ["photo-001.jpg"]},
            "ids names 'photo-001.jpg', which was deleted earlier",
        ),
        (
            {"count": 4, "earlier": ["photo-01.jpg"]},
            "earlier, entry 1: 'photo-01.jpg' is not in the training split; did",
        ),
        ({"count": 19, "earlier": ["photo-001.jpg"]}, "nothing would be left to retain"),
    ],
)
def test_bad_requests_one_after_another(given: dict[str, object], message: str) -> None:
    with pytest.raises(InputError) as caught:
        resolve(DATASET, **given)  # type: ignore[arg-type]
    assert message in str(caught.value)
