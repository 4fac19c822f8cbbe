"""Statements: an independent grammar is compared with the scenes."""

from __future__ import annotations

import re
import time
from collections import Counter
from itertools import combinations

import numpy as np
import pytest

from multidelete.data.dataset import Dataset
from multidelete.data.examples import SPLITS
from multidelete.data.synthetic.scenes import COLOURS, SHAPES, Scene, SceneObject, paint
from multidelete.data.synthetic.statements import ACROSS, MIX, Assertion, SceneStatements, draw_statements, statements
from multidelete.utils.errors import InputError
from test_scenes import SAME, seen_in

POSITIONS = {"": 0, "left": 0, "right": 1, "first": 0, "second": 1, "third": 2}
NUMBERS = {
    word: number
    for number, word in enumerate(
        "no one two three four five six seven eight nine ten eleven twelve".split()  # noqa: SIM905
    )
}
WHAT = r"(?P<what>[\w ]+?)"
PICTURE = r"the ?(?P<position>\w*) picture"
NUMBER = f"(?P<number>{'|'.join(NUMBERS)})"
EVERY = "(?:both|all|each) pictures?"
NO = r"(?:neither|no|none of the) pictures?"
# The first that fits counts.
GRAMMAR = [
    ("one", f"(?:exactly|only) one picture has {WHAT}"),
    ("more", rf"{PICTURE} has more {WHAT} than the (?P<other>\w+) one"),
    ("fewer", rf"{PICTURE} has fewer {WHAT} than the (?P<other>\w+) one"),
    ("more of", rf"{PICTURE} has more {WHAT} than (?P<rival>[\w ]+)"),
    ("fewer of", rf"there are fewer {WHAT} than (?P<rival>[\w ]+) in {PICTURE}"),
    ("total", f"there (?:is|are) {NUMBER} {WHAT} in all"),
    ("total", f"the pictures have {NUMBER} {WHAT} in all"),
    ("none", f"{NO} has {WHAT}"),
    ("none", f"there is no {WHAT} in (?:either|any) picture"),
    ("all", f"{EVERY} (?:has|have) {WHAT}"),
    ("all", f"there is {WHAT} in {EVERY}"),
    ("count", f"{PICTURE} has {NUMBER} {WHAT}"),
    ("count", f"there (?:is|are) {NUMBER} {WHAT} in {PICTURE}"),
    ("has", f"{PICTURE} has {WHAT}"),
    ("has", f"there is {WHAT} in {PICTURE}"),
    ("has", f"{WHAT} is in {PICTURE}"),
]


@pytest.fixture(scope="module")
def many() -> list[SceneStatements]:
    return draw_statements("train", 2000, seed=5)


def side_by_side(dataset: Dataset, size: int) -> np.ndarray:
    return dataset.images(size).reshape(len(dataset), -1, size, size, 3)


def number_of(what: str, scene: Scene) -> int:
    """How many objects of a scene fit words like "a red circle", "something red", "boxes", "object"."""
    words = re.sub("^(an?) ", "", what).split()
    singular = [re.sub("es$" if word in ("boxes", "crosses", "pluses", "rhombuses") else "s$", "", word)
                if word not in ("cross", "plus", "rhombus") else word for word in words]  # fmt: skip
    meant = [SAME.get(word, word) for word in singular]
    assert all(word in COLOURS or word in SHAPES or word in ("object", "thing", "something") for word in meant), what
    return sum(
        all(word in (thing.colour, thing.shape, "object", "thing", "something") for word in meant)
        for thing in scene.objects
    )


