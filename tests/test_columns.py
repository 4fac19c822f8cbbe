"""Examples as columns: what goes in comes out, in little memory."""

from __future__ import annotations

import gc
import io
import json
import tarfile
import tracemalloc
from pathlib import Path

import pytest
from PIL import Image

from multidelete.data.columns import Examples, Facts, Strings
from multidelete.data.examples import Example
from multidelete.data.images import ImageFacts
from multidelete.data.readers import located, read

EXAMPLES = [
    Example("a", "train", ("one", "two"), ("a.png",), metadata={"licence": "NC", "year": (2014, None)}, group="g"),
    Example("b", "validation", ("three",), ("b/1.png", "b/2.png"), ("yes",), panels=3, source="b.csv, line 2"),
    Example("ü", "train", ("", "naïve 🙂"), nodes=("x", "y"), text_ids=("t1", "t2"), positions=(5, 1), aliases=("c",)),
    Example("d", "test", ("one",), metadata={"year": 2014, "part": True}),
    Example("e", "test", ("one",), metadata={"part": 1}),
]


def test_examples_come_out_as_they_went_in() -> None:
    examples = Examples(iter(EXAMPLES))
    assert list(examples) == EXAMPLES
    assert examples == EXAMPLES
    assert [example.source for example in examples] == [example.source for example in EXAMPLES]
    assert (examples[-1], examples[1:3]) == (EXAMPLES[-1], tuple(EXAMPLES[1:3]))
    assert examples[3].metadata["part"] is True  # not the equal 1
    assert examples.text_ends.tolist() == [0, 2, 3, 5, 6, 7]
    assert list(examples.texts) == [text for example in EXAMPLES for text in example.texts]
    assert examples != EXAMPLES[:-1]
    with pytest.raises(IndexError):
        examples[5]
    assert not Examples([])


def test_strings() -> None:
    strings = Strings(["a", "", "ü🙂", "\ud800"])
    strings.freeze()
    assert (len(strings), strings[2], strings[-1], strings[1:3]) == (4, "ü🙂", "\ud800", ("", "ü🙂"))
    assert strings == ["a", "", "ü🙂", "\ud800"]
    assert strings == Strings(iter(strings))
    assert strings != ["a"]
    assert "ü🙂" in strings


def test_facts_of_images() -> None:
    facts = [ImageFacts("ab" * 32, (), 7), ImageFacts("00" * 32, ("put_on_white",), 2**64 - 1)]
    assert list(Facts(facts)) == facts
    assert Facts(facts)[1:] == facts[1:]


def test_a_large_collection_takes_less_than_200_bytes_for_each_pair(tmp_path: Path) -> None:
    content = io.BytesIO()
    Image.new("L", (8, 8)).save(content, "PNG")
    number, texts = 4_000, 5
    with tarfile.open(tmp_path / "train-000000.tar", "w") as tar:
        for row in range(number):
            captions = [f"{row:5d} {each}: a man in a red shirt walks with his dog, slowly" for each in range(texts)]
            picture = content.getvalue() + row.to_bytes(4, "big")  # other bytes, the same picture
            for ending, part in (("png", picture), ("json", json.dumps({"captions": captions}).encode())):
                member = tarfile.TarInfo(f"{row:08d}.{ending}")
                member.size = len(part)
                tar.addfile(member, io.BytesIO(part))
    options = located(tmp_path)
    read(**options)  # what is loaded once does not count
    tracemalloc.start()
    dataset = read(**options)
    gc.collect()
    live, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert len(dataset.texts) == number * texts
    assert live / len(dataset.texts) < 200