def true_of(text: str, pictured: tuple[Scene, ...]) -> tuple[str, bool]:
    """Which form a statement has, and whether it is true of these scenes."""
    matches = ((form, re.fullmatch(pattern, text)) for form, pattern in GRAMMAR)
    form, match = next((form, match) for form, match in matches if match)
    parts = match.groupdict()
    counts = [number_of(parts["what"], scene) for scene in pictured]
    here = counts[POSITIONS[parts["position"]]] if "position" in parts else 0
    if form == "more":
        return form, here > counts[POSITIONS[parts["other"]]]
    if form == "fewer":
        return form, here < counts[POSITIONS[parts["other"]]]
    if form.endswith("of"):
        rival = number_of(parts["rival"], pictured[POSITIONS[parts["position"]]])
        return form, here > rival if form == "more of" else here < rival
    return form, {
        "one": np.count_nonzero(counts) == 1,
        "total": sum(counts) == NUMBERS[parts.get("number", "no")],
        "none": not any(counts),
        "all": all(counts),
        "count": here == NUMBERS[parts.get("number", "no")],
        "has": here > 0,
    }[form]


@pytest.mark.parametrize("pictures", [1, 2, 3])
def test_labels_are_right(pictures: int) -> None:
    dataset = statements(train=300, validation=61, test=60, pictures=pictures, seed=7)
    assert dataset.classes == ("false", "true")
    forms = Counter[str]()
    for split, count in (("train", 300), ("validation", 61), ("test", 60)):
        for row, drawn_example in zip(dataset.rows(split), draw_statements(split, count, 7, pictures), strict=True):
            example = dataset.examples[row]
            assert (example.texts, example.labels) == (drawn_example.texts, drawn_example.labels)
            assert len(drawn_example.scenes) == pictures
            for text, label in zip(example.texts, example.labels, strict=True):
                form, is_true = true_of(text, drawn_example.scenes)
                assert label == ("true" if is_true else "false"), (example.id, text)
                forms[form] += 1
    assert set(forms) == {form for form, _ in GRAMMAR} - (set() if pictures > 1 else {*ACROSS, "fewer"})


def test_words_name_the_pictures_from_left_to_right() -> None:
    pictured = tuple(Scene((SceneObject(colour, "ring", 0, 0),)) for colour in ("red", "green", "blue"))
    assert Assertion("has", ("green", None), 1).holds(pictured)
    assert not Assertion("has", ("green", None), 2).holds(pictured)
    dataset = statements(train=200, validation=0, test=0, seed=3)
    checked = 0
    for images, example in zip(side_by_side(dataset, 48), dataset.examples, strict=True):
        for text, label in zip(example.texts, example.labels, strict=True):
            match = re.fullmatch(r"the (left|right) picture has an? (\w+) (?:object|thing)", text)
            if match:
                position, colour = (SAME.get(word, word) for word in match.groups())
                picture = images[POSITIONS[position]]
                result = {seen_in(picture, row, column) for row in range(3) for column in range(3)}
                assert (colour in result) == (label == "true"), (example.id, text)
                checked += 1
    assert checked > 20


def test_pictures_of_an_example_are_its_scenes_in_order() -> None:
    dataset = statements(train=7, validation=0, test=0, pictures=3)
    for images, drawn_example in zip(side_by_side(dataset, 48), draw_statements("train", 7, pictures=3), strict=True):
        np.testing.assert_array_equal(images, paint(drawn_example.scenes, 48))


@pytest.mark.parametrize(("pictures", "count"), [(1, 4), (2, 4), (3, 8), (1, 8), (2, 2)])
def test_a_pair_shares_its_statements_and_no_label(pictures: int, count: int) -> None:
    drawn = draw_statements("train", 60, pictures=pictures, statements=count)
    for one, other in zip(drawn[::2], drawn[1::2], strict=True):
        assert one.texts == other.texts
        assert len(set(one.texts)) == count
        assert all({mine, yours} == {"true", "false"} for mine, yours in zip(one.labels, other.labels, strict=True))
        assert one.labels.count("true") == count / 2
    assert len({drawn_example.labels for drawn_example in drawn}) > 1


@pytest.mark.parametrize("split", SPLITS)
def test_text_alone_is_at_chance_exactly(split: str) -> None:
    labels: dict[str, Counter[str]] = {}
    for drawn_example in draw_statements(split, 500):
        for text, label in zip(drawn_example.texts, drawn_example.labels, strict=True):
            labels.setdefault(text, Counter())[label] += 1
    # The words alone predict nothing.
    assert all(counts["true"] == counts["false"] for counts in labels.values())


def test_most_statements_are_about_what_is_there(many: list[SceneStatements]) -> None:
    kinds = Counter(assertion.kind for drawn_example in many for assertion in drawn_example.assertions)
    total = sum(kinds.values())
    assert sum(MIX.values()) == pytest.approx(1)
    for kind, share in MIX.items():
        # MIX is the frequency of attempts; some kinds fail more often than others.
        assert kinds[kind] / total == pytest.approx(share, abs=0.08)
    assert sum(kinds[kind] for kind in ("has", "lacks", "all", "none")) / total > 0.7
    alone = Counter(
        assertion.kind
        for drawn_example in draw_statements("train", 300, pictures=1)
        for assertion in drawn_example.assertions
    )
    assert set(alone) == set(MIX) - set(ACROSS)


def test_the_object_of_a_statement_is_often_in_the_wrong_picture(many: list[SceneStatements]) -> None:
    wrong = [
        any(thing.fits(*assertion.what) for thing in drawn_example.scenes[1 - assertion.picture].objects)
        for drawn_example in many
        for assertion, label in zip(drawn_example.assertions, drawn_example.labels, strict=True)
        if assertion.kind == "has" and label == "false"
    ]
    assert len(wrong) > 1000
    assert 0.15 < np.mean(wrong) < 0.7


def test_no_scene_occurs_twice_even_across_splits() -> None:
    keys = {
        split: [scene.key for drawn_example in draw_statements(split, 800) for scene in drawn_example.scenes]
        for split in SPLITS
    }
    for scene_keys in keys.values():
        assert len(set(scene_keys)) == 1600
    for one, other in combinations(SPLITS, 2):
        assert not set(keys[one]) & set(keys[other])


@pytest.mark.parametrize("odd", [4, 5])
def test_a_split_does_not_depend_on_any_count(odd: int) -> None:
    small, large = (
        statements(train=odd, validation=3, test=4, size=24),
        statements(train=40, validation=20, test=4, size=24),
    )
    for split in SPLITS:
        few, many = small.rows(split), large.rows(split)[: len(small.rows(split))]
        assert [small.examples[row] for row in few] == [large.examples[row] for row in many]
        np.testing.assert_array_equal(side_by_side(small, 24)[few], side_by_side(large, 24)[many])
    assert small.examples[2].id == "train-00002"


def test_same_seed_same_statements() -> None:
    one, same, other = (statements(train=20, validation=2, test=2, seed=seed) for seed in (3, 3, 4))
    assert one.hash == same.hash
    assert [example.texts for example in one.examples] != [example.texts for example in other.examples]


@pytest.mark.parametrize("pictures", [1, 2, 3])
def test_shape_of_a_dataset(pictures: int) -> None:
    dataset = statements(train=6, validation=2, test=3, pictures=pictures, size=20)
    assert dataset.images_per_example == pictures
    assert side_by_side(dataset, 20).shape == (11, pictures, 20, 20, 3)


def test_four_thousand_examples_take_seconds() -> None:
    start = time.process_time()
    assert len(statements(train=4000, validation=0, test=0)) == 4000
    assert time.process_time() - start < 30  # about two seconds; a slow and busy machine may take longer


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"train": 0}, "statements expects 'train' to be an integer of at least 1, got 0"),
        ({"size": 8}, "statements expects 'size' to be an integer of at least 16, got 8"),
        ({"pictures": 0}, "statements expects 'pictures' to be an integer of at least 1, got 0"),
        ({"pictures": 4}, "statements expects 'pictures' to be 1, 2 or 3, got 4"),
        ({"statements": 1}, "statements expects 'statements' to be an integer of at least 2, got 1"),
        (
            {"statements": 5},
            "statements expects 'statements' to be an even number up to 8, so that half are true, got 5",
        ),
        (
            {"statements": 10},
            "statements expects 'statements' to be an even number up to 8, so that half are true, got 10",
        ),
    ],
)
def test_bad_option(options: dict[str, int], message: str) -> None:
    with pytest.raises(InputError, match=message):
        statements(**options)
